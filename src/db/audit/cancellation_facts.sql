select c.id::text as id, c.order_id as subject,
    c.amount <= 0
        or (c.status = 'done') <> (c.canceled_at is not null)
        or (c.status = 'done') <> (c.moved_amount is not null)
        or c.moved_amount is not null and c.moved_amount not in (0, c.amount)
        or c.status = 'done' and c.provider_transaction_key is null
        or c.status = 'refused' and c.refusal_class is null as broken
from cancellations c
where {in c.order_id}
