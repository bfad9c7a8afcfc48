select p.id::text as id, p.id as subject, coalesce(came.units, 0) <> s.available + coalesce(taken.units, 0) as broken
from products p join stock s on s.product_id = p.id
left join (
    select a.product_id, sum(a.delta) as units from stock_adjustments a where {in a.product_id} group by a.product_id
) came on came.product_id = p.id
-- For all of them at once: the orders are read once, and not for each product.
left join (
    select i.product_id,
        sum(i.quantity - case when o.status in ('paid', 'partially_canceled') then i.canceled_quantity else 0 end) as units
    from order_items i join orders o on o.id = i.order_id
    where {in i.product_id}
        and o.status in ('pending', 'confirming', 'awaiting_deposit', 'paid', 'partially_canceled')
    group by i.product_id
) taken on taken.product_id = p.id
where {in p.id}
