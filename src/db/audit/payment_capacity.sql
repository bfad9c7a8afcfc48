select p.id::text as id, p.order_id as subject,
    p.canceled_amount < 0 or p.canceling_amount < 0
        or p.canceled_amount::numeric + p.canceling_amount > coalesce(p.approved_amount, p.amount) as broken
from payments p
where {in p.order_id}
