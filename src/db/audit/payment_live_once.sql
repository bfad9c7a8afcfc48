select p.order_id::text as id, p.order_id as subject, count(*) > 1 as broken
from payments p
where {in p.order_id} and p.status in ('confirming', 'awaiting_deposit', 'approved', 'partially_canceled')
group by p.order_id
