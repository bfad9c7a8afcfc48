update orders set status = 'confirming', version = version + 1, updated_at = now()
where id = lpad(to_hex((:o)::bigint), 32, '0')::uuid and status = 'pending' and hold_expires_at > now()
    and amount = 12000 and currency = 'KRW'
returning *;
insert into payments (id, order_id, provider, provider_payment_key, status, amount, currency, inquire_at, trace_id)
values (lpad(to_hex((:o)::bigint), 32, '0')::uuid, lpad(to_hex((:o)::bigint), 32, '0')::uuid, 'toss',
        (:o)::bigint::text, 'confirming', 12000, 'KRW', now() + interval '37 s', md5((:o)::bigint::text))
on conflict (provider, provider_payment_key) do nothing
returning *;
insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, expires_at)
values ('limit', 'confirm', (:o)::bigint::text, decode(repeat('00', 32), 'hex'), 'in_progress',
        lpad(to_hex((:o)::bigint), 32, '0')::uuid, now() + interval '64 s', now() + interval '15 days')
on conflict do nothing;
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('order', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 2, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'ConfirmStarted', 'pending', 'confirming', 'limit', '{}', md5((:o)::bigint::text));
insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
values ('payment', lpad(to_hex((:o)::bigint), 32, '0')::uuid, 1, lpad(to_hex((:o)::bigint), 32, '0')::uuid,
        'ConfirmStarted', null, 'confirming', 'limit', '{"amount": 12000, "attempt": 1}', md5((:o)::bigint::text));
