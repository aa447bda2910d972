//! Who is let in, and to what: policies, secrets, and other users.
//!
//! What needs another user starts this binary again as one (`uid`); only root can, and elsewhere those tests say that
//! they did nothing.

mod uid;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rpc::{Address, CallError, Client, Denial, NotDelivered, Secret, Server};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u32)]
struct Count;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
struct Reset;

#[derive(rpc::Protocol)]
#[rpc(name = "counter", version = 3)]
enum Counter {
    Count(Count),
    Reset(Reset),
}

/// Counts what reaches its handlers.
#[derive(Clone, Default)]
struct Seen(Arc<AtomicU32>);

impl CounterHandler for Seen {
    async fn count(&self, _: Count) -> Result<u32, rpc::Never> {
        Ok(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn reset(&self, _: Reset) -> Result<(), rpc::Never> {
        self.0.store(0, Ordering::SeqCst);
        Ok(())
    }
}

fn scratch() -> (tempfile::TempDir, Address) {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    (directory, address)
}

#[track_caller]
fn check_unauthorized<R: rpc::Request>(result: Result<R::Ack, CallError<R>>, reason: &str) {
    let Err(CallError::NotDelivered(NotDelivered::Unauthorized(said))) = result else {
        panic!("`{}` was let through, or refused otherwise", R::NAME);
    };
    assert_eq!(said, reason);
}

#[tokio::test]
async fn policy_sees_who_connects_and_lets_in_whom_it_likes() {
    let (_scratch, address) = scratch();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let server = Server::builder::<Counter>(Seen::default())
        .authorize(move |who| {
            assert!(who.is_same_user() && who.pidfd().is_none());
            assert_eq!(who.peer, rpc::Peer::own());
            assert_eq!((who.service, who.service_version), ("counter", 3));
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .serve(&address)
        .await
        .unwrap();
    let client = Client::<Counter>::new(server.address());
    assert_eq!(client.call(Count).await.unwrap(), 1);
    assert_eq!(client.call(Count).await.unwrap(), 2);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "once a connection");
}

#[tokio::test]
async fn hello_that_is_judged_for_too_long_is_refused_by_the_clock() {
    let (_scratch, address) = scratch();
    let handshake_timeout = std::time::Duration::from_secs(1);
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let server = Server::builder::<Counter>(Seen::default())
        .limits(rpc::Limits { handshake_timeout, ..rpc::Limits::default() })
        .authorize(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            // A memory that would have refused this Hello may be gone when this returns.
            let begun = std::time::Instant::now();
            while begun.elapsed() < handshake_timeout {
                std::thread::yield_now();
            }
            Ok(())
        })
        .serve(&address)
        .await
        .unwrap();
    let refused = Client::<Counter>::new(server.address()).call(Count).await;
    let timeout = NotDelivered::Refused(rpc::Refusal::HandshakeTimeout);
    assert!(matches!(&refused, Err(CallError::NotDelivered(why)) if *why == timeout), "{refused:?}");
    assert_eq!((asked.load(Ordering::SeqCst), server.lanes()), (1, 0));
}

#[tokio::test]
async fn denied_newcomer_is_told_why_and_no_handler_sees_its_request() {
    let (_scratch, address) = scratch();
    let seen = Seen::default();
    let handled = Arc::clone(&seen.0);
    let server = Server::builder::<Counter>(seen)
        .authorize(|_| Err(Denial::new("not on a Sunday")))
        .serve(&address)
        .await
        .unwrap();
    // The request travels behind the Hello: it is on the way when the Hello is refused.
    check_unauthorized(Client::<Counter>::new(server.address()).call(Count).await, "not on a Sunday");
    assert_eq!(handled.load(Ordering::SeqCst), 0);
    assert_eq!(server.lanes(), 0, "who is not let in leaves nothing");
}

#[tokio::test]
async fn reason_of_a_denial_is_cut_to_what_the_protocol_allows() {
    let server = Server::builder::<Counter>(Seen::default())
        .authorize(|_| Err("é".repeat(200).into()))
        .serve(&Address::mem("long denial"))
        .await
        .unwrap();
    check_unauthorized(Client::<Counter>::new(server.address()).call(Count).await, &"é".repeat(128));
}

#[tokio::test]
async fn method_that_is_denied_is_refused_before_its_handler_and_others_work() {
    let (_scratch, address) = scratch();
    let server = Server::builder::<Counter>(Seen::default())
        .authorize_calls(|peer, method| {
            assert_eq!(*peer, rpc::Peer::own());
            if method.name == "reset" { Err("read only".into()) } else { Ok(()) }
        })
        .serve(&address)
        .await
        .unwrap();
    let client = Client::<Counter>::new(server.address());
    assert_eq!(client.call(Count).await.unwrap(), 1);
    check_unauthorized(client.call(Reset).await, "read only");
    assert_eq!(client.call(Count).await.unwrap(), 2);
}

#[tokio::test]
async fn what_a_connection_was_let_in_for_is_found_out_once_and_holds_for_each_of_its_calls() {
    let (_scratch, address) = scratch();
    let connections = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&connections);
    let server = Server::builder::<Counter>(Seen::default())
        .authorize_connections(move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            let read_only =
                |method: &rpc::MethodInfo| if method.name == "reset" { Err("read only".into()) } else { Ok(()) };
            Ok(first.then_some(read_only))
        })
        .serve(&address)
        .await
        .unwrap();
    let bound = Client::<Counter>::new(server.address());
    for counted in 1..=3 {
        assert_eq!(bound.call(Count).await.unwrap(), counted);
        check_unauthorized(bound.call(Reset).await, "read only");
    }
    let free = Client::<Counter>::new(server.address());
    free.call(Reset).await.unwrap();
    check_unauthorized(bound.call(Reset).await, "read only");
    assert_eq!(connections.load(Ordering::SeqCst), 2, "asked again about a call");
}

#[tokio::test]
async fn server_with_a_secret_lets_in_who_shows_it_and_nobody_else() {
    let secret = || Secret::new(b"0123456789abcdef").unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let server = Server::builder::<Counter>(Seen::default())
        .secret(secret())
        .authorize(move |who| {
            count.fetch_add(u32::from(who.secret_shown), Ordering::SeqCst);
            Ok(())
        })
        .serve(&Address::mem("secret"))
        .await
        .unwrap();
    let client = Client::<Counter>::builder(server.address());
    assert_eq!(client.secret(secret()).build().call(Count).await.unwrap(), 1);
    let wrong = Secret::new(b"0123456789abcdeF").unwrap();
    let wrong = Client::<Counter>::builder(server.address()).secret(wrong).build();
    check_unauthorized(wrong.call(Count).await, "the secret is missing or wrong");
    check_unauthorized(Client::<Counter>::new(server.address()).call(Count).await, "the secret is missing or wrong");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the policy is asked about those only who have shown it");
}

/// Linux 6.5 and later.
fn kernel_has_peerpidfd() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    if version < (6, 5) {
        eprintln!("NOT CHECKED: Linux {release} has no SO_PEERPIDFD");
    }
    version >= (6, 5)
}

#[tokio::test]
async fn pidfd_of_the_peer_is_there_on_demand_and_gone_after_the_handshake() {
    let (_scratch, address) = scratch();
    let server = Server::builder::<Counter>(Seen::default())
        .pidfds()
        .authorize(|who| {
            let pidfd = who.pidfd().ok_or("no pidfd")?;
            assert!(!pidfd.has_ended().unwrap(), "this very process");
            assert_eq!(pidfd.is_exact(), kernel_has_peerpidfd());
            Ok(())
        })
        .serve(&address)
        .await
        .unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = Client::<Counter>::new(server.address());
        client.call(Count).await.unwrap();
        clients.push(client);
    }
    assert_eq!(server.connections(), clients.len());
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let pidfds = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    // Other tests of this process may be in the middle of theirs: what counts is that this one keeps none.
    let kept = pidfds.filter(|target| target.to_string_lossy().contains("pidfd")).count();
    assert!(kept <= 1, "{kept} descriptors are kept for {} idle connections", clients.len());
}
