with frozen as (
    update orders set status = 'confirming', version = version + 1, updated_at = now()
    where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'pending' and hold_expires_at > now()
        and amount = 12000 and currency = 'KRW'
    returning id, version, amount, currency
), payment as (
    insert into payments (id, order_id, provider, provider_payment_key, status, amount, currency, inquire_at, trace_id)
    select id, id, 'toss', (:o)::bigint::text, 'confirming', amount, currency, now() + interval '37 s',
           md5((:o)::bigint::text)
    from frozen
    on conflict (provider, provider_payment_key) do nothing
    returning id, order_id, version, amount
), claim as (
    insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, expires_at)
    select 'limit', 'confirm', (:o)::bigint::text, decode(repeat('00', 32), 'hex'), 'in_progress', id,
           now() + interval '64 s', now() + interval '15 days'
    from payment
    on conflict do nothing
)
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
select 'order', id, version, id, 'ConfirmStarted', 'pending', 'confirming', 'limit', '{}'::jsonb, md5((:o)::bigint::text)
from frozen
union all
select 'payment', id, version, order_id, 'ConfirmStarted', null, 'confirming', 'limit',
       jsonb_build_object('amount', amount, 'attempt', 1), md5((:o)::bigint::text)
from payment;
