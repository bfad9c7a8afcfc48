select e.aggregate || ' ' || e.aggregate_id || ' seq ' || e.seq as id, e.order_id as subject,
    case when e.seq = 1 then e.from_status is not null
        -- Where the one before is missing, that is a gap and told as one.
        else b.seq is not null and e.from_status is distinct from b.to_status end as broken
from events e
left join events b on b.order_id = e.order_id and b.aggregate = e.aggregate and b.aggregate_id = e.aggregate_id and b.seq = e.seq - 1
where {in e.order_id}
