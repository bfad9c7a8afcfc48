-- What grows with every order lies in partitions by time: a month of histories, a week of deliveries. What is over goes as a
-- whole table, and leaves no dead rows behind. docs/growth.md says why so, and why idempotency keys do not. Rows that are
-- there are copied; half a million events and fifty thousand deliveries took 4 s without waiting for a disk.

-- A worker of an older version deletes old rows by their place in the table, and places are not unique over partitions:
-- it would forget deliveries that nobody has read. So this one cannot be had while others go on.
do $$ begin
    if exists (select from webhook_inbox) and exists (
        select from pg_stat_activity
        where datname = current_database() and application_name = 'paygauge' and pid <> pg_backend_pid())
    then
        raise exception 'stop all processes of the older version first';
    end if;
end $$;

-- The first id that can be made at a time: ids begin with their time.
create function id_at(at timestamptz) returns uuid language sql immutable parallel safe as $$
    select rpad(lpad(to_hex(greatest(0, (extract(epoch from at) * 1000)::bigint)), 12, '0'), 32, '0')::uuid
$$;

-- When an id was made.
create function time_of(id uuid) returns timestamptz language sql immutable parallel safe as $$
    select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$$;

-- They look at the tables that are replaced, and are made again below.
drop view observability.stuck;
drop view observability.timeline;
drop view observability.webhooks;

-- An order's whole history, with that of its payments and cancellations, lies in the month of the order.
alter table events rename to events_before;
alter table events_before rename constraint events_pkey to events_before_pkey;
drop index events_by_order, events_by_id;

create table events (
    id bigint generated always as identity,
    aggregate text not null,
    aggregate_id uuid not null,
    seq integer not null,
    order_id uuid not null,
    kind text not null,
    from_status text,
    to_status text not null,
    actor text not null,
    detail jsonb not null default '{}',
    trace_id text,
    occurred_at timestamptz not null default clock_timestamp(),
    -- No gaps: seq is the row's version after the change. One order's events are found by it, too.
    constraint events_pkey primary key (order_id, aggregate, aggregate_id, seq),
    constraint events_aggregate_known check (aggregate in ('order', 'payment', 'cancellation')),
    constraint events_seq_positive check (seq > 0)
) partition by range (order_id);
create index events_by_id on events (id);
create trigger events_append_only before update or delete on events
    for each row execute function refuse_change();

-- The histories of older orders were taken away on purpose, so nobody is to miss them.
create table history_begin (
    only_row boolean not null default true,
    order_id uuid not null default '00000000-0000-0000-0000-000000000000',
    constraint history_begin_pkey primary key (only_row),
    constraint history_begin_once check (only_row)
);
insert into history_begin default values;

alter table webhook_inbox rename to webhook_inbox_before;
alter table webhook_inbox_before rename constraint webhook_inbox_pkey to webhook_inbox_before_pkey;
alter table webhook_inbox_before drop constraint webhook_inbox_once;
drop index webhook_inbox_due, webhook_inbox_by_age;

create table webhook_inbox (
    id uuid not null,
    provider text not null,
    dedupe_key text not null,
    transmission_id text,
    payload bytea not null,
    received_at timestamptz not null default now(),
    next_at timestamptz not null default now(),
    lease_until timestamptz,
    attempts integer not null default 0,
    processed_at timestamptz,
    outcome text,
    trace_id text,
    constraint webhook_inbox_pkey primary key (id),
    constraint webhook_inbox_processed_has_outcome check ((processed_at is null) = (outcome is null))
) partition by range (id);
create index webhook_inbox_by_content on webhook_inbox (provider, dedupe_key);
create index webhook_inbox_due on webhook_inbox (next_at) where processed_at is null;
create index webhook_inbox_by_age on webhook_inbox (received_at);

-- A unique index holds within a partition. This holds over all of them, for one delivery after another and for two at once:
-- the lock waits for whoever stores the same, and a statement of a function that may write sees what was committed before
-- that statement, not before the caller's. Not for transactions whose snapshot stands still (repeatable read); there are
-- none that write. A delivery that came before is not an error, it is not stored.
create function skip_second_delivery() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended(new.provider || ' ' || new.dedupe_key, 2));
    if exists (select from webhook_inbox w where w.provider = new.provider and w.dedupe_key = new.dedupe_key) then
        return null;
    end if;
    return new;
end $$;

-- For what fits into no other partition. Nothing is refused because nobody made a partition in time.
create table events_default partition of events default
    with (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
create table webhook_inbox_default partition of webhook_inbox default
    with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

create function partition_unit(parent text) returns text language sql immutable as $$
    select case parent when 'events' then 'month' when 'webhook_inbox' then 'week' end
$$;

create function partition_column(parent text) returns text language sql immutable as $$
    select case parent when 'events' then 'order_id' when 'webhook_inbox' then 'id' end
$$;

-- Makes the partitions of a table for a span of time, as far as they are not there; returns how many. The table can be read and
-- written meanwhile: a partition is attached, which locks nothing but the default one, and that for a moment.
-- A span of which the default partition holds rows is left out: they would have to be moved.
create function make_partitions(parent text, since timestamptz, until timestamptz) returns integer
language plpgsql as $$
declare
    unit constant interval := ('1 ' || partition_unit(parent))::interval;
    low timestamp := date_trunc(partition_unit(parent), since at time zone 'UTC');
    child text;
    is_taken boolean;
    made integer := 0;
begin
    -- Two that make the same at once.
    perform pg_advisory_xact_lock(hashtextextended('make_partitions', 3));
    while low < until at time zone 'UTC' loop
        child := parent || '_' || to_char(low, 'YYYYMMDD');
        if to_regclass(child) is null then
            execute format('select exists (select from %1$I where %4$I >= %2$L and %4$I < %3$L)', parent || '_default',
                id_at(low at time zone 'UTC'), id_at((low + unit) at time zone 'UTC'), partition_column(parent)) into is_taken;
            if not is_taken then
                execute format('create table %I (like %I including defaults including constraints) with (%s)', child, parent,
                    (select array_to_string(reloptions, ', ') from pg_class where oid = (parent || '_default')::regclass));
                execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                    parent, child, id_at(low at time zone 'UTC'), id_at((low + unit) at time zone 'UTC'));
                made := made + 1;
            end if;
        end if;
        low := low + unit;
    end loop;
    return made;
end $$;

-- Those of today and of the time to come.
create function make_next_partitions() returns integer language sql as $$
    select make_partitions('events', now(), now() + interval '40 days')
        + make_partitions('webhook_inbox', now(), now() + interval '10 days')
$$;

-- Takes away the oldest partition that ended at `until` or before and of which nothing is open; returns its name, or null if
-- there is none. Locks the whole table as soon as nobody uses it: to be called with a short `lock_timeout`.
create function drop_partition(parent text, until timestamptz) returns text language plpgsql as $$
declare
    unit constant interval := ('1 ' || partition_unit(parent))::interval;
    open constant text := case parent when 'webhook_inbox' then 'processed_at is null' else 'false' end;
    child text;
    is_open boolean;
begin
    for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = parent::regclass and c.relname ~ '_[0-9]{8}$'
            and to_timestamp(right(c.relname, 8), 'YYYYMMDD')::timestamp + unit <= until at time zone 'UTC'
        order by c.relname
    loop
        -- The table first, as everybody does, so that nobody waits for the other.
        execute format('lock table only %I in access exclusive mode', parent);
        execute format('select exists (select from %I where %s)', child, open) into is_open;
        if not is_open then
            if parent = 'events' then
                update history_begin set order_id = greatest(order_id,
                    id_at((to_timestamp(right(child, 8), 'YYYYMMDD')::timestamp + unit) at time zone 'UTC'));
            end if;
            execute format('drop table %I', child);
            return child;
        end if;
    end loop;
    return null;
end $$;

-- What is there goes to where it belongs; what is older than two years stays together.
select make_partitions('events', greatest(time_of(order_id), now() - interval '2 years'), now())
from (select order_id from events_before order by order_id limit 1) oldest;
select make_partitions('webhook_inbox', greatest(time_of(id), now() - interval '2 years'), now())
from (select id from webhook_inbox_before order by id limit 1) oldest;
select make_next_partitions();

insert into events overriding system value select * from events_before;
select setval(pg_get_serial_sequence('events', 'id'), max(id)) from events_before having max(id) is not null;
insert into webhook_inbox select * from webhook_inbox_before;
drop table events_before, webhook_inbox_before;
-- Only now: each row takes a lock until the end of its transaction.
create trigger webhook_inbox_once before insert on webhook_inbox
    for each row execute function skip_second_delivery();

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
