-- What the auditor has proven, per rule, and which rows it found wrong.
create table audit_progress (
    rule text not null,
    -- `changed`: what the program has changed since the last round. `full`: every row.
    mode text not null,
    -- Of the last run.
    rows_checked bigint not null,
    violations bigint not null,
    duration_ms bigint not null,
    -- Everything that was committed until then has been judged by this rule.
    proven_until timestamptz,
    last_violation_at timestamptz,
    -- The rest is for `changed` alone. Every event up to here was visible to a round that judged it.
    event_id bigint,
    -- Becomes `event_id` once every transaction below `next_transaction` has ended.
    next_event_id bigint,
    next_transaction bigint,
    -- What was wrong when last looked at, so that it is looked at again until it is right.
    standing uuid[] not null default '{}',
    constraint audit_progress_pkey primary key (rule, mode),
    constraint audit_progress_mode_known check (mode in ('changed', 'full')),
    constraint audit_progress_standing_bound check (cardinality(standing) <= 1000)
);

-- Who audits. One process at a time for each mode.
create table audit_leases (
    mode text not null,
    owner uuid not null,
    lease_until timestamptz not null,
    constraint audit_leases_pkey primary key (mode),
    constraint audit_leases_mode_known check (mode in ('changed', 'full'))
);

-- The rules reach the rows of an order from its id, and keys from what they made.
create index cancellations_by_order on cancellations (order_id);
create index cancellation_items_by_line on cancellation_items (order_id, line);
create index idempotency_keys_by_resource on idempotency_keys (resource_id);
-- Everything that this index answered, the wider one does, and answering a key no longer moves an index entry.
drop index idempotency_keys_open;
