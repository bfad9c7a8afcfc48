with claim as (
    insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, expires_at)
    values ('limit', 'cancel', (:o)::bigint::text, decode(repeat('00', 32), 'hex'), 'in_progress',
            lpad(to_hex((:o)::bigint), 32, '0')::uuid, now() + interval '64 s', now() + interval '15 days')
    on conflict do nothing returning resource_id
), capacity as (
    update payments set canceling_amount = canceling_amount + 12000, updated_at = now()
    from claim
    where id = claim.resource_id and status in ('approved', 'partially_canceled')
        and canceled_amount + canceling_amount + 12000 <= coalesce(approved_amount, amount)
    returning id, order_id
), line as (
    update order_items set canceling_quantity = canceling_quantity + 1
    from capacity
    where order_items.order_id = capacity.order_id and line = 1
        and canceled_quantity + canceling_quantity + 1 <= quantity
), cancellation as (
    insert into cancellations (id, payment_id, order_id, provider, amount, reason, status, origin, inquire_at, trace_id)
    select id, id, order_id, 'toss', 12000, 'changed my mind', 'requested', 'request', now() + interval '37 s',
           md5((:o)::bigint::text)
    from capacity
    returning id, order_id
), unit as (
    insert into cancellation_items (cancellation_id, order_id, line, quantity)
    select id, order_id, 1, 1 from cancellation
)
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
select 'cancellation', id, 1, order_id, 'CancellationRequested', null, 'requested', 'limit', '{"amount": 12000}'::jsonb,
       md5((:o)::bigint::text)
from cancellation;
