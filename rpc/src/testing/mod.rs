//! For tests of code that calls or serves: no sockets, no sleeping, every outcome on demand.
//!
//! Behind the feature `testing`, for `[dev-dependencies]` only: Cargo unifies features over what it builds together, so
//! keep it out of what you ship. Nothing here is a second implementation: client, session and server are the real ones;
//! only what lies between them is ours, and can be cut, stalled and made to lie.
//!
//! - [`World`]: your client code against your own handlers.
//! - [`Mock`]: your client code against a script: what requests must come, and how each is answered, or not.
//!
//! With a paused clock (`#[tokio::test(start_paused = true)]`, tokio's feature `test-util`) deadlines pass without anybody
//! waiting, and a test comes out the same each time.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use std::time::Duration;
//!
//! use rpc::testing::{Direction, Mock, Trouble, World};
//! use rpc::{CallError, Client};
//!
//! #[derive(serde::Serialize, serde::Deserialize, rpc::Request)]
//! #[rpc(id = 1, ack = u64)]
//! struct Deposit { cents: u64 }
//! #[derive(rpc::Protocol)]
//! #[rpc(name = "bank", version = 1)]
//! enum Bank { Deposit(Deposit) }
//!
//! /// What is tested: whoever pays must know whether it was paid.
//! async fn pay(bank: &Client<Bank>, cents: u64) -> &'static str {
//!     match bank.call(Deposit { cents }).await {
//!         Ok(_) => "paid",
//!         Err(CallError::Rejected(never)) => match never {},
//!         Err(CallError::NotDelivered(_)) => "not paid",
//!         Err(CallError::Unknown(doubt)) => match doubt.resolve().await {
//!             Ok(_) => "paid after all",
//!             Err(_) => "ask a person",
//!         },
//!     }
//! }
//!
//! struct Vault(Arc<AtomicU64>);
//! impl BankHandler for Vault {
//!     async fn deposit(&self, m: Deposit) -> Result<u64, rpc::Never> {
//!         Ok(self.0.fetch_add(m.cents, Ordering::SeqCst) + m.cents)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! // Against the real handlers: the answer is lost with its connection, and found again.
//! let total = Arc::new(AtomicU64::new(0));
//! let world = World::<Bank>::new(Vault(Arc::clone(&total)));
//! assert_eq!(pay(world.client(), 5).await, "paid");
//! world.stall(Direction::ToClient);
//! let paying = tokio::spawn({ let bank = world.client().clone(); async move { pay(&bank, 5).await } });
//! world.settle().await;
//! world.cut();
//! world.resume(Direction::ToClient);
//! assert_eq!(paying.await.unwrap(), "paid");
//! assert_eq!(total.load(Ordering::SeqCst), 10, "applied once");
//! world.stop();
//! world.settle().await;
//! assert_eq!(pay(world.client(), 5).await, "not paid");
//!
//! // Against a script: every outcome.
//! let bank = Mock::<Bank>::new();
//! bank.expect::<Deposit>(|m| m.cents == 5).acks(5);
//! bank.expect::<Deposit>(|_| true).overloaded(Duration::from_millis(10));
//! bank.expect::<Deposit>(|_| true).fails();
//! bank.expect::<Deposit>(|_| true).after(Trouble::Cut).acks(10);
//! bank.expect::<Deposit>(|_| true).after(Trouble::Restart).never_answers();
//! assert_eq!(pay(bank.client(), 5).await, "paid");
//! assert_eq!(pay(bank.client(), 5).await, "not paid");
//! assert_eq!(pay(bank.client(), 5).await, "ask a person");
//! assert_eq!(pay(bank.client(), 5).await, "paid");
//! assert_eq!(pay(bank.client(), 5).await, "ask a person");
//! bank.verify();
//! # }
//! ```

mod mock;
mod wire;
mod world;

pub use self::mock::{Expected, Mock, Trouble};
pub use self::wire::Direction;
pub use self::world::World;
