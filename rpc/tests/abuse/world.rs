//! A server on a thread of its own, honest clients, and dishonest processes.

use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rpc::{Address, Blob, Client, ItemSender, Limits, List, Server, ServerBuilder};
use serde::{Deserialize, Serialize};

/// Whatever a test waits for comes within this, or the test fails.
pub const SOON: Duration = Duration::from_secs(30);

/// What an honest call may take on a machine that does other things too. Beyond it something hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Whether this machine has nothing else to do, so that times can be asserted.
pub fn is_quiet() -> bool {
    static QUIET: OnceLock<bool> = OnceLock::new();
    *QUIET.get_or_init(|| {
        let quiet = std::env::var_os(QUIET_NAME).is_some_and(|value| value == "1");
        if !quiet {
            eprintln!("abuse: times are printed, not asserted; {QUIET_NAME}=1 and `--test-threads 1` on a quiet machine assert them");
        }
        quiet
    })
}

const QUIET_NAME: &str = "ABUSE_QUIET";

/// Bytes of the items that streams have taken, of all servers of this process.
pub static FLOWED: AtomicU64 = AtomicU64::new(0);

/// Calls of [`Hold`] whose handlers have begun, of all servers of this process.
pub static HELD: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Blob, ack_bytes_max = 1048000)]
pub struct Echo(pub Blob);

/// Never answers.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
pub struct Hold(pub Blob);

/// What a bomb is made of: one byte on the wire, 72 in memory.
pub type Element = Option<[u64; 8]>;
/// LIMIT: what the type allows a peer to make of it: 4 096 elements, 288 KiB.
pub const BOMB_MAX: usize = 4096;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64)]
pub struct Bomb(pub List<Element, BOMB_MAX>);

/// Opens a file, as a handler may have to.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = bool)]
pub struct OpenFile;

/// A stream that never ends by itself.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 5, ack = (), item = Blob)]
pub struct Flow {
    pub item_bytes: u32,
}

#[derive(rpc::Protocol)]
#[rpc(name = "abused", version = 1)]
pub enum Abused {
    Echo(Echo),
    Hold(Hold),
    Bomb(Bomb),
    OpenFile(OpenFile),
    #[rpc(stream)]
    Flow(Flow),
}

pub struct Handler;

impl AbusedHandler for Handler {
    async fn echo(&self, request: Echo) -> Result<Blob, rpc::Never> {
        Ok(request.0)
    }

    async fn hold(&self, _request: Hold) -> Result<(), rpc::Never> {
        HELD.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn bomb(&self, request: Bomb) -> Result<u64, rpc::Never> {
        Ok(request.0.len() as u64)
    }

    async fn open_file(&self, _: OpenFile) -> Result<bool, rpc::Never> {
        Ok(std::fs::File::open("/dev/null").is_ok())
    }

    async fn flow(&self, request: Flow, items: ItemSender<Blob>) -> Result<(), rpc::Never> {
        tokio::spawn(async move {
            let item = Blob::from(vec![4; request.item_bytes as usize]);
            while items.send(item.clone()).await.is_ok() {
                FLOWED.fetch_add(request.item_bytes.into(), Ordering::SeqCst);
            }
        });
        Ok(())
    }
}

pub struct World {
    /// Dropped before its runtime.
    pub server: Server,
    pub path: PathBuf,
    server_runtime: Option<tokio::runtime::Runtime>,
    runtime: tokio::runtime::Runtime,
    _scratch: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// Tests of this binary share a process, and each measures it.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(limits: Limits) -> Self {
        Self::build(|builder| builder.limits(limits))
    }

    pub fn build(set_up: impl FnOnce(ServerBuilder<Abused>) -> ServerBuilder<Abused>) -> Self {
        let alone = alone();
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("d/s");
        let server_runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = Address::unix(&path);
        let server = server_runtime.block_on(set_up(Server::builder(Handler)).serve(&address)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { server, path, server_runtime: Some(server_runtime), runtime, _scratch: scratch, _alone: alone }
    }

    pub fn client(&self) -> Client<Abused> {
        Client::new(self.server.address())
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// An honest client, one call after the other for `time`: how long each took, sorted.
    pub fn honest(&self, client: &Client<Abused>, time: Duration) -> Latencies {
        self.block_on(honest(client, time))
    }

    /// The same until something has happened; at least one call.
    pub fn honest_until(&self, client: &Client<Abused>, over: impl Fn() -> bool) -> Latencies {
        self.block_on(async {
            let mut all = honest(client, Duration::from_millis(20)).await;
            while !over() {
                all.append(honest(client, Duration::from_millis(20)).await);
            }
            all.sorted()
        })
    }

    pub fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + SOON;
        while !condition(self) {
            assert!(Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.server_runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How long calls took, sorted.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn quantile(&self, share: f64) -> Duration {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }

    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    pub fn merge(mut self, other: Self) -> Self {
        self.append(other);
        self.sorted()
    }

    fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn sorted(mut self) -> Self {
        self.0.sort_unstable();
        self
    }

    pub fn calls(&self) -> usize {
        self.0.len()
    }
}

/// At least one call.
pub async fn honest(client: &Client<Abused>, time: Duration) -> Latencies {
    let end = Instant::now() + time;
    let mut took = Vec::new();
    while took.is_empty() || Instant::now() < end {
        let start = Instant::now();
        let echo = client.call(Echo(Blob::from(vec![7; 64]))).deadline(PATIENCE).await.unwrap();
        took.push(start.elapsed());
        assert_eq!(echo.len(), 64);
    }
    took.sort_unstable();
    Latencies(took)
}

/// The figure of a test, for whoever reads.
#[macro_export]
macro_rules! figure {
    ($($argument:tt)*) => { eprintln!("abuse: {}", format_args!($($argument)*)) };
}

/// Tells [`other_process`] what to do, and at which socket.
const ROLE: &str = "RPC_TEST_ABUSER";
const SOCKET: &str = "RPC_TEST_ABUSER_SOCKET";

/// This binary as another process, in a role; it lives until its input is closed or it is done.
#[allow(clippy::disallowed_methods, reason = "the server counts by process; this one has the honest client in it")]
pub fn process(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "world::other_process", "--nocapture"])
        .env(ROLE, role)
        .env(SOCKET, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what a process says until it says `word`.
pub fn hears(child: &mut Child, word: &str) -> String {
    let output = child.stdout.as_mut().unwrap();
    let mut text = String::new();
    while !text.contains(word) {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "it ended: {text}");
        text.push(char::from(byte[0]));
    }
    text
}

/// Does nothing unless another test started it as a process.
#[test]
fn other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    match role.as_str() {
        "connects" => super::connects::connect_and_leave(&path),
        "silent" => super::connects::connect_and_stay(&path),
        "lanes" => super::connects::leave_lanes(&path),
        "few descriptors" => super::descriptors::serve_with_few(&path),
        other => match other.strip_prefix("impostor ") {
            Some(identity) => super::impostor::takes_over(&path, identity),
            None => panic!("{other}"),
        },
    }
}

/// Until whoever started this process closes our input.
pub fn wait_for_the_end() {
    let _ = std::io::stdin().read(&mut [0]);
}
