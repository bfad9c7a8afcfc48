-- One table again, as it was.
alter table idempotency_keys rename to idempotency_keys_parts;
drop index idempotency_keys_in_progress, idempotency_keys_by_resource;
create table idempotency_keys (
    like idempotency_keys_parts including defaults including constraints,
    constraint idempotency_keys_pkey primary key (owner, route, key)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table idempotency_keys drop under_lock;
insert into idempotency_keys
    select owner, route, key, fingerprint, status, resource_id, response_status, response_body, lease_until, created_at, expires_at
    from idempotency_keys_parts;
create index idempotency_keys_by_expiry on idempotency_keys (expires_at);
create index idempotency_keys_by_resource on idempotency_keys (resource_id);
create index idempotency_keys_in_progress on idempotency_keys (created_at) where status = 'in_progress';
drop table idempotency_keys_parts;
drop function lock_key, partition_bound, partition_begin, partition_span;

create function partition_unit(parent text) returns text language sql immutable as $$
    select case parent when 'events' then 'month' when 'webhook_inbox' then 'week' end
$$;

create or replace function partition_column(parent text) returns text language sql immutable as $$
    select case parent when 'events' then 'order_id' when 'webhook_inbox' then 'id' end
$$;

-- Makes the partitions of a table for a span of time, as far as they are not there; returns how many. The table can be read and
-- written meanwhile: a partition is attached, which locks nothing but the default one, and that for a moment.
-- A span of which the default partition holds rows is left out: they would have to be moved.
create or replace function make_partitions(parent text, since timestamptz, until timestamptz) returns integer
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
create or replace function make_next_partitions() returns integer language sql as $$
    select make_partitions('events', now(), now() + interval '40 days')
        + make_partitions('webhook_inbox', now(), now() + interval '10 days')
$$;

-- Takes away the oldest partition that ended at `until` or before and of which nothing is open; returns its name, or null if
-- there is none. Locks the whole table as soon as nobody uses it: to be called with a short `lock_timeout`.
create or replace function drop_partition(parent text, until timestamptz) returns text language plpgsql as $$
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
