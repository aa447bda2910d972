//! What becomes of a stream whose reader does not keep up, and of large values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use rpc::{Address, Blob, Client, Event, ItemSender, Limits, Never, SendError, Slow, StreamError, ValueError};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// Opens a stream of `entries` numbered entries, and two hints after each.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (), item = u64, lossy = Hint)]
struct Watch {
    policy: u8,
    entries: u64,
    hints: bool,
}
/// Something that may be lost.
#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
struct Hint(u64);
/// Sends a value of so many bytes; gives up after `give_up_at` of them.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = (), item = Blob)]
struct Fetch {
    bytes: u64,
    give_up_at: Option<u64>,
}
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64)]
struct Small(u64);
#[derive(rpc::Protocol)]
#[rpc(name = "streams")]
enum Service {
    #[rpc(stream)]
    Watch(Watch),
    #[rpc(stream)]
    Fetch(Fetch),
    Small(Small),
}

const POLICIES: [Slow; 3] = [Slow::Block, Slow::DropOldest, Slow::Close];
const BLOCK: u8 = 0;
const DROP_OLDEST: u8 = 1;
const CLOSE: u8 = 2;

/// Producers say how they ended; the test waits for it.
struct Producer {
    ended: Arc<Semaphore>,
    results: Arc<std::sync::Mutex<Vec<Result<(), SendError>>>>,
}

impl ServiceHandler for Producer {
    async fn watch(&self, m: Watch, items: ItemSender<u64, Hint>) -> Result<(), Never> {
        let items = items.when_slow(POLICIES[usize::from(m.policy)]);
        let (ended, results) = (Arc::clone(&self.ended), Arc::clone(&self.results));
        tokio::spawn(async move {
            let mut result = Ok(());
            for entry in 0..m.entries {
                result = items.send(entry).await;
                for half in 0..u64::from(m.hints) * 2 {
                    result = result.and_then(|()| items.send_lossy(Hint(2 * entry + half)));
                }
                if result.is_err() {
                    break;
                }
            }
            results.lock().unwrap().push(result);
            ended.add_permits(1);
        });
        Ok(())
    }

    async fn fetch(&self, m: Fetch, items: ItemSender<Blob>) -> Result<(), Never> {
        tokio::spawn(async move {
            let value = value(m.bytes);
            match m.give_up_at {
                None => drop(items.send_value(&value).await),
                Some(at) => {
                    let _ = items.send(Blob::from(value[..at as usize].to_vec())).await;
                    items.abort();
                }
            }
        });
        Ok(())
    }

    async fn small(&self, m: Small) -> Result<u64, Never> {
        Ok(m.0)
    }
}

fn value(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

struct World {
    _directory: tempfile::TempDir,
    _server: rpc::Server,
    client: Client<Service>,
    ended: Arc<Semaphore>,
    results: Arc<std::sync::Mutex<Vec<Result<(), SendError>>>>,
}

impl World {
    /// A world whose streams queue at most eight items.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::unix(directory.path().join("own/s"));
        let (ended, results) = (Arc::new(Semaphore::new(0)), Arc::default());
        let producer = Producer { ended: Arc::clone(&ended), results: Arc::clone(&results) };
        let limits = Limits { stream_items: 8, ..Limits::default() };
        let server = rpc::serve_with::<Service>(&address, producer, limits.clone()).await.unwrap();
        let client = Client::with_limits(&address, limits);
        Self { _directory: directory, _server: server, client, ended, results }
    }

    async fn watch(&self, policy: u8, entries: u64, hints: bool) -> rpc::ItemStream<u64, Hint> {
        self.client.open(Watch { policy, entries, hints }).await.unwrap().1
    }

    async fn producer_ends(&self) -> Result<(), SendError> {
        self.ended.acquire().await.unwrap().forget();
        self.results.lock().unwrap().pop().unwrap()
    }
}

/// Reads to the end: the entries, how many hints, and how many of each were said to be missing.
async fn read_all(items: &mut rpc::ItemStream<u64, Hint>) -> (Vec<u64>, u64, (u64, u64), Option<StreamError>) {
    let (mut entries, mut hints, mut missing, mut count) = (Vec::new(), 0, (0, 0), 0);
    while let Some(event) = items.event().await {
        match event {
            Ok(Event::Item(entry)) => entries.push(entry),
            Ok(Event::Lossy(_)) => hints += 1,
            Ok(Event::Resync { cursor, missed }) => {
                missing = (missing.0 + missed.lossless, missing.1 + missed.lossy);
                count += missed.items();
                assert_eq!(cursor, count, "the cursor counts what was sent and what is missing");
                continue;
            }
            Err(end) => return (entries, hints, missing, Some(end)),
        }
        count += 1;
    }
    (entries, hints, missing, None)
}

#[tokio::test]
async fn drop_oldest_lets_the_producer_end_and_tells_the_reader_what_is_missing() {
    let world = World::new().await;
    let mut items = world.watch(DROP_OLDEST, 1000, false).await;
    assert_eq!(world.producer_ends().await, Ok(()), "nobody reads, and the producer ends all the same");
    let (entries, _, missing, end) = read_all(&mut items).await;
    assert_eq!(end, None);
    assert_eq!(entries.len() as u64 + missing.0, 1000, "each entry is there or said to be missing");
    assert!(missing.0 > 900, "a reader that reads nothing misses most: {missing:?}");
    assert!(entries.is_sorted());
    assert_eq!(entries.last(), Some(&999), "the newest is there");
}

#[tokio::test]
async fn close_ends_the_stream_on_both_sides_with_the_reason() {
    let world = World::new().await;
    let mut items = world.watch(CLOSE, 1000, false).await;
    assert_eq!(world.producer_ends().await, Err(SendError::TooSlow));
    let (entries, _, missing, end) = read_all(&mut items).await;
    assert_eq!(end, Some(StreamError::TooSlow));
    assert_eq!(entries, (0..entries.len() as u64).collect::<Vec<_>>(), "what was queued before is there, in order");
    assert!(entries.len() >= 8 && missing == (1, 0), "{entries:?} {missing:?}");
    assert!(items.event().await.is_none(), "an error is the last thing that a stream brings");
}

#[tokio::test]
async fn block_loses_no_entry_and_drops_hints_only() {
    let world = World::new().await;
    let mut items = world.watch(BLOCK, 500, true).await;
    // The reader does not read until the producer must have met its limit: a call made after it goes through.
    assert_eq!(world.client.call(Small(1)).await.unwrap(), 1);
    let (entries, hints, missing, end) = read_all(&mut items).await;
    assert_eq!(world.producer_ends().await, Ok(()));
    assert_eq!((entries, missing.0, end), ((0..500).collect(), 0, None));
    assert_eq!(hints + missing.1, 1000, "each hint is there or said to be missing");
    assert!(missing.1 > 0, "with eight places some hints found none");
}

#[tokio::test]
async fn producer_that_waits_for_the_servers_own_share_is_woken_when_items_were_written() {
    let world = World::new().await;
    // This reader grants far more than the eight items that the server queues for it.
    let generous = Client::<Service>::new(world.client.address());
    let (_, mut items) = generous.open(Watch { policy: BLOCK, entries: 100, hints: false }).await.unwrap();
    assert_eq!(world.producer_ends().await, Ok(()));
    assert_eq!(read_all(&mut items).await.0, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn plain_stream_reports_a_gap_as_an_error_and_goes_on() {
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 1, ack = (), item = u64)]
    struct Count;
    #[derive(rpc::Protocol)]
    #[rpc(name = "count")]
    enum Counter {
        #[rpc(stream)]
        Count(Count),
    }
    struct Hundred;
    impl CounterHandler for Hundred {
        async fn count(&self, _: Count, items: ItemSender<u64>) -> Result<(), Never> {
            let items = items.when_slow(Slow::DropOldest);
            for n in 0..100 {
                let _ = items.send(n).await;
            }
            assert_eq!((items.cursor(), items.missed().map(|gap| gap.lossless)), (Some(100), Some(92)));
            Ok(())
        }
    }
    let address = Address::mem("streams-plain");
    let limits = Limits { stream_items: 8, ..Limits::default() };
    let _server = rpc::serve_with::<Counter>(&address, Hundred, limits).await.unwrap();
    let (_, mut items) = Client::<Counter>::new(&address).open(Count).await.unwrap();
    let Some(Err(StreamError::Resync { cursor: 92, missed })) = items.next().await else { panic!("no gap was told") };
    assert_eq!(missed.items(), 92);
    assert_eq!(items.map(Result::unwrap).collect::<Vec<_>>().await, (92..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn large_value_arrives_whole_while_small_calls_go_on() {
    let world = World::new().await;
    let bytes = 8 << 20;
    let (_, items) = world.client.open(Fetch { bytes, give_up_at: None }).await.unwrap();
    let calls = async {
        for n in 0..200 {
            assert_eq!(world.client.call(Small(n)).await.unwrap(), n);
        }
    };
    let (whole, ()) = tokio::join!(items.value(bytes as usize), calls);
    assert!(whole.unwrap() == value(bytes));
}

/// By order, not by time: all of it is one thread, so what arrives between a call and its answer can be counted.
#[tokio::test]
async fn answer_of_a_small_call_waits_behind_a_small_part_of_a_large_value() {
    const BYTES: u64 = 32 << 20;
    // LIMIT: what the kernel holds of it (208 KiB), two batches of items and one read (measured: 448 KiB), and as much
    // again. Behind the whole queue of the stream it would be most of the value.
    const BEHIND_MAX: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("own/s"));
    let producer = Producer { ended: Arc::new(Semaphore::new(0)), results: Arc::default() };
    // Credit for all of it: what limits a call's wait is how items and answers take turns.
    let limits = Limits { stream_items: 1 << 16, stream_bytes: 64 << 20, ..Limits::default() };
    let _server = rpc::serve_with::<Service>(&address, producer, limits.clone()).await.unwrap();
    let client = Client::<Service>::with_limits(&address, limits);
    let (_, mut items) = client.open(Fetch { bytes: BYTES, give_up_at: None }).await.unwrap();
    let arrived = AtomicU64::new(0);
    let reads = async {
        while let Some(chunk) = items.next().await {
            arrived.fetch_add(chunk.unwrap().len() as u64, Ordering::SeqCst);
        }
    };
    let calls = async {
        let (mut answered, mut most) = (0, 0);
        loop {
            let before = arrived.load(Ordering::SeqCst);
            assert_eq!(client.call(Small(answered)).await.unwrap(), answered);
            let after = arrived.load(Ordering::SeqCst);
            if after >= BYTES {
                return (answered, most);
            }
            // The value is not whole yet, and this call is answered.
            (answered, most) = (answered + 1, most.max(after - before));
        }
    };
    let ((), (answered, most)) = tokio::join!(reads, calls);
    eprintln!("{answered} calls were answered within {BYTES} bytes, each behind at most {most} of them");
    assert!(most <= BEHIND_MAX, "a call waited behind {most} bytes");
    assert!(answered >= BYTES / BEHIND_MAX - 1, "{answered} calls were answered before the value was whole");
}

#[tokio::test]
async fn large_value_that_nobody_reads_delays_no_call() {
    let world = World::new().await;
    let (_, items) = world.client.open(Fetch { bytes: 64 << 20, give_up_at: None }).await.unwrap();
    for n in 0..1000 {
        assert_eq!(world.client.call(Small(n)).await.unwrap(), n);
    }
    drop(items);
}

#[tokio::test]
async fn value_that_is_too_large_or_given_up_is_no_value() {
    let world = World::new().await;
    let (_, items) = world.client.open(Fetch { bytes: 100_001, give_up_at: None }).await.unwrap();
    assert_eq!(items.value(100_000).await, Err(ValueError::TooLarge { max: 100_000 }));
    let (_, items) = world.client.open(Fetch { bytes: 100_000, give_up_at: Some(60_000) }).await.unwrap();
    assert_eq!(items.value(1 << 20).await, Err(ValueError::Incomplete(StreamError::Aborted)));
    let (_, items) = world.client.open(Fetch { bytes: 0, give_up_at: None }).await.unwrap();
    assert_eq!(items.value(0).await, Ok(Vec::new()));
}

#[tokio::test]
async fn stream_whose_call_was_waited_for_by_stage_is_open_all_the_same() {
    let world = World::new().await;
    let mut call = world.client.call(Watch { policy: BLOCK, entries: 20, hints: false });
    assert!(call.reached(rpc::Stage::Started).await);
    // It has ended by now, or has not; its stream is there in either case.
    let (_, mut items) = call.open().await.unwrap();
    let (entries, ..) = read_all(&mut items).await;
    assert_eq!(entries, (0..20).collect::<Vec<_>>());
    assert_eq!(world.producer_ends().await, Ok(()));
}

#[tokio::test]
async fn stream_that_is_awaited_instead_of_opened_ends_with_its_ack() {
    let world = World::new().await;
    let mut call = world.client.call(Watch { policy: BLOCK, entries: u64::MAX, hints: false });
    (&mut call).await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), world.producer_ends()).await;
    assert!(ended.expect("nobody reads it, and nobody can").is_err());
}
