drop table api_keys, events, webhook_inbox, idempotency_keys, cancellation_items, cancellations, payments,
    order_items, orders, stock_adjustments, stock, products;
drop function refuse_change();
