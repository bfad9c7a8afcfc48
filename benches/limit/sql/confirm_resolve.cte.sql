with paid as (
    update orders set status = 'paid', version = version + 1, updated_at = now()
    where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'confirming'
    returning id, version
), approved as (
    update payments set status = 'approved', method = 'card', approved_amount = amount, approved_at = now(),
        inquire_at = null, provider_transaction_key = 'a' || (:o)::bigint::text, version = version + 1, updated_at = now()
    where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'confirming'
    returning id, order_id, version, amount
), answer as (
    update idempotency_keys set status = 'done', response_status = 200, response_body = repeat('x', 800)
    where resource_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'in_progress'
)
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
select 'payment', id, version, order_id, 'PaymentApproved', 'confirming', 'approved', 'limit',
       '{"amount": 12000, "call": {"operation": "confirm", "outcome": "answered", "httpStatus": 200, "durationMs": 1}}'::jsonb,
       md5((:o)::bigint::text)
from approved
union all
select 'order', id, version, id, 'OrderPaid', 'confirming', 'paid', 'limit', '{}'::jsonb, md5((:o)::bigint::text) from paid;
