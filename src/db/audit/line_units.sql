select i.order_id || ' line ' || i.line as id, i.order_id as subject,
    i.canceled_quantity <> u.done or i.canceling_quantity <> u.open
        or i.canceled_quantity::bigint + i.canceling_quantity > i.quantity as broken
from order_items i
left join lateral (
    select coalesce(sum(u.quantity) filter (where c.status = 'done'), 0) as done,
        coalesce(sum(u.quantity) filter (where c.status = 'requested'), 0) as open
    from cancellation_items u join cancellations c on c.id = u.cancellation_id
    where u.order_id = i.order_id and u.line = i.line) u on true
where {in i.order_id}
