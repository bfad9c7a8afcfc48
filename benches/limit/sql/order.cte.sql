with claim as (
    insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, response_status, response_body,
                                  lease_until, expires_at)
    values ('limit', 'order', (:o)::bigint::text, decode(repeat('00', 32), 'hex'), 'done',
            lpad(to_hex((:o)::bigint), 32, '0')::uuid, 201, repeat('x', 600), now() + interval '64 s',
            now() + interval '15 days')
    on conflict do nothing returning resource_id
), product as (
    select id, name, price, currency from products where id = lpad(to_hex((:p)::bigint), 32, '0')::uuid and active
), placed as (
    insert into orders (id, status, amount, currency, name, hold_expires_at, trace_id)
    select resource_id, 'pending', price, currency, name, now() + interval '600 s', md5((:o)::bigint::text)
    from claim, product
    returning id, amount, version
), item as (
    insert into order_items (order_id, line, product_id, name, quantity, unit_price)
    select placed.id, 1, product.id, product.name, 1, product.price from placed, product
), event as (
    insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, trace_id)
    select 'order', id, version, id, 'OrderPlaced', null, 'pending', 'limit',
           jsonb_build_object('amount', amount, 'lines', 1), md5((:o)::bigint::text)
    from placed
)
update stock set available = available - 1
where product_id = (select product.id from product, placed) and available >= 1 returning available;
