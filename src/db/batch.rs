//! Statements that are sent together, so that they cost one wait for the database and not one each.
//!
//! The server executes them one after the other, in the order in which they were added, and each is sent before the one
//! before it is answered. So none of them may need another's answer, and what must not happen is refused by a
//! constraint: after a statement that fails, the rest of the transaction fails too, and its end undoes everything.

use std::future::poll_fn;
use std::task::Poll;

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::events::{self, NewEvent};
use super::locks::{self, End};
use super::{Conn, DbError};

/// Statements to be sent on one connection.
pub struct Batch<'c> {
    conn: &'c Conn,
    statements: Vec<Statement<'c>>,
    events: Vec<NewEvent>,
}

enum Statement<'c> {
    UnderWay(BoxFuture<'c, Result<(), DbError>>),
    Answered(Result<(), DbError>),
}

impl<'c> Batch<'c> {
    /// Nothing yet.
    #[must_use]
    pub const fn new(conn: &'c Conn) -> Self {
        Self { conn, statements: Vec::new(), events: Vec::new() }
    }

    /// The connection, for statements to add.
    #[must_use]
    pub const fn conn(&self) -> &'c Conn {
        self.conn
    }

    /// Adds the future of exactly one statement; it is sent later.
    pub fn add(&mut self, statement: impl Future<Output = Result<(), DbError>> + Send + 'c) {
        self.statements.push(Statement::UnderWay(statement.boxed()));
    }

    /// Adds an event. All of them are one statement, behind what was added before the next [`Batch::put_events`] or the end.
    pub fn event(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// Adds the statement of the events so far, for what must come behind them.
    pub fn put_events(&mut self) {
        if !self.events.is_empty() {
            let (conn, events) = (self.conn, std::mem::take(&mut self.events));
            self.add(events::append_all(conn, events));
        }
    }

    /// Sends what was added, and waits for the answers. Of several errors the first is the cause of the others.
    ///
    /// # Errors
    /// If a statement failed; the transaction is to be rolled back then.
    pub async fn send(&mut self) -> Result<(), DbError> {
        self.put_events();
        let mut statements = std::mem::take(&mut self.statements);
        // Each time in this order: what is polled first is sent first.
        poll_fn(|context| {
            let mut is_waiting = false;
            for statement in &mut statements {
                if let Statement::UnderWay(future) = statement {
                    match future.as_mut().poll(context) {
                        Poll::Ready(answer) => *statement = Statement::Answered(answer),
                        Poll::Pending => is_waiting = true,
                    }
                }
            }
            if is_waiting { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        for statement in statements {
            if let Statement::Answered(answer) = statement {
                answer?;
            }
        }
        Ok(())
    }

    /// Sends what was added as the last statements of the transaction, and with them its end: they are committed, or
    /// none of them is. A crash point of tests between them and the end keeps the two apart.
    ///
    /// # Errors
    /// If a statement failed, or the end.
    pub async fn commit(mut self) -> Result<(), DbError> {
        if !locks::may_end_early() {
            return self.send().await;
        }
        self.put_events();
        let conn = self.conn;
        self.add(async move {
            locks::closes();
            let ended = Control::COMMIT.execute(&mut &*conn).await;
            if ended.is_ok() {
                locks::set_end(End::Over);
            }
            ended.map(drop).map_err(DbError::from)
        });
        self.send().await
    }
}

/// A statement that opens or ends a transaction, prepared like any other: so it keeps its place among those that are
/// sent together, also if one of them has to be prepared first.
pub(super) struct Control(&'static str);

impl Control {
    pub(super) const BEGIN: Self = Self("BEGIN");
    pub(super) const COMMIT: Self = Self("COMMIT");
    pub(super) const ROLLBACK: Self = Self("ROLLBACK");
}

impl QueryFragment<Pg> for Control {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(self.0);
        Ok(())
    }
}

impl QueryId for Control {
    type QueryId = ();
    // Told apart by their text.
    const HAS_STATIC_QUERY_ID: bool = false;
}
