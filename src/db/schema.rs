//! The tables as `migrations/` makes them.
#![expect(missing_docs, reason = "the columns are explained in the migrations")]

diesel::table! {
    products (id) {
        id -> Uuid,
        name -> Text,
        price -> BigInt,
        currency -> Text,
        active -> Bool,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    stock (product_id) {
        product_id -> Uuid,
        available -> BigInt,
    }
}

diesel::table! {
    stock_adjustments (id) {
        id -> Uuid,
        product_id -> Uuid,
        delta -> BigInt,
        kind -> Text,
        reason -> Text,
        actor -> Text,
        available_after -> BigInt,
        trace_id -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    orders (id) {
        id -> Uuid,
        status -> Text,
        amount -> BigInt,
        currency -> Text,
        name -> Text,
        customer_ref -> Nullable<Text>,
        hold_expires_at -> Timestamptz,
        cancel_requested_at -> Nullable<Timestamptz>,
        cancel_reason -> Nullable<Text>,
        trace_id -> Nullable<Text>,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    order_items (order_id, line) {
        order_id -> Uuid,
        line -> Integer,
        product_id -> Uuid,
        name -> Text,
        quantity -> Integer,
        unit_price -> BigInt,
        canceled_quantity -> Integer,
        canceling_quantity -> Integer,
    }
}

diesel::table! {
    payments (id) {
        id -> Uuid,
        order_id -> Uuid,
        provider -> Text,
        provider_payment_key -> Text,
        method -> Nullable<Text>,
        status -> Text,
        amount -> BigInt,
        currency -> Text,
        approved_amount -> Nullable<BigInt>,
        canceled_amount -> BigInt,
        canceling_amount -> BigInt,
        confirm_attempt -> Integer,
        confirm_started_at -> Timestamptz,
        provider_transaction_key -> Nullable<Text>,
        provider_secret -> Nullable<Text>,
        deposit_bank_code -> Nullable<Text>,
        deposit_account_number -> Nullable<Text>,
        deposit_holder -> Nullable<Text>,
        deposit_due_at -> Nullable<Timestamptz>,
        decline_class -> Nullable<Text>,
        decline_code -> Nullable<Text>,
        doubt -> Nullable<Text>,
        inquire_at -> Nullable<Timestamptz>,
        inquiries -> Integer,
        not_found_count -> Integer,
        lease_until -> Nullable<Timestamptz>,
        approved_at -> Nullable<Timestamptz>,
        canceled_at -> Nullable<Timestamptz>,
        trace_id -> Nullable<Text>,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    cancellations (id) {
        id -> Uuid,
        payment_id -> Uuid,
        order_id -> Uuid,
        provider -> Text,
        amount -> BigInt,
        moved_amount -> Nullable<BigInt>,
        reason -> Text,
        status -> Text,
        origin -> Text,
        attempt -> Integer,
        needs_account -> Bool,
        provider_transaction_key -> Nullable<Text>,
        refusal_class -> Nullable<Text>,
        refusal_code -> Nullable<Text>,
        doubt -> Nullable<Text>,
        inquire_at -> Nullable<Timestamptz>,
        inquiries -> Integer,
        not_found_count -> Integer,
        lease_until -> Nullable<Timestamptz>,
        canceled_at -> Nullable<Timestamptz>,
        trace_id -> Nullable<Text>,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    cancellation_items (cancellation_id, line) {
        cancellation_id -> Uuid,
        order_id -> Uuid,
        line -> Integer,
        quantity -> Integer,
    }
}

diesel::table! {
    idempotency_keys (owner, route, key) {
        owner -> Text,
        route -> Text,
        key -> Text,
        fingerprint -> Bytea,
        status -> Text,
        resource_id -> Uuid,
        response_status -> Nullable<SmallInt>,
        response_body -> Nullable<Text>,
        lease_until -> Timestamptz,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        under_lock -> Bool,
    }
}

diesel::table! {
    webhook_inbox (id) {
        id -> Uuid,
        provider -> Text,
        dedupe_key -> Text,
        transmission_id -> Nullable<Text>,
        payload -> Bytea,
        received_at -> Timestamptz,
        next_at -> Timestamptz,
        lease_until -> Nullable<Timestamptz>,
        attempts -> Integer,
        processed_at -> Nullable<Timestamptz>,
        outcome -> Nullable<Text>,
        trace_id -> Nullable<Text>,
    }
}

diesel::table! {
    events (order_id, aggregate, aggregate_id, seq) {
        id -> BigInt,
        aggregate -> Text,
        aggregate_id -> Uuid,
        seq -> Integer,
        order_id -> Uuid,
        kind -> Text,
        from_status -> Nullable<Text>,
        to_status -> Text,
        actor -> Text,
        detail -> Jsonb,
        trace_id -> Nullable<Text>,
        occurred_at -> Timestamptz,
    }
}

diesel::table! {
    api_keys (id) {
        id -> Uuid,
        role -> Text,
        label -> Text,
        hash -> Bytea,
        created_at -> Timestamptz,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    audit_progress (rule, mode) {
        rule -> Text,
        mode -> Text,
        rows_checked -> BigInt,
        violations -> BigInt,
        duration_ms -> BigInt,
        proven_until -> Nullable<Timestamptz>,
        last_violation_at -> Nullable<Timestamptz>,
        event_id -> Nullable<BigInt>,
        next_event_id -> Nullable<BigInt>,
        next_transaction -> Nullable<BigInt>,
        standing -> Array<Uuid>,
    }
}

diesel::table! {
    findings (id) {
        id -> Uuid,
        provider -> Text,
        dedupe_key -> Text,
        kind -> Text,
        status -> Text,
        amount -> Nullable<BigInt>,
        currency -> Nullable<Text>,
        provider_payment_key -> Text,
        provider_transaction_key -> Nullable<Text>,
        provider_order_id -> Text,
        payment_id -> Nullable<Uuid>,
        order_id -> Nullable<Uuid>,
        reason -> Text,
        trace_id -> Nullable<Text>,
        occurred_at -> Nullable<Timestamptz>,
        first_seen_at -> Timestamptz,
        last_seen_at -> Timestamptz,
        version -> Integer,
    }
}

diesel::table! {
    audit_leases (mode) {
        mode -> Text,
        owner -> Uuid,
        lease_until -> Timestamptz,
    }
}

diesel::table! {
    finding_history (finding_id, seq) {
        finding_id -> Uuid,
        seq -> Integer,
        status -> Text,
        reason -> Text,
        actor -> Text,
        trace_id -> Nullable<Text>,
        occurred_at -> Timestamptz,
    }
}

diesel::table! {
    reconciliations (provider) {
        provider -> Text,
        reconciled_until -> Nullable<Timestamptz>,
        next_run_at -> Timestamptz,
        lease_owner -> Nullable<Uuid>,
        lease_until -> Nullable<Timestamptz>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    products,
    stock,
    stock_adjustments,
    orders,
    order_items,
    payments,
    cancellations,
    cancellation_items,
    idempotency_keys,
    webhook_inbox,
    events,
    api_keys,
    audit_progress,
    audit_leases,
    findings,
    finding_history,
    reconciliations,
);
