-- A key itself is not shown: a confirm's key is the PG's payment key unless the caller chose another.
select k.resource_id::text as id, k.resource_id as subject,
    o.id is null and p.id is null and c.id is null
        or octet_length(k.fingerprint) <> 32
        or (k.status = 'done') <> (k.response_status is not null and k.response_body is not null)
        or k.status = 'done' and coalesce(p.status in ('ready', 'confirming') or c.status = 'requested', false) as broken
from idempotency_keys k
left join orders o on o.id = k.resource_id
left join payments p on p.id = k.resource_id
left join cancellations c on c.id = k.resource_id
where {in k.resource_id}
