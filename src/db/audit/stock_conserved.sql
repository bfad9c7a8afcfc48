select p.id::text as id, p.id as subject,
    (select coalesce(sum(a.delta), 0) from stock_adjustments a where a.product_id = p.id) <> s.available + (
        select coalesce(sum(i.quantity - case when o.status in ('paid', 'partially_canceled')
                                         then i.canceled_quantity else 0 end), 0)
        from order_items i join orders o on o.id = i.order_id
        where i.product_id = p.id
            and o.status in ('pending', 'confirming', 'awaiting_deposit', 'paid', 'partially_canceled')) as broken
from products p join stock s on s.product_id = p.id
where {in p.id}
