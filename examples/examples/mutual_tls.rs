//! The same calls over TCP, where both sides show certificates: who has none that the other side trusts gets nowhere, and
//! learns that nothing was delivered.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rpc::tls::{self, Authorities, Identity};
use rpc::{Address, CallContext, CallError, Client, NotDelivered, Server};
use serde::{Deserialize, Serialize};

/// Doubles a number and says for whom.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (u64, String))]
struct Double {
    number: u64,
}
#[derive(rpc::Protocol)]
#[rpc(name = "double", version = 1)]
enum Doubles {
    Double(Double),
}

struct Doubling;

impl DoublesHandler for Doubling {
    async fn double(&self, m: Double) -> Result<(u64, String), rpc::Never> {
        let caller = CallContext::current().map(|context| context.peer.to_string());
        Ok((m.number.saturating_mul(2), caller.unwrap_or_default()))
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Real ones come from files.
fn authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn identity(authority: &Authority, name: &str) -> Result<Identity, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, authority)?;
    Ok(Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (ours, foreign) = (authority()?, authority()?);
    let trusted = Authorities::from_pem(ours.pem().as_bytes())?;

    let config = tls::server_config(identity(&ours, "localhost")?, &trusted)?;
    let listener = tls::Listener::bind("127.0.0.1:0", config).await?;
    let authority = format!("localhost:{}", listener.local_addr()?.port());
    let server = Server::builder::<Doubles>(Doubling).serve_from(&format!("tls:{authority}"), listener);

    let config = tls::client_config(identity(&ours, "a caller")?, &trusted)?;
    let client = Client::<Doubles>::new(&Address::custom(tls::connector(&authority, config)?));
    let (number, caller) = client.call(Double { number: 21 }).await?;
    println!("{number}, for {caller}");
    assert_eq!(number, 42);

    let config = tls::client_config(identity(&foreign, "a stranger")?, &trusted)?;
    let stranger = Client::<Doubles>::new(&Address::custom(tls::connector(&authority, config)?));
    match stranger.call(Double { number: 21 }).await {
        Err(CallError::NotDelivered(NotDelivered::Handshake { fault, .. })) => println!("a stranger: {fault}"),
        other => return Err(format!("a stranger got through: {other:?}").into()),
    }
    server.drain().await;
    Ok(())
}
