select k.id::text as id, k.id as subject,
    p.id is null or s.product_id is null or s.available < 0
        or p.price <= 0 or p.currency !~ '^[A-Z]{3}$' or char_length(p.name) not between 1 and 100
        or (select count(*) from stock_adjustments a where a.product_id = k.id and a.kind = 'initial') <> 1 as broken
from (select p.id from products p where {in p.id} union select s.product_id from stock s where {in s.product_id}) k
left join products p on p.id = k.id
left join stock s on s.product_id = k.id
