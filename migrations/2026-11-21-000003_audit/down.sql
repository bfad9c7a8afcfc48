create index idempotency_keys_open on idempotency_keys (resource_id) where status = 'in_progress';
drop index idempotency_keys_by_resource, cancellation_items_by_line, cancellations_by_order;
drop table audit_leases, audit_progress;
