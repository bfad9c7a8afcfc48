drop table sales_progress;
drop table sales;
alter table stock reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
alter table events reset (autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
alter table orders reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
alter table order_items reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
alter table payments reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
alter table cancellations reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
alter table idempotency_keys reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
alter table webhook_inbox reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_insert_scale_factor);
drop index idempotency_keys_in_progress;
