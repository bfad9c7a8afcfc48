select 'payment ' || p.id as id, p.order_id as subject, p.inquire_at is null as broken
from payments p
where {in p.order_id} and p.status in ('confirming', 'awaiting_deposit')
union all
select 'cancellation ' || c.id, c.order_id, c.inquire_at is null
from cancellations c
where {in c.order_id} and c.status = 'requested'
