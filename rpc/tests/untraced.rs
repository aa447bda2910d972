//! What travels where nobody listens. In a process of its own: a subscriber of any thread is seen by all.
#![allow(missing_docs, clippy::unwrap_used)]

use rpc::{Address, Client, Never, TraceContext};
use serde::{Deserialize, Serialize};

/// In which trace are you, at the end of so many hops?
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String)]
struct Which {
    hops: u8,
}

#[derive(rpc::Protocol)]
#[rpc(name = "hop", version = 1)]
enum Hop {
    Which(Which),
}

struct Asked {
    itself: Client<Hop>,
}

impl HopHandler for Asked {
    async fn which(&self, m: Which) -> Result<String, Never> {
        if let Some(hops) = m.hops.checked_sub(1) {
            return Ok(self.itself.call(Which { hops }).await.unwrap());
        }
        // Also after it was pending.
        tokio::task::yield_now().await;
        Ok(TraceContext::current().map_or("none".into(), |context| format!("{context} {}", context.state())))
    }
}

#[tokio::test]
async fn context_travels_unchanged_where_nobody_listens_and_none_is_made() {
    let given: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let given = given.with_state("a=b").unwrap();
    let address = Address::mem("untraced");
    let client = Client::<Hop>::new(&address);
    let _server = rpc::serve::<Hop>(&address, Asked { itself: client.clone() }).await.unwrap();
    for hops in [0, 1, 4] {
        let told = client.call(Which { hops }).trace(given.clone()).await.unwrap();
        let scoped = given.clone().scope(client.call(Which { hops })).await.unwrap();
        assert_eq!([told, scoped], [(); 2].map(|()| format!("{given} a=b")), "{hops} hops");
        assert_eq!(client.call(Which { hops }).await.unwrap(), "none", "nobody wants one");
    }
    assert_eq!(TraceContext::current(), None);
}
