select p.id::text as id, p.order_id as subject,
    p.approved_amount is not null and p.status <> 'reversing'
        and p.status <> case p.canceled_amount when p.approved_amount then 'canceled'
                             when 0 then 'approved' else 'partially_canceled' end as broken
from payments p
where {in p.order_id}
