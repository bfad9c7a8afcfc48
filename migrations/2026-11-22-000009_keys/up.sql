-- Idempotency keys lie in partitions, too: of 15 days, as long as a key is kept, so that only two have keys in them, besides the
-- one to come and the default one: each look at a key goes to all. What is over goes as a whole table. docs/growth.md tells what it costs. Keys that are there
-- are copied.

-- A worker of an older version deletes old keys by their place in the table, and places are not unique over partitions.
do $$ begin
    if exists (select from idempotency_keys) and exists (
        select from pg_stat_activity
        where datname = current_database() and application_name = 'paygauge' and pid <> pg_backend_pid())
    then
        raise exception 'stop all processes of the older version first';
    end if;
end $$;

alter table idempotency_keys rename to idempotency_keys_before;
alter table idempotency_keys_before drop constraint idempotency_keys_pkey;
drop index idempotency_keys_in_progress, idempotency_keys_by_resource, idempotency_keys_by_expiry;

create table idempotency_keys (
    owner text not null,
    route text not null,
    key text not null,
    fingerprint bytea not null,
    status text not null,
    resource_id uuid not null,
    response_status smallint,
    response_body text,
    lease_until timestamptz not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    under_lock boolean not null default false,
    constraint idempotency_keys_status_known check (status in ('in_progress', 'done')),
    constraint idempotency_keys_done_has_response check (
        (status = 'done') = (response_status is not null and response_body is not null))
) partition by range (created_at);
create index idempotency_keys_by_resource on idempotency_keys (resource_id);
create index idempotency_keys_in_progress on idempotency_keys (created_at) where status = 'in_progress';

-- A key is looked for in all partitions before it is claimed, and the unique index of a partition refuses the second of two
-- claims at once. Both miss two claims at once of which one began in a partition and one in the next. So near its ends (ten
-- minutes, and no transaction that claims takes so long) a partition takes only claims that waited for others of their key to end and
-- looked once more; the default one takes no others at all.
create function lock_key(owner text, route text, key text) returns void language sql as $$
    select pg_advisory_xact_lock(hashtextextended(concat_ws(' ', owner, route, key), 4))
$$;

create table idempotency_keys_default partition of idempotency_keys default
    with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table idempotency_keys_default add constraint idempotency_keys_under_lock check (under_lock);
create unique index idempotency_keys_default_once on idempotency_keys_default (owner, route, key);
-- Only here keys are deleted one by one.
create index idempotency_keys_default_by_expiry on idempotency_keys_default (expires_at);

drop function partition_unit;

-- How long a partition is.
create function partition_span(parent text) returns interval language sql immutable as $$
    select case parent
        when 'events' then interval '1 month'
        when 'webhook_inbox' then interval '7 days'
        when 'idempotency_keys' then interval '15 days'
    end
$$;

-- When the partition of a moment begins (UTC).
create function partition_begin(parent text, at timestamp) returns timestamp language sql immutable as $$
    select case parent
        when 'events' then date_trunc('month', at)
        when 'webhook_inbox' then date_trunc('week', at)
        when 'idempotency_keys' then date_bin('15 days', at, '2026-01-01')
    end
$$;

create or replace function partition_column(parent text) returns text language sql immutable as $$
    select case parent when 'events' then 'order_id' when 'webhook_inbox' then 'id' when 'idempotency_keys' then 'created_at' end
$$;

-- The least value that partition_column has at a time (UTC).
create function partition_bound(parent text, at timestamp) returns text language sql stable as $$
    select case parent when 'idempotency_keys' then (at at time zone 'UTC')::text else id_at(at at time zone 'UTC')::text end
$$;

-- Makes the partitions of a table for a span of time, as far as they are not there; returns how many. The table can be read and
-- written meanwhile: a partition is attached, which locks nothing but the default one, and that for a moment.
-- A span of which the default partition holds rows is left out: they would have to be moved.
create or replace function make_partitions(parent text, since timestamptz, until timestamptz) returns integer
language plpgsql as $$
declare
    low timestamp := partition_begin(parent, since at time zone 'UTC');
    high timestamp;
    child text;
    is_taken boolean;
    made integer := 0;
begin
    -- Two that make the same at once.
    perform pg_advisory_xact_lock(hashtextextended('make_partitions', 3));
    while low < until at time zone 'UTC' loop
        high := low + partition_span(parent);
        child := parent || '_' || to_char(low, 'YYYYMMDD');
        if to_regclass(child) is null then
            execute format('select exists (select from %1$I where %4$I >= %2$L and %4$I < %3$L)', parent || '_default',
                partition_bound(parent, low), partition_bound(parent, high), partition_column(parent)) into is_taken;
            if not is_taken then
                execute format('create table %I (like %I including defaults including constraints) with (%s)', child, parent,
                    (select array_to_string(reloptions, ', ') from pg_class where oid = (parent || '_default')::regclass));
                if parent = 'idempotency_keys' then
                    execute format('create unique index %I on %I (owner, route, key)', child || '_once', child);
                    execute format('alter table %I add constraint idempotency_keys_under_lock
                        check (under_lock or created_at >= %L and created_at < %L)', child,
                        partition_bound(parent, low + interval '10 minutes'),
                        partition_bound(parent, high - interval '10 minutes'));
                end if;
                execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                    parent, child, partition_bound(parent, low), partition_bound(parent, high));
                made := made + 1;
            end if;
        end if;
        low := high;
    end loop;
    return made;
end $$;

-- Those of today and of the time to come.
create or replace function make_next_partitions() returns integer language sql as $$
    select make_partitions('events', now(), now() + interval '40 days')
        + make_partitions('webhook_inbox', now(), now() + interval '10 days')
        + make_partitions('idempotency_keys', now(), now() + interval '2 days')
$$;

-- Takes away the oldest partition that ended at `until` or before and of which nothing is open; returns its name, or null if
-- there is none. Locks the whole table as soon as nobody uses it: to be called with a short `lock_timeout`.
create or replace function drop_partition(parent text, until timestamptz) returns text language plpgsql as $$
declare
    open constant text := case parent when 'webhook_inbox' then 'processed_at is null' else 'false' end;
    child text;
    ended timestamp;
    is_open boolean;
begin
    for child, ended in
        select c.relname, to_timestamp(right(c.relname, 8), 'YYYYMMDD')::timestamp + partition_span(parent)
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = parent::regclass and c.relname ~ '_[0-9]{8}$'
        order by c.relname
    loop
        exit when ended > until at time zone 'UTC';
        -- The table first, as everybody does, so that nobody waits for the other.
        execute format('lock table only %I in access exclusive mode', parent);
        execute format('select exists (select from %I where %s)', child, open) into is_open;
        if not is_open then
            if parent = 'events' then
                update history_begin set order_id = greatest(order_id, id_at(ended at time zone 'UTC'));
            end if;
            execute format('drop table %I', child);
            return child;
        end if;
    end loop;
    return null;
end $$;

-- What is there goes to where it belongs.
select make_partitions('idempotency_keys', greatest(min(created_at), now() - interval '2 years'), now())
from idempotency_keys_before having min(created_at) is not null;
select make_next_partitions();
-- They are unique already.
insert into idempotency_keys select *, true from idempotency_keys_before;
drop table idempotency_keys_before;
