-- A key itself is not shown: a confirm's key is the PG's payment key unless the caller chose another. What a key may stand for is
-- asked for by its id, too, or PostgreSQL may read all payments for the keys of a few. An index sees the second of a key within a
-- partition only.
select k.resource_id::text as id, k.resource_id as subject,
    o.id is null and p.id is null and c.id is null
        or octet_length(k.fingerprint) <> 32
        or (k.status = 'done') <> (k.response_status is not null and k.response_body is not null)
        or k.status = 'done' and coalesce(p.status in ('ready', 'confirming') or c.status = 'requested', false)
        or exists (select 1 from idempotency_keys d where d.tableoid <> k.tableoid
                   and d.owner = k.owner and d.route = k.route and d.key = k.key) as broken
from idempotency_keys k
left join orders o on o.id = k.resource_id and {in o.id}
left join payments p on p.id = k.resource_id and {in p.id}
left join cancellations c on c.id = k.resource_id and {in c.id}
where {in k.resource_id}
