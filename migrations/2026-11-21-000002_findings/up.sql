-- Reconciliation: what the PG's books and ours disagree on, and how far they were compared.

-- One row per difference. A finding never moves money: it says what a repair did, or what waits for a person.
create table findings (
    id uuid not null,
    provider text not null,
    -- The same difference seen again is the same row.
    dedupe_key text not null,
    kind text not null,
    status text not null,
    -- Minor units; both are null where the PG names a currency that we do not know.
    amount bigint,
    currency text,
    provider_payment_key text not null,
    provider_transaction_key text,
    -- The merchant's order id as the PG has it: not always one of ours.
    provider_order_id text not null,
    payment_id uuid,
    order_id uuid,
    reason text not null,
    trace_id text,
    -- When the PG says that it happened.
    occurred_at timestamptz,
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    -- Grows with each change of status; equals the newest history row's `seq`.
    version integer not null default 1,
    constraint findings_pkey primary key (id),
    constraint findings_once unique (dedupe_key),
    constraint findings_payment_fkey foreign key (payment_id) references payments (id),
    constraint findings_order_fkey foreign key (order_id) references orders (id),
    constraint findings_kind_known check (kind in ('missing_here', 'missing_there', 'amount_differs',
        'canceled_there_only', 'late_approval', 'stock_held')),
    constraint findings_status_known check (status in ('open', 'repaired', 'waiting', 'closed')),
    constraint findings_amount_has_currency check ((amount is null) = (currency is null)),
    constraint findings_reason_length check (char_length(reason) between 1 and 500),
    constraint findings_version_positive check (version > 0)
);
create index findings_by_status on findings (status, id desc);
create index findings_by_payment_key on findings (provider, provider_payment_key);
create index findings_unsettled on findings (provider, last_seen_at) where status in ('open', 'waiting');

-- What became of a finding, and who said so.
create table finding_history (
    finding_id uuid not null,
    seq integer not null,
    status text not null,
    reason text not null,
    actor text not null,
    trace_id text,
    occurred_at timestamptz not null default clock_timestamp(),
    constraint finding_history_pkey primary key (finding_id, seq),
    constraint finding_history_finding_fkey foreign key (finding_id) references findings (id),
    constraint finding_history_seq_positive check (seq > 0),
    constraint finding_history_status_known check (status in ('open', 'repaired', 'waiting', 'closed'))
);
create trigger finding_history_append_only before update or delete on finding_history
    for each row execute function refuse_change();

-- How far each PG's books were compared with ours, and which run is at it.
create table reconciliations (
    provider text not null,
    reconciled_until timestamptz,
    next_run_at timestamptz not null,
    lease_owner uuid,
    lease_until timestamptz,
    constraint reconciliations_pkey primary key (provider),
    constraint reconciliations_lease_has_owner check ((lease_owner is null) = (lease_until is null))
);

-- A window of time is read from our side too.
create index payments_by_approval on payments (approved_at) where approved_at is not null;
create index cancellations_by_time on cancellations (canceled_at) where canceled_at is not null;
