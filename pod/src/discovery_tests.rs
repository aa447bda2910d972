//! Pods below temporary roots: alive, dead and unreadable.

use tempfile::TempDir;

use super::*;
use crate::handle::{PodController, PodOptions};
use crate::manifest::WorkerSpec;
use crate::protocol::PodState;

#[tokio::test(flavor = "multi_thread")]
async fn list_tells_the_living_from_the_dead_and_shows_what_cannot_be_read() {
    let dir = TempDir::new().unwrap();
    let roots = Roots::at(&dir.path().join("pods")).unwrap();
    assert!(list(&roots).unwrap().is_empty());
    let start = async |name: &str| {
        let options = PodOptions::new(name.parse().unwrap(), WorkerSpec::ledger()).roots(roots.clone());
        PodController::spawn(options).await.unwrap()
    };
    let (alive, dead) = (start("alive").await, start("dead").await);
    dead.shutdown().await;
    let broken = roots.pod(&"broken".parse().unwrap());
    broken.make_state_dir().unwrap();
    std::fs::write(broken.store(), "this is no database, and long enough to be sure of it").unwrap();

    let pods = list(&roots).unwrap();
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["alive", "broken", "dead"]);
    let holder = pods[0].holder.as_ref().unwrap();
    assert_eq!((holder.pid, holder.pod.as_ref()), (Some(std::process::id()), Some(alive.id())));
    assert!(pods[1].holder.is_none() && pods[2].holder.is_none());
    assert!(pods[1].store.as_ref().is_err_and(|why| !why.is_empty()));
    for pod in [&pods[0], &pods[2]] {
        let record = pod.store.as_ref().unwrap();
        assert_eq!((record.state, record.counts.children_total), (PodState::Idle, 0));
    }

    let said = status(&roots, &alive.id().name, Duration::from_secs(10)).await.unwrap();
    assert_eq!((said.pod, said.state), (alive.id().clone(), PodState::Idle));
    let gone = status(&roots, &dead.id().name, Duration::from_secs(10)).await;
    assert!(matches!(gone, Err(rpc::CallError::NotDelivered(_))), "{gone:?}");
}
