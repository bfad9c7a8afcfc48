insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, expires_at)
values ('limit', 'order', (:o)::bigint::text, decode(repeat('00', 32), 'hex'), 'in_progress',
        lpad(to_hex((:o)::bigint), 32, '0')::uuid, now() + interval '64 s', now() + interval '15 days')
on conflict do nothing;
select id, name, price, currency from products where id = lpad(to_hex((:p)::bigint), 32, '0')::uuid and active;
insert into orders (id, status, amount, currency, name, hold_expires_at, trace_id)
values (lpad(to_hex((:o)::bigint), 32, '0')::uuid, 'pending', 12000, 'KRW', 'Limit', now() + interval '600 s',
        md5((:o)::bigint::text))
returning id, status, amount, currency, version, hold_expires_at, created_at;
insert into order_items (order_id, line, product_id, name, quantity, unit_price)
values (lpad(to_hex((:o)::bigint), 32, '0')::uuid, 1, lpad(to_hex((:p)::bigint), 32, '0')::uuid, 'Limit', 1, 12000);
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('order', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 1, lpad(to_hex((:o)::bigint), 32, '0')::uuid, 'OrderPlaced',
        null, 'pending', 'limit', '{"amount": 12000, "lines": 1}', md5((:o)::bigint::text));
update idempotency_keys set status = 'done', response_status = 201, response_body = repeat('x', 600)
where resource_id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'in_progress';
update stock set available = available - 1
where product_id = lpad(to_hex((:p)::bigint), 32, '0')::uuid and available >= 1;
