alter table payments
    drop constraint payments_provider_key_once,
    drop constraint payments_transaction_once,
    add constraint payments_provider_key_once unique (provider, provider_payment_key),
    add constraint payments_transaction_once unique (provider, provider_transaction_key);
