select * from orders where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid for update;
select * from payments where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid for update;
insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, expires_at)
values ('limit', 'cancel', (:o)::bigint::text, decode(repeat('00', 32), 'hex'), 'in_progress',
        lpad(to_hex((:o)::bigint), 32, '0')::uuid, now() + interval '64 s', now() + interval '15 days')
on conflict do nothing;
update payments set canceling_amount = canceling_amount + 12000, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid
    and canceled_amount + canceling_amount + 12000 <= coalesce(approved_amount, amount);
update order_items set canceling_quantity = canceling_quantity + 1
where order_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and line = 1
    and canceled_quantity + canceling_quantity + 1 <= quantity;
insert into cancellations (id, payment_id, order_id, provider, amount, reason, status, origin, inquire_at, trace_id)
values (lpad(to_hex((:o)::bigint), 32, '0')::uuid, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        lpad(to_hex((:o)::bigint), 32, '0')::uuid, 'toss', 12000, 'changed my mind', 'requested', 'request',
        now() + interval '37 s', md5((:o)::bigint::text))
returning *;
insert into cancellation_items (cancellation_id, order_id, line, quantity)
values (lpad(to_hex((:o)::bigint), 32, '0')::uuid, lpad(to_hex((:o)::bigint), 32, '0')::uuid, 1, 1);
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('cancellation', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 1, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'CancellationRequested', null, 'requested', 'limit', '{"amount": 12000}', md5((:o)::bigint::text));
