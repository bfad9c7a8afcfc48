-- A key itself is not shown: a confirm's key is the PG's payment key unless the caller chose another.
select k.resource_id::text as id, k.resource_id as subject,
    o.id is null and p.id is null and c.id is null
        or octet_length(k.fingerprint) <> 32
        or (select count(*) from idempotency_keys j where j.owner = k.owner and j.route = k.route and j.key = k.key) > 1
        or (k.status = 'done') <> (k.response_status is not null and k.response_body is not null)
        or k.status = 'done' and coalesce(p.status in ('ready', 'confirming') or c.status = 'requested', false) as broken
from idempotency_keys k
-- One by one, by their keys: how many rows come of all weeks together is guessed much too high.
left join lateral (select o.id from orders o where o.id = k.resource_id limit 1) o on true
left join lateral (select p.id, p.status from payments p where p.id = k.resource_id limit 1) p on true
left join lateral (select c.id, c.status from cancellations c where c.id = k.resource_id limit 1) c on true
where {in k.resource_id}
