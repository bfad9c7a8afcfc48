select * from orders where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid for update;
select * from payments where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid for update;
update cancellations set status = 'done', moved_amount = amount, provider_transaction_key = 'c' || (:o)::bigint::text,
    canceled_at = now(), inquire_at = null, version = version + 1, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid returning *;
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('cancellation', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 2, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'CancellationDone', 'requested', 'done', 'limit',
        '{"amount": 12000, "moved": 12000, "call": {"operation": "cancel", "outcome": "answered", "httpStatus": 200, "durationMs": 1}}',
        md5((:o)::bigint::text));
update payments set status = 'canceled', canceled_amount = canceled_amount + 12000,
    canceling_amount = canceling_amount - 12000, canceled_at = now(), version = version + 1, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid returning *;
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('payment', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 3, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'PaymentCanceled', 'approved', 'canceled', 'limit', '{"amount": 12000}', md5((:o)::bigint::text));
update orders set status = 'canceled', version = version + 1, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid returning version;
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('order', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 4, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'OrderCanceled', 'paid', 'canceled', 'limit', '{}', md5((:o)::bigint::text));
update order_items set canceling_quantity = canceling_quantity - 1, canceled_quantity = canceled_quantity + 1
where order_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and line = 1;
update idempotency_keys set status = 'done', response_status = 200, response_body = repeat('x', 400)
where resource_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'in_progress';
update stock set available = available + 1 where product_id = lpad(to_hex((:p)::bigint), 32, '0')::uuid;
