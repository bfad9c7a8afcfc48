select p.id::text as id, p.order_id as subject,
    o.id is null or p.amount <> o.amount or p.currency <> o.currency as broken
from payments p left join orders o on o.id = p.order_id
where {in p.order_id}
