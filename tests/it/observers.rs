//! Observers of a pod that commits without rest: no gap, no overlap, whoever reads and whoever does not.

use std::time::Duration;

use pod::protocol::Subscribe;
use pod::{Method, PodController, PodOptions, Roots, WorkerSpec, Workers};
use tests::watching::{Busy, Count, read_to};
use tests::world::InTime as _;
use tokio::time::timeout;

const READERS: u64 = 20;
const ASLEEP: u64 = 4;
const ENTRIES: u64 = 3000;

#[tokio::test(flavor = "multi_thread")]
async fn observers_of_a_busy_pod_see_every_entry_once_and_those_that_sleep_keep_it_waiting_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = PodOptions::new("busy".parse().unwrap(), WorkerSpec::of_kind("busy"))
        .workers(Workers::builtin().with("busy", |_| Ok(Box::new(Busy))))
        .roots(Roots::at(&dir.path().join("pods")).unwrap())
        .program("/bin/false");
    let pod = PodController::spawn(options).await.unwrap();
    pod.run("32 0").await.unwrap();
    let mut head = pod.store().history_head();
    let mut asleep = Vec::new();
    for _ in 0..ASLEEP {
        let client = rpc::Client::<Method>::new(&pod.address());
        let (_, items) = client.open(Subscribe { from: 0 }).await.unwrap();
        asleep.push((client, items));
    }
    let reading: Vec<_> = (0..READERS)
        .map(|number| {
            let address = pod.address();
            tokio::spawn(async move {
                let client = rpc::Client::<Method>::new(&address);
                let mut count = Count::from(0);
                // Some go and come again.
                for part in 1..=1 + number % 4 {
                    let (_, mut items) = client.open(Subscribe { from: count.cursor() }).await.unwrap();
                    read_to(&mut items, &mut count, ENTRIES * part / (1 + number % 4)).await?;
                }
                Ok::<_, String>(count)
            })
        })
        .collect();
    // The pod goes on, whoever reads: a generous bound, which only a pod that waits for somebody passes.
    timeout(Duration::from_secs(60), head.wait_for(|head| *head > ENTRIES)).await.expect("it goes on").unwrap();
    for reader in reading {
        let count = timeout(Duration::from_secs(60), reader).await.expect("it reads on").unwrap().unwrap();
        assert!(count.cursor() >= ENTRIES && count.entries() == count.cursor(), "{count:?}");
    }
    for (_client, items) in &mut asleep {
        let mut count = Count::from(0);
        timeout(Duration::from_secs(60), read_to(items, &mut count, ENTRIES)).await.expect("it reads").unwrap();
    }
    pod.shutdown().in_time().await;
}
