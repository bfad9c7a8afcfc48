select e.aggregate || ' ' || e.aggregate_id || ' seq ' || e.seq as id, e.order_id as subject,
    e.aggregate || ' ' || e.kind || ' ' || coalesce(e.from_status, '-') || ' ' || e.to_status <> all ({steps}) as broken
from events e
where {in e.order_id}
