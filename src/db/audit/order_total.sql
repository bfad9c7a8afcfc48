select o.id::text as id, o.id as subject,
    o.amount is distinct from i.total or i.least_quantity <= 0 or i.least_price <= 0 as broken
from orders o
left join lateral (
    select sum(i.quantity::numeric * i.unit_price) as total,
        min(i.quantity) as least_quantity, min(i.unit_price) as least_price
    from order_items i where i.order_id = o.id) i on true
where {in o.id}
