select p.id::text as id, p.order_id as subject,
    p.canceled_amount <> c.done or p.canceling_amount <> c.open as broken
from payments p
left join lateral (
    select coalesce(sum(c.moved_amount) filter (where c.status = 'done'), 0) as done,
        coalesce(sum(c.amount) filter (where c.status = 'requested'), 0) as open
    from cancellations c where c.payment_id = p.id) c on true
where {in p.order_id}
