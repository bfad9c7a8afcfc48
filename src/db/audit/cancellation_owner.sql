select 'cancellation ' || c.id as id, c.order_id as subject,
    p.id is null or p.order_id <> c.order_id or p.provider <> c.provider as broken
from cancellations c left join payments p on p.id = c.payment_id
where {in c.order_id}
union all
select 'cancellation ' || u.cancellation_id || ' line ' || u.line, u.order_id,
    c.id is null or c.order_id <> u.order_id or i.line is null
from cancellation_items u
left join cancellations c on c.id = u.cancellation_id
left join order_items i on i.order_id = u.order_id and i.line = u.line
where {in u.order_id}
