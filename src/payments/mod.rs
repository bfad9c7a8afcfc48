//! The verbs of the shop, one file each, told in order: intend → act → resolve.
//!
//! `http/` and `worker/` call these; nothing else opens a transaction. The intent is committed before the PG is
//! called, nothing is held during the call, and `resolve` alone turns what was learnt into state.

mod after_commit;
mod again;
pub mod audit;
pub mod cancel;
pub mod cancel_order;
pub mod catalogue;
pub mod claim;
pub mod confirm;
mod doubt;
pub mod expire;
pub mod explain;
mod external;
pub mod findings;
pub mod inquire;
pub mod live;
mod measure;
pub mod order;
pub mod reconcile;
pub mod recovery;
pub mod resolve;
pub mod resolve_cancel;
pub mod sales;
mod told;
pub mod view;
pub mod webhook;
