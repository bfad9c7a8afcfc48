select i.order_id || ' line ' || i.line as id, i.order_id as subject, o.id is null or p.id is null as broken
from order_items i
left join orders o on o.id = i.order_id
left join products p on p.id = i.product_id
where {in i.order_id}
