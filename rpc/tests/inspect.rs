//! Conversations in words: recorded, read again, and compared with what they must say; and bytes that are none.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::inspect::{
    Conversation, Direction, Names, Recorder, Recording, RecordingError, Seen, Watcher, Watching, describe, proxy,
};
use rpc::transport::Connector;
use rpc::{Address, CallError, Client, Never};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String)]
struct Do {
    what: String,
}

#[derive(rpc::Protocol)]
#[rpc(name = "talk", version = 1)]
enum Talk {
    Do(Do),
}

#[derive(rpc::Protocol)]
#[rpc(name = "other", version = 3)]
enum Other {
    Do(Do),
}

#[derive(Clone, Default)]
struct Doer {
    started: Arc<Notify>,
    release: Arc<Notify>,
}

impl TalkHandler for Doer {
    async fn r#do(&self, m: Do) -> Result<String, Never> {
        if m.what == "wait" {
            self.started.notify_one();
            self.release.notified().await;
        }
        Ok(m.what)
    }
}

fn told(what: &str) -> Do {
    Do { what: what.into() }
}

/// A file that several hold.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a recording says, by connection and direction; what differs from run to run is `#`.
fn lines(recording: &[u8]) -> BTreeMap<(u32, &'static str), Vec<String>> {
    let mut conversation = Conversation::new(Names::of::<Talk>());
    let mut lines = BTreeMap::<_, Vec<String>>::new();
    let mut recording = Recording::read(recording).unwrap();
    while let Some(said) = recording.next(|at, connection, seen| conversation.saw(at, connection, seen)).unwrap() {
        for said in said {
            let direction = match said.direction {
                None => "itself",
                Some(Direction::ToServer) => "to",
                Some(Direction::FromServer) => "from",
            };
            let mut what = said.what;
            for (name, value) in &mut what.parts {
                if ["peer", "incarnation", "deadline"].contains(name) {
                    "#".clone_into(value);
                }
            }
            lines.entry((said.connection, direction)).or_default().push(what.to_string());
        }
    }
    lines
}

#[track_caller]
fn says(lines: &BTreeMap<(u32, &'static str), Vec<String>>, connection: u32, direction: &'static str, golden: &[&str]) {
    assert_eq!(lines.get(&(connection, direction)).cloned().unwrap_or_default(), golden, "{connection} {direction}");
}

const HELLO: &str = "Hello  service `talk` version 1, wire 1 to 1, peer #, incarnation #, lane 0";
const TERMS: &str = "frames up to 1048576 bytes, window 1024 ids";
const WAIT: &str = "method `do` version 1, deadline #, floor 1, body 5 bytes: 04 77 61 69 74 |.wait|";
const WELCOME: &str = "Welcome  wire 1, peer #, incarnation #, born with epoch 1";

#[tokio::test]
async fn refused_hello_and_a_cancel_are_told_as_they_were_said() {
    let (near, far) = (Address::mem("inspect-near"), Address::mem("inspect-far"));
    let doer = Doer::default();
    let _server = rpc::serve::<Talk>(&far, doer.clone()).await.unwrap();
    let file = Shared::default();
    let passing = proxy(&near, &far, Watching::new(Recorder::new(file.clone(), 1 << 20).unwrap())).unwrap();
    let passing = tokio::spawn(passing);

    let stranger = Client::<Other>::new(&near);
    assert!(matches!(stranger.call(told("x")).await, Err(CallError::NotDelivered(_))));
    drop(stranger);
    let client = Client::<Talk>::new(&near);
    assert_eq!(client.call(told("a")).await.unwrap(), "a");
    let call = client.call(told("wait"));
    let mut call = Box::pin(call);
    assert!(futures::poll!(&mut call).is_pending());
    doer.started.notified().await;
    drop(call);
    assert_eq!(client.call(told("b")).await.unwrap(), "b");
    passing.abort();
    let _ = passing.await;

    let lines = lines(&file.0.lock().unwrap());
    let from = &lines[&(1, "from")];
    assert!(from.len() == 1 && from[0].starts_with("Goodbye  up to id 0, because service, text \"`other`"), "{from:?}");
    let to = &lines[&(1, "to")];
    assert!(to[0].starts_with("Hello  service `other` version 3"), "{}", to[0]);
    assert!(to[1].starts_with("Request  id 1, method `do` version 1"), "{}", to[1]);
    says(&lines, 1, "itself", &["opened", "closed"]);
    says(
        &lines,
        2,
        "to",
        &[
            &format!("{HELLO}, epoch 1, {TERMS}, methods 1"),
            "Request  id 1, method `do` version 1, deadline #, floor 1, body 2 bytes: 01 61 |.a|",
            &format!("Request  id 2, {WAIT}").replace("floor 1", "floor 2"),
            "Cancel  id 2, of `do` version 1",
            "Request  id 3, method `do` version 1, deadline #, floor 3, body 2 bytes: 01 62 |.b|",
        ],
    );
    says(
        &lines,
        2,
        "from",
        &[
            &format!("{WELCOME}, {TERMS}"),
            "Ack  id 1, of `do` version 1, body 2 bytes: 01 61 |.a|",
            "Failed  id 2, of `do` version 1, because aborted",
            "Ack  id 3, of `do` version 1, body 2 bytes: 01 62 |.b|",
        ],
    );
}

#[tokio::test]
async fn resolve_after_a_cut_is_told_as_it_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s/talk.sock");
    let doer = Doer::default();
    let _server = rpc::serve::<Talk>(&Address::unix(&path), doer.clone()).await.unwrap();
    let file = Shared::default();
    let watching = Watching::new(Recorder::new(file.clone(), 1 << 20).unwrap());
    // Each connection goes through a pipe that can be cut.
    let pipes = Arc::new(Mutex::new(Vec::<AbortHandle>::new()));
    let connector = {
        let (pipes, path) = (Arc::clone(&pipes), path.clone());
        Connector::new("cuttable", move || {
            let (pipes, path, watching) = (Arc::clone(&pipes), path.clone(), Arc::clone(&watching));
            async move {
                let (ours, mut theirs) = tokio::io::duplex(1 << 16);
                let mut server = watching.connected(UnixStream::connect(path).await?);
                let pipe = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut theirs, &mut server).await });
                pipes.lock().unwrap().push(pipe.abort_handle());
                Ok(ours)
            }
        })
    };
    let client = Client::<Talk>::new(&Address::custom(connector));
    assert_eq!(client.call(told("a")).await.unwrap(), "a", "the Welcome is here");
    let call = client.call(told("wait"));
    let cut = async {
        doer.started.notified().await;
        pipes.lock().unwrap()[0].abort();
        tokio::time::timeout(Duration::from_secs(20), async {
            while pipes.lock().unwrap().len() < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        doer.release.notify_one();
    };
    let (answer, ()) = futures::join!(call, cut);
    assert_eq!(answer.unwrap(), "wait");
    drop(client);
    let closed = tokio::time::timeout(Duration::from_secs(20), async {
        while lines(&file.0.lock().unwrap()).get(&(2, "itself")).is_none_or(|itself| itself.len() < 2) {
            tokio::task::yield_now().await;
        }
    });
    closed.await.unwrap();

    let lines = lines(&file.0.lock().unwrap());
    says(
        &lines,
        1,
        "to",
        &[
            &format!("{HELLO}, epoch 1, {TERMS}, methods 1"),
            "Request  id 1, method `do` version 1, deadline #, floor 1, body 2 bytes: 01 61 |.a|",
            &format!("Request  id 2, {WAIT}").replace("floor 1", "floor 2"),
        ],
    );
    let to = &lines[&(2, "to")];
    assert_eq!(to[0], format!("{HELLO}, epoch 2, {TERMS}, methods 1"));
    assert_eq!(to[1..3], ["Park  floor 2, holds nothing", "Resolve  id 2"]);
    let from = &lines[&(2, "from")];
    assert_eq!(from[0], format!("{WELCOME}, {TERMS}"));
    // It runs on; or, if the handler was the quicker, it was applied meanwhile.
    let answer = "id 2, became running";
    let late = "id 2, became applied, body 5 bytes: 04 77 61 69 74 |.wait|";
    let resolved = from.iter().find(|line| line.starts_with("Resolution")).unwrap();
    assert!([answer, late].iter().any(|end| resolved.ends_with(end)), "{resolved}");
}

#[test]
fn recording_ends_at_its_bound_and_says_so() {
    let file = Shared::default();
    let recorder = Recorder::new(file.clone(), 200).unwrap();
    for _ in 0..20 {
        recorder.saw(Duration::from_millis(1), 1, Seen::Bytes(Direction::ToServer, &[1; 20]));
    }
    assert!(recorder.flush().is_err());
    let bytes = file.0.lock().unwrap().clone();
    assert!(bytes.len() <= 200, "{}", bytes.len());
    let mut recording = Recording::read(&bytes[..]).unwrap();
    let mut records = 0;
    let end = loop {
        match recording.next(|_, _, _| ()) {
            Ok(Some(())) => records += 1,
            Ok(None) => panic!("it was not said"),
            Err(end) => break end,
        }
    };
    assert!(matches!(end, RecordingError::Bound) && records == 4, "{end} after {records}");
}

/// Xorshift: what differs matters, not how random it is.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn some(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn bytes_of_any_kind_are_described_and_read_without_a_panic() {
    let names = Names::of::<Talk>().and::<Other>();
    let mut random = Bytes(0x9e37_79b9_7f4a_7c15);
    for round in 0..60_000_u64 {
        let mut frame = random.some(120);
        // Most bytes are no frame; of those that nearly are one there is more to misread.
        if frame.len() > 4 && round % 4 != 0 {
            frame[0] = (random.next() % 24) as u8;
            frame[1] &= 7;
            frame[2] = (random.next() % 24) as u8;
            frame[3] = 0;
        }
        let line = describe(&frame, &names).to_string();
        assert!(!line.is_empty() && line.len() < 4096, "{line}");
        assert!(!line.contains(char::is_control), "a peer's text must not steer a terminal: {line:?}");

        let mut conversation = Conversation::new(names.clone());
        let mut stream = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
        stream.extend_from_slice(&frame);
        stream.extend(random.some(20));
        let at = usize::try_from(random.next()).unwrap_or(0) % stream.len();
        let mut said = 0;
        for part in [&stream[..at], &stream[at..]] {
            said += conversation.saw(Duration::ZERO, 1, Seen::Bytes(Direction::ToServer, part)).len();
        }
        assert!(said >= 1, "the frame is found wherever the bytes are cut");

        let recording = [&b"rpcrec1\n"[..], &random.some(80)].concat();
        let mut recording = Recording::read(&recording[..]).unwrap();
        while let Ok(Some(_)) = recording.next(|at, connection, seen| conversation.saw(at, connection, seen)) {}
    }
    assert!(matches!(Recording::read(&b"something else"[..]), Err(RecordingError::Magic)));
}

#[test]
fn lossy_item_and_what_is_missing_are_said_to_be() {
    let mut item = [0; 17];
    (item[0], item[1], item[8], item[16]) = (11, 4, 7, 0x61);
    assert_eq!(describe(&item, &Names::default()).to_string(), "Item  id 7, item lossy, body 1 bytes: 61 |a|");
    let mut resync = [0; 40];
    (resync[0], resync[8], resync[16], resync[24], resync[32]) = (20, 7, 30, 2, 5);
    assert_eq!(
        describe(&resync, &Names::default()).to_string(),
        "Resync  id 7, next item 30, missing 2 lossless, 5 lossy"
    );
}

#[test]
fn secret_of_a_hello_is_not_shown() {
    let secret = b"correct horse battery";
    let mut hello =
        rpc::wire::hello::Hello::new(rpc::PeerId::random(), rpc::Incarnation::random(), 0, 1, 4096, 16, "talk", 1);
    hello.epoch = 1;
    let service = rpc::wire::hello::ServiceInfo { name: "talk", version: 1, methods: &[] };
    let mut out = bytes::BytesMut::new();
    hello.put(&mut out, &service, rpc::wire::hello::Extras { secret: Some(secret), ..Default::default() });
    let line = describe(&out, &Names::default()).to_string();
    assert!(line.ends_with("secret 21 bytes, not shown") && !line.contains("horse"), "{line}");
}
