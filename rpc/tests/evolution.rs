//! An old and a new peer that meet refuse, or work per method, and never misread.

use std::sync::{Arc, Mutex};

use rpc::{Address, CallError, Client, NotDelivered, Refusal, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What both know, unchanged.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64)]
pub struct Total;

/// As it was shipped.
mod old {
    use super::*;

    #[derive(Serialize, Deserialize, rpc::Wire, Debug, Clone, PartialEq)]
    pub struct Place {
        pub shelf: u16,
        pub row: u16,
    }

    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 2, ack = u64)]
    pub struct Store {
        pub what: String,
    }

    /// Its `Place` is edited by the new peer, which must never be done.
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 3, ack = ())]
    pub struct Tidy {
        pub places: rpc::List<Place, 8>,
    }

    #[derive(rpc::Protocol)]
    #[rpc(name = "depot", version = 1)]
    pub enum Depot {
        Total(Total),
        Store(Store),
        Tidy(Tidy),
    }

    #[derive(Clone, Default)]
    pub(crate) struct Handler(pub(crate) Arc<Mutex<Vec<String>>>);

    impl DepotHandler for Handler {
        async fn total(&self, _: Total) -> Result<u64, rpc::Never> {
            Ok(self.0.lock().unwrap().len() as u64)
        }
        async fn store(&self, m: Store) -> Result<u64, rpc::Never> {
            let mut all = self.0.lock().unwrap();
            all.push(m.what);
            Ok(all.len() as u64)
        }
        async fn tidy(&self, m: Tidy) -> Result<(), rpc::Never> {
            self.0.lock().unwrap().push(format!("{:?}", m.places));
            Ok(())
        }
    }
}

/// The next release: a method more, a method in a second version, and a type that was edited.
mod new {
    use super::*;

    #[derive(Serialize, Deserialize, rpc::Wire, Debug, Clone, PartialEq)]
    pub struct Place {
        // The same bytes as the old one has, in another order: what would be misread if nobody looked.
        pub row: u16,
        pub shelf: u16,
    }

    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 2, version = 2, ack = u64)]
    pub struct Store {
        pub what: String,
        pub count: u32,
    }

    impl From<old::Store> for Store {
        fn from(old: old::Store) -> Self {
            Self { what: old.what, count: 1 }
        }
    }

    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 3, ack = ())]
    pub struct Tidy {
        pub places: rpc::List<Place, 8>,
    }

    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 4, ack = ())]
    pub struct Clear;

    #[derive(rpc::Protocol)]
    #[rpc(name = "depot", version = 1)]
    pub enum Depot {
        Total(Total),
        StoreOne(old::Store),
        Store(Store),
        Tidy(Tidy),
        Clear(Clear),
    }

    #[derive(Clone, Default)]
    pub(crate) struct Handler(pub(crate) Arc<Mutex<Vec<String>>>);

    impl DepotHandler for Handler {
        async fn total(&self, _: Total) -> Result<u64, rpc::Never> {
            Ok(self.0.lock().unwrap().len() as u64)
        }
        async fn store_one(&self, m: old::Store) -> Result<u64, rpc::Never> {
            self.store(m.into()).await
        }
        async fn store(&self, m: Store) -> Result<u64, rpc::Never> {
            let mut all = self.0.lock().unwrap();
            all.extend((0..m.count).map(|_| m.what.clone()));
            Ok(all.len() as u64)
        }
        async fn tidy(&self, m: Tidy) -> Result<(), rpc::Never> {
            self.0.lock().unwrap().push(format!("{:?}", m.places));
            Ok(())
        }
        async fn clear(&self, _: Clear) -> Result<(), rpc::Never> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
    }
}

/// The same requests under another version of the service.
mod later {
    use super::*;

    #[derive(rpc::Protocol)]
    #[rpc(name = "depot", version = 2)]
    pub enum Depot {
        Total(Total),
    }
}

async fn serve_old(name: &str) -> (Server, Address, old::Handler) {
    let (address, handler) = (Address::mem(name), old::Handler::default());
    let server = Server::builder::<old::Depot>(handler.clone()).serve(&address).await.unwrap();
    (server, address, handler)
}

async fn serve_new(name: &str) -> (Server, Address, new::Handler) {
    let (address, handler) = (Address::mem(name), new::Handler::default());
    let server = Server::builder::<new::Depot>(handler.clone()).serve(&address).await.unwrap();
    (server, address, handler)
}

#[track_caller]
fn not_delivered<R: rpc::Request>(result: Result<R::Ack, CallError<R>>) -> NotDelivered {
    match result {
        Err(CallError::NotDelivered(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[tokio::test]
async fn old_client_works_with_a_new_server() {
    let (server, address, handler) = serve_new("evolution-old-new").await;
    let client = Client::<old::Depot>::new(&address);
    assert_eq!(client.call(Total).await.unwrap(), 0);
    assert_eq!(client.call(old::Store { what: "a lamp".into() }).await.unwrap(), 1);
    assert_eq!(*handler.0.lock().unwrap(), ["a lamp"]);
    server.drain().await;
}

#[tokio::test]
async fn new_client_learns_per_method_what_an_old_server_lacks() {
    let (server, address, handler) = serve_old("evolution-new-old").await;
    let client = Client::<new::Depot>::new(&address);
    assert_eq!(client.call(Total).await.unwrap(), 0);
    let why = not_delivered(client.call(new::Clear).await);
    assert_eq!(why, NotDelivered::UnknownMethod { method: 4, version: 1 });
    let why = not_delivered(client.call(new::Store { what: "a lamp".into(), count: 2 }).await);
    assert_eq!(why, NotDelivered::UnknownMethod { method: 2, version: 2 });
    // Nothing was applied, so the caller may say it in the old words.
    assert_eq!(client.call(old::Store { what: "a lamp".into() }).await.unwrap(), 1);
    assert_eq!(client.call(Total).await.unwrap(), 1);
    assert_eq!(*handler.0.lock().unwrap(), ["a lamp"]);
    server.drain().await;
}

#[tokio::test]
async fn edited_type_is_refused_on_its_method_alone_in_both_directions() {
    let (old_server, address, handler) = serve_old("evolution-edited-old").await;
    let client = Client::<new::Depot>::new(&address);
    let places = vec![new::Place { row: 1, shelf: 2 }].try_into().unwrap();
    let why = not_delivered(client.call(new::Tidy { places }).await);
    assert_eq!(why, NotDelivered::SchemaMismatch { method: 3, version: 1 });
    assert_eq!(client.call(old::Store { what: "a lamp".into() }).await.unwrap(), 1);
    assert_eq!(*handler.0.lock().unwrap(), ["a lamp"]);

    let (new_server, address, handler) = serve_new("evolution-edited-new").await;
    let client = Client::<old::Depot>::new(&address);
    let places = vec![old::Place { shelf: 2, row: 1 }].try_into().unwrap();
    let why = not_delivered(client.call(old::Tidy { places }).await);
    assert_eq!(why, NotDelivered::SchemaMismatch { method: 3, version: 1 });
    assert_eq!(client.call(Total).await.unwrap(), 0);
    assert!(handler.0.lock().unwrap().is_empty());
    old_server.drain().await;
    new_server.drain().await;
}

#[tokio::test]
async fn other_version_of_the_service_is_refused_and_both_are_named() {
    let (server, address, _) = serve_old("evolution-service").await;
    let why = not_delivered(Client::<later::Depot>::new(&address).call(Total).await);
    let said = "`depot` in version 2 is asked for, `depot` in version 1 is served".to_owned();
    assert_eq!(why, NotDelivered::Incompatible { refusal: Refusal::Service, said });
    server.drain().await;
}

/// A Hello of wire versions 5 to 7, as `PROTOCOL.md` lays it out, and what is answered.
#[tokio::test]
async fn other_version_of_the_wire_is_refused_and_both_are_named() {
    let server = Server::builder::<old::Depot>(old::Handler::default()).start();
    let (mut ours, theirs) = tokio::io::duplex(4096);
    server.serve_stream(theirs, rpc::Peer::own());
    let mut frame = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend([0x8a, 0x72, 0x70, 0x63, 0x31, 0x0d, 0x0a, 0x00]);
    for number in [5_u16, 7, 1, 0] {
        frame.extend(number.to_le_bytes());
    }
    frame.extend([9; 16]);
    frame.extend(1_u64.to_le_bytes());
    frame.extend(1_u64.to_le_bytes());
    for number in [0_u32, 1 << 20, 64] {
        frame.extend(number.to_le_bytes());
    }
    frame.extend(5_u16.to_le_bytes());
    frame.extend(0_u16.to_le_bytes());
    frame.extend(b"depot");
    ours.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).await.unwrap();
    ours.write_all(&frame).await.unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    // One frame: Goodbye (17), code 3 (wire version), the last id taken 0, and words.
    assert_eq!(answer[4..20], [17, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(std::str::from_utf8(&answer[20..]).unwrap(), "wire versions 5 to 7 are offered, 1 is spoken");
}
