with canceled as (
    update orders set status = 'canceled', version = version + 1, updated_at = now()
    where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'paid'
    returning id, version
), payment as (
    update payments set status = 'canceled', canceled_amount = canceled_amount + 12000,
        canceling_amount = canceling_amount - 12000, canceled_at = now(), version = version + 1, updated_at = now()
    where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'approved'
    returning id, order_id, version
), cancellation as (
    update cancellations set status = 'done', moved_amount = amount,
        provider_transaction_key = 'c' || (:o)::bigint::text, canceled_at = now(), inquire_at = null,
        version = version + 1, updated_at = now()
    where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'requested'
    returning id, order_id, version
), item as (
    update order_items set canceling_quantity = canceling_quantity - 1, canceled_quantity = canceled_quantity + 1
    from canceled
    where order_id = canceled.id and line = 1
), answer as (
    update idempotency_keys set status = 'done', response_status = 200, response_body = repeat('x', 400)
    where resource_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'in_progress'
), event as (
    insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
    select 'cancellation', id, version, order_id, 'CancellationDone', 'requested', 'done', 'limit',
           '{"amount": 12000, "moved": 12000, "call": {"operation": "cancel", "outcome": "answered", "httpStatus": 200, "durationMs": 1}}'::jsonb,
           md5((:o)::bigint::text)
    from cancellation
    union all
    select 'payment', id, version, order_id, 'PaymentCanceled', 'approved', 'canceled', 'limit',
           '{"amount": 12000}'::jsonb, md5((:o)::bigint::text)
    from payment
    union all
    select 'order', id, version, id, 'OrderCanceled', 'paid', 'canceled', 'limit', '{}'::jsonb, md5((:o)::bigint::text)
    from canceled
)
update stock set available = available + 1
where product_id = lpad(to_hex((:p)::bigint), 32, '0')::uuid and exists (select from canceled);
