select 'payment ' || p.id as id, p.order_id as subject,
    exists (select 1 from payments q where q.id <> p.id
            and q.provider = p.provider and q.provider_payment_key = p.provider_payment_key)
        or exists (select 1 from payments q where q.id <> p.id
            and q.provider = p.provider and q.provider_transaction_key = p.provider_transaction_key) as broken
from payments p
where {in p.order_id}
union all
select 'cancellation ' || c.id, c.order_id,
    exists (select 1 from cancellations d where d.id <> c.id
            and d.provider = c.provider and d.provider_transaction_key = c.provider_transaction_key)
from cancellations c
where {in c.order_id}
