select e.aggregate || ' ' || e.aggregate_id || ' seq ' || e.seq as id, e.order_id as subject,
    e.order_id is distinct from
        case e.aggregate when 'order' then o.id when 'payment' then p.order_id when 'cancellation' then c.order_id end
    as broken
from events e
left join orders o on e.aggregate = 'order' and o.id = e.aggregate_id
left join payments p on e.aggregate = 'payment' and p.id = e.aggregate_id
left join cancellations c on e.aggregate = 'cancellation' and c.id = e.aggregate_id
where {in e.order_id}
