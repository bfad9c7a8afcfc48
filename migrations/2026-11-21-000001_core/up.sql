-- The books of a shop: catalogue, stock, orders, payments, cancellations, and their history.
-- Every rule that must never break is a named constraint; the code maps the names to typed errors.
-- Core SQL of PostgreSQL 15 and newer, no extension.

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;

create table products (
    id uuid not null,
    name text not null,
    price bigint not null,
    currency text not null,
    active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint products_pkey primary key (id),
    constraint products_name_length check (char_length(name) between 1 and 100),
    constraint products_price_positive check (price > 0),
    constraint products_currency_form check (currency ~ '^[A-Z]{3}$')
);

-- What can be sold now. Held and sold quantities are derived from orders.
create table stock (
    product_id uuid not null,
    available bigint not null,
    constraint stock_pkey primary key (product_id),
    constraint stock_product_fkey foreign key (product_id) references products (id),
    constraint stock_never_negative check (available >= 0)
) with (fillfactor = 50);

-- Every change of stock that no order explains.
create table stock_adjustments (
    id uuid not null,
    product_id uuid not null,
    delta bigint not null,
    kind text not null,
    reason text not null,
    actor text not null,
    available_after bigint not null,
    trace_id text,
    created_at timestamptz not null default now(),
    constraint stock_adjustments_pkey primary key (id),
    constraint stock_adjustments_product_fkey foreign key (product_id) references products (id),
    constraint stock_adjustments_kind_known check (kind in ('initial', 'restock', 'correction')),
    constraint stock_adjustments_delta_counts check (delta <> 0 or kind = 'initial'),
    constraint stock_adjustments_restock_adds check (kind <> 'restock' or delta > 0),
    constraint stock_adjustments_reason_length check (char_length(reason) between 1 and 200)
);
create index stock_adjustments_by_product on stock_adjustments (product_id, id desc);
create trigger stock_adjustments_append_only before update or delete on stock_adjustments
    for each row execute function refuse_change();

create table orders (
    id uuid not null,
    status text not null,
    amount bigint not null,
    currency text not null,
    name text not null,
    customer_ref text,
    hold_expires_at timestamptz not null,
    cancel_requested_at timestamptz,
    cancel_reason text,
    trace_id text,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint orders_pkey primary key (id),
    -- What a payment points at, so that it can never be of another amount.
    constraint orders_amount_key unique (id, amount, currency),
    constraint orders_status_known check (status in
        ('pending', 'confirming', 'awaiting_deposit', 'paid', 'partially_canceled', 'canceled', 'expired')),
    constraint orders_amount_positive check (amount > 0),
    constraint orders_version_positive check (version > 0)
);
create index orders_by_status on orders (status, id desc);
create index orders_by_hold on orders (hold_expires_at) where status = 'pending';

create table order_items (
    order_id uuid not null,
    line integer not null,
    product_id uuid not null,
    name text not null,
    quantity integer not null,
    unit_price bigint not null,
    canceled_quantity integer not null default 0,
    canceling_quantity integer not null default 0,
    constraint order_items_pkey primary key (order_id, line),
    constraint order_items_order_fkey foreign key (order_id) references orders (id),
    constraint order_items_product_fkey foreign key (product_id) references products (id),
    constraint order_items_product_once unique (order_id, product_id),
    constraint order_items_quantity_positive check (quantity > 0),
    constraint order_items_price_positive check (unit_price > 0),
    constraint order_items_capacity check (
        canceled_quantity >= 0 and canceling_quantity >= 0 and canceled_quantity + canceling_quantity <= quantity)
);
create index order_items_by_product on order_items (product_id);

create table payments (
    id uuid not null,
    order_id uuid not null,
    provider text not null,
    provider_payment_key text not null,
    method text,
    status text not null,
    amount bigint not null,
    currency text not null,
    -- What the PG really took; equal to `amount` for money that the order keeps.
    approved_amount bigint,
    canceled_amount bigint not null default 0,
    -- Taken by a cancellation that is not decided yet.
    canceling_amount bigint not null default 0,
    -- Part of the PG's idempotency key; grows when a certain "nothing happened" allows a new try.
    confirm_attempt integer not null default 1,
    confirm_started_at timestamptz not null default now(),
    provider_transaction_key text,
    provider_secret text,
    deposit_bank_code text,
    deposit_account_number text,
    deposit_holder text,
    deposit_due_at timestamptz,
    decline_class text,
    decline_code text,
    doubt text,
    inquire_at timestamptz,
    inquiries integer not null default 0,
    not_found_count integer not null default 0,
    lease_until timestamptz,
    approved_at timestamptz,
    canceled_at timestamptz,
    trace_id text,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint payments_pkey primary key (id),
    constraint payments_order_amount_fkey foreign key (order_id, amount, currency)
        references orders (id, amount, currency),
    constraint payments_provider_key_once unique (provider, provider_payment_key),
    constraint payments_transaction_once unique (provider, provider_transaction_key),
    constraint payments_status_known check (status in ('ready', 'confirming', 'awaiting_deposit', 'approved',
        'partially_canceled', 'canceled', 'declined', 'expired', 'reversing')),
    constraint payments_kept_amount check (
        status not in ('approved', 'partially_canceled') or approved_amount is not distinct from amount),
    constraint payments_capacity check (canceled_amount >= 0 and canceling_amount >= 0
        and canceled_amount + canceling_amount <= coalesce(approved_amount, amount)),
    constraint payments_unresolved_is_inquired check (
        status not in ('confirming', 'awaiting_deposit') or inquire_at is not null),
    constraint payments_approved_has_time check (status <> 'approved' or approved_at is not null),
    constraint payments_canceled_has_time check (status <> 'canceled' or canceled_at is not null),
    constraint payments_decline_has_class check (status <> 'declined' or decline_class is not null)
);
create unique index payments_one_live_per_order on payments (order_id)
    where status in ('confirming', 'awaiting_deposit', 'approved', 'partially_canceled');
create index payments_by_order on payments (order_id);
create index payments_by_status on payments (status, id desc);
create index payments_due on payments (inquire_at) where inquire_at is not null;

create table cancellations (
    id uuid not null,
    payment_id uuid not null,
    order_id uuid not null,
    provider text not null,
    amount bigint not null,
    reason text not null,
    status text not null,
    origin text not null,
    attempt integer not null default 1,
    -- A refund account is used once and never stored; without it a lost request cannot be sent again.
    needs_account boolean not null default false,
    provider_transaction_key text,
    refusal_class text,
    refusal_code text,
    doubt text,
    inquire_at timestamptz,
    inquiries integer not null default 0,
    not_found_count integer not null default 0,
    lease_until timestamptz,
    canceled_at timestamptz,
    trace_id text,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint cancellations_pkey primary key (id),
    constraint cancellations_payment_fkey foreign key (payment_id) references payments (id),
    constraint cancellations_order_fkey foreign key (order_id) references orders (id),
    constraint cancellations_transaction_once unique (provider, provider_transaction_key),
    constraint cancellations_amount_positive check (amount > 0),
    constraint cancellations_status_known check (status in ('requested', 'done', 'refused')),
    constraint cancellations_origin_known check (origin in ('request', 'wish', 'compensation', 'external')),
    constraint cancellations_open_is_inquired check (status <> 'requested' or inquire_at is not null),
    constraint cancellations_done_has_proof check (
        status <> 'done' or (provider_transaction_key is not null and canceled_at is not null)),
    constraint cancellations_refused_has_class check (status <> 'refused' or refusal_class is not null)
);
-- The PG's balance is known for certain only between cancels, so they go one at a time.
create unique index cancellations_one_open_per_payment on cancellations (payment_id) where status = 'requested';
create index cancellations_by_payment on cancellations (payment_id);
create index cancellations_due on cancellations (inquire_at) where inquire_at is not null;

create table cancellation_items (
    cancellation_id uuid not null,
    order_id uuid not null,
    line integer not null,
    quantity integer not null,
    constraint cancellation_items_pkey primary key (cancellation_id, line),
    constraint cancellation_items_cancellation_fkey foreign key (cancellation_id) references cancellations (id),
    constraint cancellation_items_line_fkey foreign key (order_id, line) references order_items (order_id, line),
    constraint cancellation_items_quantity_positive check (quantity > 0)
);

-- One answer per key. The claim is written with the intent, the response with the resolution.
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
    constraint idempotency_keys_pkey primary key (owner, route, key),
    constraint idempotency_keys_status_known check (status in ('in_progress', 'done')),
    constraint idempotency_keys_done_has_response check (
        (status = 'done') = (response_status is not null and response_body is not null))
);
create index idempotency_keys_open on idempotency_keys (resource_id) where status = 'in_progress';
create index idempotency_keys_by_expiry on idempotency_keys (expires_at);

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
    constraint webhook_inbox_once unique (provider, dedupe_key),
    constraint webhook_inbox_processed_has_outcome check ((processed_at is null) = (outcome is null))
);
create index webhook_inbox_due on webhook_inbox (next_at) where processed_at is null;
create index webhook_inbox_by_age on webhook_inbox (received_at);

-- History, timeline and outbox: one row per change of state, written in the transaction that makes it.
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
    -- No gaps: seq is the row's version after the change.
    constraint events_pkey primary key (aggregate, aggregate_id, seq),
    constraint events_aggregate_known check (aggregate in ('order', 'payment', 'cancellation')),
    constraint events_seq_positive check (seq > 0)
);
create index events_by_order on events (order_id, id);
create index events_by_id on events (id);
create trigger events_append_only before update or delete on events
    for each row execute function refuse_change();

create table api_keys (
    id uuid not null,
    role text not null,
    label text not null,
    hash bytea not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    constraint api_keys_pkey primary key (id),
    constraint api_keys_role_known check (role in ('secret', 'publishable')),
    constraint api_keys_label_length check (char_length(label) between 1 and 100)
);
