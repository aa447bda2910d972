//! A server with few descriptors and many clients: it keeps some for its handlers, and says no to the others.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use rpc::{Address, Blob, CallError, Client, NotDelivered, Refusal, Server};

use crate::figure;
use crate::world::{Abused, Echo, Handler, OpenFile, alone, hears, process, wait_for_the_end};

const DESCRIPTORS: u64 = 64;
const CLIENTS: usize = 200;

/// Serves with a small descriptor table until it is told to end.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
pub fn serve_with_few(path: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..limit }).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = Address::unix(path);
    let _server = runtime.block_on(Server::builder::<Abused>(Handler).serve(&address)).unwrap();
    println!("serving");
    wait_for_the_end();
    runtime.shutdown_background();
}

#[test]
fn server_with_64_descriptors_and_200_clients_answers_or_refuses_each() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("d/s");
    let mut server = process("few descriptors", &path);
    hears(&mut server, "serving");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::unix(&path);
    runtime.block_on(async {
        let clients: Vec<_> = (0..CLIENTS).map(|_| Client::<Abused>::new(&address)).collect();
        let start = std::time::Instant::now();
        let ask =
            |client: &Client<Abused>| client.call(Echo(Blob::from(vec![1; 64]))).deadline(Duration::from_secs(10));
        let results = join_all(clients.iter().map(ask)).await;
        let took = start.elapsed();
        let served: Vec<_> = clients.iter().zip(&results).filter(|(_, result)| result.is_ok()).collect();
        for result in &results {
            let refused =
                matches!(result, Ok(_) | Err(CallError::NotDelivered(NotDelivered::Refused(Refusal::TooMany))));
            assert!(refused, "{result:?}");
        }
        figure!(
            "RLIMIT_NOFILE {DESCRIPTORS}, {CLIENTS} clients: {} served, {} refused as too many, all within {took:?}",
            served.len(),
            CLIENTS - served.len()
        );
        assert!(served.len() > 24, "{}", served.len());
        // Not one handler goes without a descriptor because of the others.
        for (client, _) in &served {
            assert!(client.call(OpenFile).await.unwrap(), "a handler cannot open a file");
        }
        // Who goes makes room.
        drop(clients);
        let late = Client::<Abused>::new(&address);
        let mut attempts = 0;
        while let Err(error) = ask(&late).await {
            assert!(matches!(error, CallError::NotDelivered(_)), "{error}");
            attempts += 1;
            assert!(attempts < 1_000, "no room was made: {error}");
            tokio::task::yield_now().await;
        }
    });
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}
