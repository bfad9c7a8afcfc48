select a.aggregate || ' ' || a.id as id, a.order_id as subject, e.to_status <> a.status as broken
from (
    select 'order' as aggregate, o.id, o.id as order_id, o.version, o.status from orders o where {in o.id}
    union all select 'payment', p.id, p.order_id, p.version, p.status from payments p where {in p.order_id}
    union all select 'cancellation', c.id, c.order_id, c.version, c.status from cancellations c where {in c.order_id}) a
join events e on e.order_id = a.order_id and e.aggregate = a.aggregate and e.aggregate_id = a.id and e.seq = a.version
