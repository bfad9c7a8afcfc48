select a.id::text as id, a.product_id as subject,
    p.id is null
        or a.available_after < 0 or a.available_after - a.delta::numeric < 0
        or a.kind = 'initial' and a.available_after <> a.delta
        or a.kind = 'restock' and a.delta <= 0
        or a.kind <> 'initial' and a.delta = 0 as broken
from stock_adjustments a left join products p on p.id = a.product_id
where {in a.product_id}
