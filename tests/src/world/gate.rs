//! A worker that does each step only when the test says so, in the test's process.
//!
//! Between two steps nothing happens: whatever the test brings about there, it brings about at that very point of the
//! turn. No step is a matter of luck.
//!
//! Hosted by parents in `it/wake.rs`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pod::store::{SystemItem, TurnCause};
use pod::{TurnContext, TurnEnd, Worker, WorkerError, Workers};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// How long a step may take to come.
const PATIENCE: Duration = Duration::from_secs(45);

/// What the worker is to do next.
#[derive(Clone, Debug)]
pub enum Cue {
    /// Ask for what the agent is to be told.
    Request,
    /// Confirm it.
    Respond,
    /// End the turn.
    End(TurnEnd),
    /// Fail.
    Fail(&'static str),
    /// Wait until the turn is asked to end, and end it as it was asked to.
    Obey,
}

/// What the worker did.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// A turn began.
    Turn(TurnCause, Option<String>),
    /// The agent was told these.
    Told(Vec<SystemItem>),
    /// It confirmed them.
    Responded,
}

/// The test's side.
#[derive(Debug)]
pub struct Gate {
    cues: mpsc::Sender<Cue>,
    seen: mpsc::Receiver<Seen>,
}

struct Gated {
    cues: Arc<Mutex<mpsc::Receiver<Cue>>>,
    seen: mpsc::Sender<Seen>,
}

/// `workers`, and the worker `gated`, which does as the gate says.
pub fn gated(workers: Workers) -> (Workers, Gate) {
    let (cues, cued) = mpsc::channel(64);
    let (seen, sees) = mpsc::channel(64);
    let cued = Arc::new(Mutex::new(cued));
    let workers = workers.with("gated", move |_| Ok(Box::new(Gated { cues: Arc::clone(&cued), seen: seen.clone() })));
    (workers, Gate { cues, seen: sees })
}

impl Gate {
    /// Lets the worker do something.
    ///
    /// # Panics
    /// If it has gone.
    pub async fn cue(&self, cue: Cue) {
        self.cues.send(cue).await.expect("the worker is there");
    }

    /// What the worker did next.
    ///
    /// # Panics
    /// If it does nothing in time.
    pub async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.expect("the worker does something").expect("the worker is there")
    }

    /// Waits for the beginning of a turn.
    ///
    /// # Panics
    /// If something else happens first.
    #[track_caller]
    pub fn turn(&mut self) -> impl Future<Output = TurnCause> {
        let caller = std::panic::Location::caller();
        async move {
            match self.next().await {
                Seen::Turn(cause, _) => cause,
                other => panic!("no turn begins, but {other:?} (at {caller})"),
            }
        }
    }

    /// Lets the worker ask for what the agent is to be told, and returns it.
    ///
    /// # Panics
    /// If something else happens first.
    pub async fn request(&mut self) -> Vec<SystemItem> {
        self.cue(Cue::Request).await;
        match self.next().await {
            Seen::Told(items) => items,
            other => panic!("no request, but {other:?}"),
        }
    }

    /// Lets the worker confirm what it was told.
    ///
    /// # Panics
    /// If something else happens first.
    pub async fn respond(&mut self) {
        self.cue(Cue::Respond).await;
        assert_eq!(self.next().await, Seen::Responded);
    }

    /// Whether the worker has done nothing that was not waited for.
    pub fn is_quiet(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }
}

impl Gated {
    async fn see(&self, seen: Seen) -> Result<(), WorkerError> {
        self.seen.send(seen).await.map_err(|_| WorkerError::new("the test is over"))
    }
}

impl Worker for Gated {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            self.see(Seen::Turn(cx.cause(), cx.input().map(str::to_owned))).await?;
            loop {
                let cue = self.cues.lock().await.recv().await;
                match cue.ok_or_else(|| WorkerError::new("the test is over"))? {
                    Cue::Request => {
                        let items = cx.next_request().await?;
                        self.see(Seen::Told(items)).await?;
                    }
                    Cue::Respond => {
                        cx.response_received().await?;
                        self.see(Seen::Responded).await?;
                    }
                    Cue::End(end) => return Ok(end),
                    Cue::Fail(message) => return Err(WorkerError::new(message)),
                    Cue::Obey => {
                        return Ok(match cx.signalled().await {
                            pod::worker::Signal::Pause => TurnEnd::Paused,
                            _ => TurnEnd::Cancelled,
                        });
                    }
                }
            }
        })
    }
}
