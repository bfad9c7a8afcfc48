alter table cancellations drop constraint cancellations_moved_all_or_nothing;
update payments p set canceled_amount = p.amount
where status = 'canceled' and approved_amount is null
    and exists (select 1 from cancellations c where c.payment_id = p.id and c.status = 'done');
alter table cancellations drop moved_amount;
