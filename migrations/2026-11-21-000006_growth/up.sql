-- What keeps cost flat as the tables grow: an index, storage settings, and sales totals beside the orders.
-- docs/growth.md says what each figure means.

-- The oldest key without an answer is asked for every few seconds; almost all keys have one.
create index idempotency_keys_in_progress on idempotency_keys (created_at) where status = 'in_progress';

-- Room on each page for the next version of a row, so that it stays on its page, and where no indexed column changes
-- needs no new index entry. Stock has had it from the beginning.
alter table orders set (fillfactor = 85);
alter table order_items set (fillfactor = 90);
alter table payments set (fillfactor = 85);
alter table cancellations set (fillfactor = 85);
alter table idempotency_keys set (fillfactor = 85);
alter table webhook_inbox set (fillfactor = 85);

-- A fifth of a table, which is the default, is too late for one of millions of rows, and later each month.
alter table orders set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table order_items set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table payments set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table cancellations set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table idempotency_keys set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table webhook_inbox set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table events set (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
-- Few rows, each of them changed all the time.
alter table stock set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What was sold and given back, by day (UTC) and product. Derived from the history, and can be made from it again.
create table sales (
    day date not null,
    currency text not null,
    -- The nil id: money that was given back without units.
    product_id uuid not null,
    sold_units bigint not null,
    sold_amount bigint not null,
    canceled_units bigint not null,
    canceled_amount bigint not null,
    constraint sales_pkey primary key (day, currency, product_id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- How far the history is counted.
create table sales_progress (
    only_row boolean not null default true,
    -- Every event up to here is counted, once.
    event_id bigint not null default 0,
    -- May be counted once every transaction below `next_transaction` has ended.
    next_event_id bigint not null default 0,
    next_transaction bigint not null default 0,
    -- Everything that was committed until then is counted.
    counted_until timestamptz,
    next_counted_until timestamptz,
    constraint sales_progress_pkey primary key (only_row),
    constraint sales_progress_once check (only_row),
    constraint sales_progress_order check (event_id <= next_event_id)
);
insert into sales_progress default values;
