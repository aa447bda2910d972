//! A server that follows a script.
//!
//! Requests are compared with what is expected, in order; what does not match is refused and remembered as a failure of
//! the test. Never answers anything that the script does not say.
//!
//! A `World` whose handlers are the script.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::world::{Side, World};
use crate::client::Client;
use crate::limits::Limits;
use crate::request::{__private, DecodeFault, Has, Protocol, Request, StreamRequest};
use crate::responder::{RawResponder, Responder};
use crate::service::{Answer, Service};

/// A scripted server of `P`, and a client of it.
///
/// Expectations are met in the order in which they were made, across all methods. When the mock is dropped, or by
/// [`verify`](Self::verify), the test fails if one was not met, or if something came that was not expected.
pub struct Mock<P: Protocol> {
    world: World<P>,
    script: Arc<Mutex<Script>>,
}

/// What happens to the connection between a request's arrival and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// It is cut. The client connects again, and is told that the request runs.
    Cut,
    /// The client reads something that is no frame. It gives the connection up and connects again.
    Garbage,
    /// The server loses its memory. The client connects again and learns that the request is forgotten; an answer has
    /// nobody to go to.
    Restart,
    /// The server is gone and stays away.
    Stop,
}

/// A request that is expected, whose answer has yet to be said.
#[must_use = "an expectation counts once its answer has been said"]
pub struct Expected<'a, R: Request> {
    script: &'a Mutex<Script>,
    matches: Box<dyn Fn(&R) -> bool + Send>,
    trouble: Vec<Trouble>,
}

type Act = Box<dyn FnOnce(RawResponder, &mut Vec<Box<dyn Send>>) + Send>;
/// Says what is wrong with a body, if it is not the expected one.
type Check = Box<dyn Fn(&[u8]) -> Result<(), String> + Send>;

struct Step {
    method: (u16, u16),
    name: &'static str,
    check: Check,
    trouble: Vec<Trouble>,
    act: Act,
}

#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    met: usize,
    unexpected: Vec<String>,
    /// Responders that must not be dropped: that would be an answer.
    kept: Vec<Box<dyn Send>>,
}

impl<P: Protocol> Mock<P> {
    /// A server that expects nothing yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[expect(clippy::new_without_default, reason = "it starts a server")]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A mock with limits of its own, on both sides.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_limits(limits: Limits) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        // Known once the world is there; the world holds the script, so this way must be weak.
        let side = Arc::new(Mutex::new(Weak::<Side<P>>::new()));
        let service = Service::<P>::starting({
            let (script, side) = (Arc::clone(&script), Arc::clone(&side));
            move |method, version, body: &[u8], raw| {
                if !P::METHODS.iter().any(|known| (known.id, known.version) == (method, version)) {
                    return Err(__private::fault(P::METHODS, method));
                }
                let side = Weak::clone(&held(&side));
                follow(&script, (method, version), body, raw, &side)
            }
        });
        let world = World::of(service, limits);
        *held(&side) = Arc::downgrade(&world.side);
        Self { world, script }
    }

    /// Expects `R` next, behind what is expected already, where `matches` agrees with it. What is said on the returned value
    /// is its answer.
    pub fn expect<R: Request>(&self, matches: impl Fn(&R) -> bool + Send + 'static) -> Expected<'_, R>
    where
        P: Has<R>,
    {
        Expected { script: &self.script, matches: Box::new(matches), trouble: Vec::new() }
    }

    /// The client. Clone it for code that keeps one.
    pub fn client(&self) -> &Client<P> {
        self.world.client()
    }

    /// The world behind it, to cut, stall and restart at other moments than a request's arrival.
    pub fn world(&self) -> &World<P> {
        &self.world
    }

    /// How many requests came as expected.
    pub fn met(&self) -> usize {
        held(&self.script).met
    }

    /// Ends the test if something did not happen as expected.
    ///
    /// # Panics
    /// With everything that was not expected, and everything that was and did not come.
    #[track_caller]
    pub fn verify(self) {
        self.complain();
    }

    #[track_caller]
    fn complain(&self) {
        let (complaint, count) = {
            let mut script = held(&self.script);
            let missing: Vec<_> = script.steps.drain(..).map(|step| format!("`{}` did not come", step.name)).collect();
            let all: Vec<_> = script.unexpected.drain(..).chain(missing).collect();
            (all.join("; "), all.len())
        };
        assert!(count == 0, "the script of `{}` was not followed: {complaint}", P::NAME);
    }
}

impl<P: Protocol> Drop for Mock<P> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.complain();
        }
    }
}

fn held<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A check of the test's own may have panicked; what it left is still in order.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares a request with the script and does what that says.
fn follow<P: Protocol>(
    script: &Mutex<Script>,
    method: (u16, u16),
    body: &[u8],
    raw: RawResponder,
    side: &Weak<Side<P>>,
) -> Result<std::future::Ready<Answer>, DecodeFault> {
    let name = P::METHODS.iter().find(|known| (known.id, known.version) == method).map_or("?", |known| known.name);
    let mut script = held(script);
    let wrong = match script.steps.front() {
        None => Some(format!("`{name}` came, and nothing more was expected")),
        Some(step) if step.method != method => Some(format!("`{name}` came instead of `{}`", step.name)),
        Some(step) => (step.check)(body).err(),
    };
    let step = match wrong {
        None => script.steps.pop_front(),
        Some(wrong) => {
            let answer = Answer::unavailable(&wrong);
            script.unexpected.push(wrong);
            return Ok(std::future::ready(answer));
        }
    };
    if let Some(step) = step {
        script.met += 1;
        if let (Some(side), false) = (side.upgrade(), step.trouble.is_empty()) {
            // Behind the request's own task, and the answer behind the trouble.
            let trouble = step.trouble;
            let act = step.act;
            let script_kept = Kept(Arc::new(Mutex::new(Vec::new())));
            script.kept.push(Box::new(script_kept.clone()));
            tokio::spawn(async move {
                for trouble in trouble {
                    match trouble {
                        Trouble::Cut => side.cut(),
                        Trouble::Garbage => side.garbage(),
                        Trouble::Restart => side.restart(),
                        Trouble::Stop => side.stop(),
                    }
                }
                act(raw, &mut held(&script_kept.0));
            });
        } else {
            (step.act)(raw, &mut script.kept);
        }
    }
    Ok(std::future::ready(Answer::Deferred))
}

#[derive(Clone)]
struct Kept(Arc<Mutex<Vec<Box<dyn Send>>>>);

impl<R: Request> Expected<'_, R> {
    /// First this happens to the connection. May be said several times.
    pub fn after(mut self, trouble: Trouble) -> Self {
        self.trouble.push(trouble);
        self
    }

    /// The handler applies it.
    pub fn acks(self, ack: R::Ack) {
        self.then(|responder| responder.ack(ack));
    }

    /// The handler says no.
    pub fn rejects(self, rejection: R::Rejection) {
        self.then(|responder| responder.reject(rejection));
    }

    /// The handler's answer depends on the request's own responder.
    pub fn then(self, answer: impl FnOnce(Responder<R>) + Send + 'static) {
        self.push(Box::new(move |raw, _| answer(raw.into_responder())));
    }

    /// The handler has too much to do: not delivered, and when to come back. Sent as *overloaded*, in whole milliseconds.
    pub fn overloaded(self, retry_after: Duration) {
        self.then(move |responder| responder.overloaded(retry_after));
    }

    /// The handler does not take it: not delivered, with this reason.
    pub fn not_taken(self, why: &str) {
        let why = why.to_owned();
        self.then(move |responder| responder.not_taken(&why));
    }

    /// The handler goes without an answer: the caller is in doubt, at once.
    pub fn fails(self) {
        self.then(drop);
    }

    /// The handler never answers: the caller is in doubt when its deadline has passed, or sooner if its connection does not
    /// come back.
    pub fn never_answers(self) {
        self.push(Box::new(|raw, kept| kept.push(Box::new(raw.into_responder::<R>()))));
    }

    fn push(self, act: Act) {
        let matches = self.matches;
        let check: Check = Box::new(move |body| match __private::request::<R>(body) {
            Ok(request) if matches(&request) => Ok(()),
            Ok(_) => Err(format!("`{}` came with something else in it than expected", R::NAME)),
            Err(fault) => Err(format!("`{}` came and could not be read: {fault}", R::NAME)),
        });
        let step = Step { method: (R::ID, R::VERSION), name: R::NAME, check, trouble: self.trouble, act };
        held(self.script).steps.push_back(step);
    }
}

impl<R: StreamRequest> Expected<'_, R> {
    /// The handler applies it and sends these items.
    pub fn streams(self, ack: R::Ack, items: impl IntoIterator<Item = R::Item>)
    where
        R::Item: Sync,
    {
        let items: Vec<R::Item> = items.into_iter().collect();
        self.push(Box::new(move |raw, _| {
            let sender = raw.items::<R::Item, R::Lossy>();
            raw.into_responder::<R>().ack(ack);
            tokio::spawn(async move {
                for item in items {
                    if sender.send(item).await.is_err() {
                        return;
                    }
                }
            });
        }));
    }
}

impl<P: Protocol> fmt::Debug for Mock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mock").field("service", &P::NAME).field("met", &self.met()).finish_non_exhaustive()
    }
}

impl<R: Request> fmt::Debug for Expected<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").field("method", &R::NAME).finish_non_exhaustive()
    }
}
