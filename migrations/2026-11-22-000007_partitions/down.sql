-- One table each again, as they were.
drop view observability.stuck;
drop view observability.timeline;
drop view observability.webhooks;

alter table events rename to events_parts;
alter table events_parts rename constraint events_pkey to events_parts_pkey;
drop index events_by_id;
create table events (
    like events_parts including defaults including constraints,
    constraint events_pkey primary key (aggregate, aggregate_id, seq)
) with (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table events alter id add generated always as identity;
insert into events overriding system value select * from events_parts;
select setval(pg_get_serial_sequence('events', 'id'), max(id)) from events having max(id) is not null;
create index events_by_order on events (order_id, id);
create index events_by_id on events (id);
create trigger events_append_only before update or delete on events
    for each row execute function refuse_change();

alter table webhook_inbox rename to webhook_inbox_parts;
alter table webhook_inbox_parts rename constraint webhook_inbox_pkey to webhook_inbox_parts_pkey;
drop index webhook_inbox_due, webhook_inbox_by_age;
create table webhook_inbox (
    like webhook_inbox_parts including defaults including constraints,
    constraint webhook_inbox_pkey primary key (id),
    constraint webhook_inbox_once unique (provider, dedupe_key)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
insert into webhook_inbox select * from webhook_inbox_parts;
create index webhook_inbox_due on webhook_inbox (next_at) where processed_at is null;
create index webhook_inbox_by_age on webhook_inbox (received_at);

drop table events_parts, webhook_inbox_parts, history_begin;
drop function skip_second_delivery, make_next_partitions, make_partitions, drop_partition, partition_column, partition_unit,
    time_of, id_at;

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
