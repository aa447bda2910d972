//! A pod of this process whose worker does what a test says, step by step: for the tests of this crate.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc};

use crate::handle::{PodController, PodHandle, PodOptions};
use crate::id::PodId;
use crate::life_lock::LifeLock;
use crate::manifest::{Limits, WorkerSpec};
use crate::protocol::{Method, MethodCall, PodState, Run, SendToPod};
use crate::runtime_dir::Roots;
use crate::store::{Lifetime, NewChild, TurnCause};
use crate::worker::{TurnContext, TurnEnd, Worker, WorkerError, Workers};

/// Real time passes in these tests: generous, so that only what hangs fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What a test tells the worker to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Ask for the next request.
    Request,
    /// Have answered it.
    Response,
    /// Wait until the turn is asked to end, and end so.
    EndWhenAsked(TurnEnd),
    /// End.
    End(TurnEnd),
    /// Fail.
    Fail,
    /// Panic before the turn's future is there.
    PanicAtOnce,
    /// Use a tool with these arguments, in JSON.
    Use(&'static str, &'static str),
}

/// What the worker says to the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Started(TurnCause),
    Told(Vec<String>),
    Answered,
    Asked,
}

/// A pod, and the strings of its worker.
pub(crate) struct Puppet {
    pub(crate) pod: PodHandle,
    acts: mpsc::Sender<Act>,
    said: mpsc::Receiver<Said>,
    roots: TempDir,
    pub(crate) limits: Limits,
}

struct Worked {
    reads_reports: bool,
    panics: bool,
    acts: Arc<Mutex<mpsc::Receiver<Act>>>,
    said: mpsc::Sender<Said>,
}

impl Puppet {
    pub(crate) async fn new() -> Self {
        Self::at(TempDir::new().unwrap(), true, false).await
    }

    /// The next life of the same pod.
    pub(crate) async fn again(self, reads_reports: bool) -> Self {
        within("the end of the pod", self.pod.wait()).await;
        Self::start(self.roots, reads_reports, false, std::path::Path::new("/bin/false"), self.limits, None).await
    }

    /// One that starts no turn when `outbox` of its events wait for its parent.
    pub(crate) async fn with_outbox(outbox: u64) -> Self {
        let (roots, program) = (TempDir::new().unwrap(), std::path::Path::new("/bin/false"));
        Self::start(roots, true, false, program, Limits::default(), Some(outbox)).await
    }

    /// The root of a tree with these bounds.
    pub(crate) async fn bounded(limits: Limits) -> Self {
        Self::start(TempDir::new().unwrap(), true, false, std::path::Path::new("/bin/false"), limits, None).await
    }

    pub(crate) async fn at(roots: TempDir, reads_reports: bool, panics: bool) -> Self {
        Self::with(roots, reads_reports, panics, std::path::Path::new("/bin/false")).await
    }

    /// `program` is what its children are started from.
    pub(crate) async fn with(roots: TempDir, reads_reports: bool, panics: bool, program: &std::path::Path) -> Self {
        Self::start(roots, reads_reports, panics, program, Limits::default(), None).await
    }

    async fn start(
        roots: TempDir,
        reads_reports: bool,
        panics: bool,
        program: &std::path::Path,
        limits: Limits,
        outbox: Option<u64>,
    ) -> Self {
        let (acts, to_do) = mpsc::channel(16);
        let (says, said) = mpsc::channel(16);
        let to_do = Arc::new(Mutex::new(to_do));
        let workers = Workers::builtin().with("puppet", move |_| {
            Ok(Box::new(Worked { reads_reports, panics, acts: to_do.clone(), said: says.clone() }))
        });
        let options = PodOptions::new("puppet".parse().unwrap(), WorkerSpec::of_kind("puppet"))
            .workers(workers)
            .roots(Roots::at(&roots.path().join("pods")).unwrap())
            .limits(limits)
            .program(program);
        let options = match outbox {
            Some(max) => options.outbox_full_at(max),
            None => options,
        };
        let pod = PodController::spawn(options).await.unwrap();
        Self { pod, acts, said, roots, limits }
    }

    pub(crate) async fn act(&self, act: Act) {
        self.acts.send(act).await.unwrap();
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, wanted: Said) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let said = within("the worker's word", self.said.recv()).await;
            assert_eq!(said, Some(wanted), "at {place}");
        }
    }

    /// Starts the worker's next request and tells what it was told.
    pub(crate) async fn told(&mut self) -> Vec<String> {
        self.act(Act::Request).await;
        match within("what the worker is told", self.said.recv()).await {
            Some(Said::Told(items)) => items,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn answered(&mut self) {
        self.act(Act::Response).await;
        self.expect(Said::Answered).await;
    }

    pub(crate) async fn state(&self, wanted: PodState) {
        let mut phase = self.pod.shared().phase.subscribe();
        within(&format!("the state {wanted}"), phase.wait_for(|phase| *phase == wanted)).await.unwrap();
    }

    pub(crate) async fn adopt_this_process(&self, name: &str) -> crate::id::PodId {
        adopt_this_process(&self.pod, name).await
    }
}

/// A child that a test plays: its socket is real, its life lock is held, and what it is asked the test answers.
pub(crate) struct Played {
    pub(crate) pod: PodId,
    calls: rpc::Calls<Method>,
    _server: rpc::Server,
    _lock: LifeLock,
}

impl Played {
    pub(crate) async fn of(parent: &PodHandle, name: &str) -> Self {
        let pod = adopt_this_process(parent, name).await;
        let paths = parent.roots().pod(&pod.name);
        paths.make_state_dir().unwrap();
        let lock = LifeLock::acquire(&paths.life_lock(), &pod).unwrap();
        paths.claim(&pod).unwrap();
        let (server, calls) = rpc::serve_calls::<Method>(&rpc::Address::unix(paths.socket()), 16).await.unwrap();
        Self { pod, calls, _server: server, _lock: lock }
    }

    /// The next run that it is asked for.
    pub(crate) async fn asked(&mut self) -> (Run, rpc::Responder<Run>) {
        self.call(|call| match call {
            MethodCall::Run(run, responder) => Some((run, responder)),
            _ => None,
        })
        .await
    }

    /// The next thing that it is sent.
    pub(crate) async fn sent(&mut self) -> (SendToPod, rpc::Responder<SendToPod>) {
        self.call(|call| match call {
            MethodCall::SendToPod(request, responder) => Some((request, responder)),
            MethodCall::Run(run, _) => panic!("it is asked for a run: {run:?}"),
            _ => None,
        })
        .await
    }

    /// The next call that is `wanted`.
    pub(crate) async fn call<T>(&mut self, wanted: impl Fn(MethodCall) -> Option<T>) -> T {
        within("a call", async {
            loop {
                if let Some(found) = wanted(self.calls.recv().await.unwrap()) {
                    return found;
                }
            }
        })
        .await
    }
}

/// Makes this very process a child of `pod`, so that it may report as one.
pub(crate) async fn adopt_this_process(pod: &PodHandle, name: &str) -> crate::id::PodId {
    let child = crate::store::fixture::pod(name, 7);
    let paths = pod.roots().pod(&child.name);
    let new = NewChild {
        pod: child.clone(),
        worker: String::new(),
        lifetime: Lifetime::Tied,
        restart: crate::store::Restart::default(),
        restarted: false,
        socket: paths.socket(),
        store: paths.store(),
        runtime_dir: paths.runtime_dir().to_owned(),
        scope: Vec::new(),
    };
    let reserved = child.clone();
    let reserve = move |tx: &crate::store::Tx<'_>| {
        tx.reserve_child(&new)?;
        tx.child(&reserved)
    };
    let row = pod.commit(reserve).await.unwrap().unwrap();
    let started = pod.shared().registry.add(&row, || Ok::<_, std::io::Error>(Some(std::process::id())));
    drop(started);
    child
}

impl Worker for Worked {
    fn reads_reports(&self) -> bool {
        self.reads_reports
    }

    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        assert!(!self.panics, "as it was told");
        Box::pin(async move {
            self.said.send(Said::Started(cx.cause())).await.unwrap();
            loop {
                let act = self.acts.lock().await.recv().await.unwrap();
                let said = match act {
                    Act::Request => {
                        let items = cx.next_request().await?;
                        Said::Told(items.iter().map(|item| item.text().to_owned()).collect())
                    }
                    Act::Response => {
                        cx.response_received().await?;
                        Said::Answered
                    }
                    Act::EndWhenAsked(end) => {
                        cx.signalled().await;
                        self.said.send(Said::Asked).await.unwrap();
                        return Ok(end);
                    }
                    Act::End(end) => return Ok(end),
                    Act::Use(name, arguments) => {
                        let arguments = serde_json::from_str(arguments).unwrap();
                        crate::tools::use_tool(cx, crate::worker::ToolCall::new(name, arguments)).await?;
                        Said::Answered
                    }
                    Act::Fail => return Err(WorkerError::new("as it was told")),
                    Act::PanicAtOnce => {
                        self.panics = true;
                        return Ok(TurnEnd::Finished);
                    }
                };
                self.said.send(said).await.unwrap();
            }
        })
    }
}

/// Awaits what must come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}
