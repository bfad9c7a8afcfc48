select * from orders where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid for update;
select * from payments where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid for update;
update payments set status = 'approved', method = 'card', approved_amount = amount, approved_at = now(), inquire_at = null,
    provider_transaction_key = 'a' || (:o)::bigint::text, version = version + 1, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid returning *;
update orders set status = 'paid', version = version + 1, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid returning version;
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('payment', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 2, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'PaymentApproved', 'confirming', 'approved', 'limit',
        '{"amount": 12000, "call": {"operation": "confirm", "outcome": "answered", "httpStatus": 200, "durationMs": 1}}',
        md5((:o)::bigint::text));
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('order', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 3, lpad(to_hex((:o)::bigint), 32, '0')::uuid, 'OrderPaid',
        'confirming', 'paid', 'limit', '{}', md5((:o)::bigint::text));
update idempotency_keys set status = 'done', response_status = 200, response_body = repeat('x', 800)
where resource_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'in_progress';
