-- All payments have the same provider or nearly so, but while PostgreSQL has no statistics of the table (in the first minute
-- of a shop, and for as long as a connection keeps the plan it made then) any index that begins with it looks as good as the
-- one that finds the payment. So both begin with what tells payments apart. They are built again, a few seconds for a million
-- payments, in which nobody else has the table.
alter table payments
    drop constraint payments_provider_key_once,
    drop constraint payments_transaction_once,
    add constraint payments_provider_key_once unique (provider_payment_key, provider),
    add constraint payments_transaction_once unique (provider_transaction_key, provider);
