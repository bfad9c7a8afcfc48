select p.id::text as id, p.order_id as subject,
    not exists (select 1 from cancellations c where c.payment_id = p.id and c.status = 'requested') as broken
from payments p
where {in p.order_id} and p.status = 'reversing'
