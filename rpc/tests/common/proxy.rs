//! A middleman between clients and a server, to whose connections something can happen.

use rpc::Address;
use tokio::io::{copy, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// While it is closed nobody can connect, and what was connected is cut.
pub(crate) struct Proxy {
    pub(crate) address: Address,
    to: Address,
    /// Whether answers reach the client.
    deaf: bool,
    /// How often it was closed.
    closed: watch::Sender<u64>,
    listening: Option<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Proxy {
    /// Open, to a server's socket. With `deaf` no answer reaches a client.
    pub(crate) fn to(server: &Address, deaf: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::unix(directory.path().join("p"));
        let (to, closed) = (server.clone(), watch::Sender::new(0));
        let mut proxy = Self { address, to, deaf, closed, listening: None, _directory: directory };
        proxy.open();
        proxy
    }

    #[allow(clippy::disallowed_methods, reason = "a middleman, not a service")]
    pub(crate) fn open(&mut self) {
        let listener = UnixListener::bind(self.address.path().unwrap()).unwrap();
        let (to, deaf, closed) = (self.to.path().unwrap().to_owned(), self.deaf, self.closed.subscribe());
        self.listening = Some(tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let Ok(mut far) = UnixStream::connect(&to).await else { continue };
                let mut closed = closed.clone();
                tokio::spawn(async move {
                    let carries = async {
                        match deaf {
                            true => drop(copy(&mut near, &mut far).await),
                            false => drop(copy_bidirectional(&mut near, &mut far).await),
                        }
                    };
                    tokio::select! {
                        () = carries => {}
                        _ = closed.changed() => {}
                    }
                });
            }
        }));
    }

    /// Cuts every connection, and refuses new ones.
    pub(crate) async fn close(&mut self) {
        let listening = self.listening.take().expect("it was open");
        listening.abort();
        let _ = listening.await;
        std::fs::remove_file(self.address.path().unwrap()).unwrap();
        self.closed.send_modify(|closed| *closed += 1);
    }
}
