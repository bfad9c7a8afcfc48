-- What a cancellation really gave back: its amount, or nothing where it closed a virtual account before any deposit.
alter table cancellations add moved_amount bigint;

-- Closed accounts were booked as if money had gone back.
update cancellations c
set moved_amount = case when p.approved_amount is null then 0 else c.amount end
from payments p
where p.id = c.payment_id and c.status = 'done';
update payments set canceled_amount = 0
where status = 'canceled' and approved_amount is null;

alter table cancellations add constraint cancellations_moved_all_or_nothing check (
    (status = 'done') = (moved_amount is not null) and moved_amount in (0, amount));
