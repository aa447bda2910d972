//! A worker that keeps a book: it writes down what it is told, and does nothing else.
//!
//! Never fails because of what it is told.
//!
//! What `pod run`'s own parent hosts.

use futures::future::BoxFuture;

use super::{TurnContext, TurnEnd, Worker, WorkerError};

/// Records the reports that each turn was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger;

impl Worker for Ledger {
    fn starts_processes(&self) -> bool {
        false
    }

    /// It knows nothing; what it is told again it writes down again.
    fn rewinds(&self) -> bool {
        true
    }

    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            if let Some(input) = cx.input() {
                cx.output(&format!("asked: {input}")).await?;
            }
            loop {
                let items = cx.next_request().await?;
                if items.is_empty() {
                    return Ok(TurnEnd::Finished);
                }
                for item in &items {
                    cx.output(item.text()).await?;
                }
                cx.response_received().await?;
            }
        })
    }
}
