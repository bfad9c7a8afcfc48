-- What an operator's dashboard may read: the books without names, accounts, secrets, free text and customers.
-- A role for it may read everything in this schema, and nothing else (see deploy/viewer.sql).
create schema observability;

-- Makes customers recognizable without being guessable; so it is not where the reader may look.
-- A new value breaks the link to older hashes on purpose.
create schema observability_owner;
create table observability_owner.salt (
    only_row boolean not null default true,
    value text not null default gen_random_uuid()::text || gen_random_uuid()::text,
    constraint salt_pkey primary key (only_row),
    constraint salt_once check (only_row)
);
insert into observability_owner.salt default values;

-- `pay_0192…` as the uuid behind it, so that an index finds it; null for anything else.
create function observability.id_of(public_id text) returns uuid language sql immutable parallel safe as $$
    select case when public_id ~ '^[a-z]{3,4}_[0-9a-f]{32}$' then split_part(public_id, '_', 2)::uuid end
$$;

create function observability.public_id(prefix text, id uuid) returns text language sql immutable parallel safe as $$
    select prefix || '_' || replace(id::text, '-', '')
$$;

-- The first id that can have been made at a time or later: ids begin with their time, and are made a moment before
-- their row. It lets a range of time be read through the primary key.
create function observability.first_id(since timestamptz) returns uuid language sql stable parallel safe as $$
    select rpad(lpad(to_hex(greatest(0, (extract(epoch from since) * 1000)::bigint - 60000)), 12, '0'), 32, '0')::uuid
$$;

-- The words of the metrics' label, so that one variable of a dashboard fits both.
create function observability.method_label(method text) returns text language sql immutable parallel safe as $$
    select case method when 'gift' then 'gift_certificate' when 'foreign' then 'other' else coalesce(method, 'none') end
$$;

create view observability.payments as
select
    p.id as payment,
    observability.public_id('pay', p.id) as payment_id,
    observability.public_id('ord', p.order_id) as order_id,
    left(encode(sha256(convert_to((select value from observability_owner.salt) || o.customer_ref, 'UTF8')), 'hex'), 12)
        as customer,
    p.provider,
    right(p.provider_payment_key, 6) as provider_key,
    observability.method_label(p.method) as method,
    p.status, p.amount, p.currency, p.approved_amount, p.canceled_amount, p.canceling_amount,
    p.doubt, p.decline_class, p.decline_code, p.confirm_attempt, p.inquiries, p.inquire_at,
    p.confirm_started_at, p.approved_at, p.canceled_at, p.created_at, p.updated_at, p.trace_id
from payments p
join orders o on o.id = p.order_id;

-- Without the reason, which a person writes.
create view observability.cancellations as
select
    c.payment_id as payment,
    observability.public_id('pay', c.payment_id) as payment_id,
    observability.public_id('can', c.id) as cancellation_id,
    observability.public_id('ord', c.order_id) as order_id,
    c.provider, c.status, c.origin, c.amount, p.currency, c.moved_amount, c.attempt, c.inquiries, c.inquire_at,
    c.doubt, c.refusal_class, c.refusal_code, c.canceled_at, c.created_at, c.updated_at, c.trace_id
from cancellations c
join payments p on p.id = c.payment_id;

-- Deliveries that name a payment or its order, looked for around the changes of that order.
create view observability.webhooks as
select distinct
    p.id as payment,
    observability.public_id('pay', p.id) as payment_id,
    observability.public_id('whd', w.id) as delivery_id,
    w.provider, w.received_at, w.processed_at, w.outcome, w.attempts, w.trace_id
from payments p
join events e on e.order_id = p.order_id
join webhook_inbox w
    on w.received_at between e.occurred_at - interval '5 minutes' and e.occurred_at + interval '1 hour'
    and (position(convert_to(p.provider_payment_key, 'UTF8') in w.payload) > 0
        or position(convert_to(observability.public_id('ord', p.order_id), 'UTF8') in w.payload) > 0);

create view observability.findings as
select
    f.payment_id as payment,
    observability.public_id('pay', f.payment_id) as payment_id,
    observability.public_id('fnd', f.id) as finding_id,
    f.provider, f.kind, f.status, f.amount, f.currency, f.occurred_at, f.first_seen_at, f.last_seen_at, f.trace_id
from findings f;

-- One axis for all that happened to a payment. Of an event's detail only words of closed lists and amounts are told.
create view observability.timeline as
select
    p.id as payment,
    observability.public_id('pay', p.id) as payment_id,
    e.occurred_at as at,
    e.id as seq,
    e.aggregate as source,
    e.kind as what,
    e.from_status, e.to_status,
    e.actor,
    concat_ws(' ', e.detail ->> 'class', e.detail ->> 'doubt', e.detail ->> 'cause', e.detail ->> 'code',
        e.detail ->> 'origin', 'attempt ' || (e.detail ->> 'attempt'), 'amount ' || (e.detail ->> 'amount')) as note,
    e.trace_id
from payments p
join events e on e.order_id = p.order_id
where e.aggregate = 'order'
    or (e.aggregate = 'payment' and e.aggregate_id = p.id)
    or (e.aggregate = 'cancellation'
        and exists (select 1 from cancellations c where c.id = e.aggregate_id and c.payment_id = p.id))
union all
select w.payment, w.payment_id, w.received_at, 0, 'webhook', 'WebhookReceived', null, w.outcome, w.provider, null,
    w.trace_id
from observability.webhooks w
union all
select f.payment, f.payment_id, f.first_seen_at, 0, 'finding', f.kind, null, f.status, 'reconcile',
    'amount ' || f.amount, f.trace_id
from observability.findings f
where f.payment is not null;

-- Payments and cancellations that did not end well, or have not ended yet.
create view observability.affected as
select
    p.payment, p.created_at as at,
    case p.status when 'confirming' then 'uncertain' when 'ready' then 'not_sent' else p.status end as outcome,
    p.status, p.payment_id, p.order_id, p.customer, p.provider, p.method, p.amount, p.currency,
    coalesce(p.doubt, p.decline_class) as reason, p.decline_code as code, p.trace_id
from observability.payments p
where p.status in ('declined', 'ready', 'reversing', 'expired')
    or (p.status = 'confirming' and (p.doubt is not null or p.confirm_started_at < now() - interval '1 minute'))
union all
select
    p.payment, c.created_at, case c.status when 'refused' then 'refused' else 'uncertain' end,
    c.status, p.payment_id, p.order_id, p.customer, p.provider, p.method, c.amount, p.currency,
    coalesce(c.doubt, c.refusal_class), c.refusal_code, c.trace_id
from observability.cancellations c
join observability.payments p on p.payment = c.payment
where c.status = 'refused'
    or (c.status = 'requested' and (c.doubt is not null or c.created_at < now() - interval '1 minute'));

-- Where each order got to.
create view observability.cohort as
select
    o.id as order_uuid,
    o.created_at,
    o.status,
    p.method,
    p.tries > 0 as confirm_requested,
    p.approved_at is not null as paid,
    o.status in ('partially_canceled', 'canceled') and p.approved_at is not null as given_back,
    o.status = 'expired' as expired,
    o.status in ('pending', 'confirming', 'awaiting_deposit') as open,
    extract(epoch from p.approved_at - o.created_at) as seconds_to_paid
from orders o
cross join lateral (
    select count(*) as tries, min(approved_at) as approved_at,
        observability.method_label(coalesce(min(method) filter (where approved_at is not null), min(method))) as method
    from payments
    where order_id = o.id
) p;

create view observability.hot_products as
select
    observability.public_id('prod', i.product_id) as product,
    s.available,
    sum(i.quantity) filter (where o.status in ('pending', 'confirming', 'awaiting_deposit')) as held_units,
    sum(i.quantity) as ordered_units,
    count(*) as orders
from orders o
join order_items i on i.order_id = o.id
join stock s on s.product_id = i.product_id
where o.id >= observability.first_id(now() - interval '1 hour') and o.created_at > now() - interval '1 hour'
group by i.product_id, s.available;

-- What should have ended by itself.
create view observability.stuck as
select 'confirm in doubt' as what, p.status, p.confirm_started_at as since, observability.public_id('pay', p.id)
    as payment_id, observability.public_id('ord', p.order_id) as order_id, p.provider, p.amount, p.currency,
    p.inquire_at as next_at, p.trace_id
from payments p
where p.inquire_at is not null and p.status = 'confirming' and p.confirm_started_at < now() - interval '5 minutes'
union all
select 'cancellation in doubt', c.status, c.created_at, observability.public_id('pay', c.payment_id),
    observability.public_id('ord', c.order_id), c.provider, c.amount, p.currency, c.inquire_at, c.trace_id
from cancellations c
join payments p on p.id = c.payment_id
where c.inquire_at is not null and c.status = 'requested' and c.created_at < now() - interval '5 minutes'
union all
select 'deposit past its due date', p.status, p.deposit_due_at, observability.public_id('pay', p.id),
    observability.public_id('ord', p.order_id), p.provider, p.amount, p.currency, p.inquire_at, p.trace_id
from payments p
where p.inquire_at is not null and p.status = 'awaiting_deposit' and p.deposit_due_at < now() - interval '1 day'
union all
select 'hold past its end', o.status, o.hold_expires_at, null, observability.public_id('ord', o.id), null, o.amount,
    o.currency, null, o.trace_id
from orders o
where o.status = 'pending' and o.hold_expires_at < now() - interval '2 minutes'
union all
select 'webhook not read', 'unread', w.received_at, null, null, w.provider, null, null, w.next_at, w.trace_id
from webhook_inbox w
where w.processed_at is null and w.received_at < now() - interval '5 minutes'
union all
select 'finding: ' || f.kind, f.status, f.first_seen_at, observability.public_id('pay', f.payment_id),
    observability.public_id('ord', f.order_id), f.provider, f.amount, f.currency, null, f.trace_id
from findings f
where f.status in ('open', 'waiting');

-- Sessions of our own with an open transaction, without their statements. A view alone would show the reader nothing,
-- since the server judges by who reads.
create function observability.open_transactions()
returns table (pid integer, state text, waits_for text, blocked_by integer[], seconds numeric)
language sql stable security definer set search_path = pg_catalog as $$
    select a.pid, a.state, a.wait_event_type, pg_blocking_pids(a.pid),
        round(extract(epoch from clock_timestamp() - a.xact_start), 1)
    from pg_stat_activity a
    where a.datname = current_database() and a.xact_start is not null and a.pid <> pg_backend_pid()
$$;

create view observability.sessions as
select pid, state, waits_for, array_to_string(blocked_by, ' ') as blocked_by, seconds
from observability.open_transactions();
