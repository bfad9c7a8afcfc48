drop index cancellations_by_time;
drop index payments_by_approval;
drop table reconciliations;
drop table finding_history;
drop table findings;
