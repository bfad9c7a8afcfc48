//! The words of what work needs and waits for: steps, locked rows, stock, and what we depend on.

use crate::domain::vocabulary;

vocabulary! {
    /// What the time of a use case is spent on. Each moment belongs to exactly one.
    pub enum Step {
        /// Waiting until other orders of the same product are taken.
        QueueWait => "queue_wait",
        /// In a transaction that takes several orders of one product.
        SharedTx => "shared_tx",
        /// Waiting for a database connection.
        PoolWait => "pool_wait",
        /// Opening a transaction.
        TxBegin => "tx_begin",
        /// A statement that locks rows that others may hold, or a pause after others won.
        LockWait => "lock_wait",
        /// Any other statement.
        Statements => "statements",
        /// Ending a transaction.
        TxCommit => "tx_commit",
        /// A PG, and the wait for a place to call it.
        PgCall => "pg_call",
        /// Our own processor time.
        Compute => "compute",
        /// Neither running nor waiting for any of these.
        Unattributed => "unattributed",
    }
}

vocabulary! {
    /// What a statement locks.
    pub enum LockResource {
        /// A product.
        Product => "product",
        /// An order and its lines.
        Order => "order",
        /// A payment.
        Payment => "payment",
        /// A cancellation.
        Cancellation => "cancellation",
        /// An idempotency key.
        Idempotency => "idempotency",
        /// A webhook.
        Webhook => "webhook",
        /// The stock of a product.
        Stock => "stock",
        /// Something else.
        Other => "other",
    }
}

vocabulary! {
    /// What a try to hold the stock of an order came to.
    pub enum ReservationResult {
        /// All of it is held.
        Reserved => "reserved",
        /// There is not enough of something.
        Insufficient => "insufficient",
        /// It is sold out, as the database has just said to another.
        SoldOut => "sold_out",
        /// The database could not.
        Error => "error",
    }
}

vocabulary! {
    /// What we cannot or would rather not work without.
    pub enum Dependency {
        /// PostgreSQL.
        Database => "database",
        /// Redis, where one is configured.
        Redis => "redis",
    }
}
