select a.aggregate || ' ' || a.id as id, a.order_id as subject,
    e.events <> a.version or e.first is distinct from 1 or e.last <> a.version as broken
from (
    select 'order' as aggregate, o.id, o.id as order_id, o.version from orders o where {in o.id}
    union all select 'payment', p.id, p.order_id, p.version from payments p where {in p.order_id}
    union all select 'cancellation', c.id, c.order_id, c.version from cancellations c where {in c.order_id}) a
left join lateral (
    select count(*) as events, min(e.seq) as first, max(e.seq) as last
    from events e where e.order_id = a.order_id and e.aggregate = a.aggregate and e.aggregate_id = a.id) e on true
-- Older histories were taken away on purpose.
where a.order_id >= coalesce((select order_id from history_begin), '00000000-0000-0000-0000-000000000000')
