//! What the derives generate, as their users see it. What they refuse is in `ui/`.
#![allow(missing_docs)]

use bytes::BytesMut;
use rpc::wire::body;
use rpc::{DecodeFault, Has, Never, Protocol, Request, StreamRequest, Wire};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Wire)]
pub struct Overflow;

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Overflow)]
pub struct Add {
    a: u64,
    b: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, version = 2, name = "add-many", ack = u64, rejection = Overflow, ack_bytes_max = 16)]
pub struct AddMany {
    numbers: rpc::List<u64, 100>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
pub struct Move;

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = (), item = u32)]
pub struct Watch {
    from: u32,
}

#[derive(Debug, PartialEq, rpc::Protocol)]
#[rpc(name = "calc", version = 3)]
pub enum Calc {
    /// Adds.
    Add(Add),
    AddMany(AddMany),
    Move(Move),
    #[rpc(stream)]
    Watch(Watch),
}

struct Sums;

impl CalcHandler for Sums {
    async fn add(&self, request: Add) -> Result<u64, Overflow> {
        request.a.checked_add(request.b).ok_or(Overflow)
    }

    async fn add_many(&self, request: AddMany) -> Result<u64, Overflow> {
        request.numbers.into_iter().try_fold(0, u64::checked_add).ok_or(Overflow)
    }

    async fn r#move(&self, _: Move) -> Result<(), Never> {
        Ok(())
    }

    async fn watch(&self, _: Watch, _: rpc::ItemSender<u32>) -> Result<(), Never> {
        Ok(())
    }
}

fn encoded<T: Serialize>(value: &T) -> BytesMut {
    let mut out = BytesMut::new();
    body::encode(value, &mut out).expect("the sample can be encoded");
    out
}

#[test]
fn request_has_what_its_attribute_says() {
    assert_eq!((Add::ID, Add::VERSION, Add::NAME, Add::ACK_BYTES_MAX), (1, 1, "add", 4096));
    assert_eq!((AddMany::ID, AddMany::VERSION, AddMany::NAME, AddMany::ACK_BYTES_MAX), (1, 2, "add-many", 16));
    fn ack<R: Request<Ack = u64, Rejection = Overflow>>() {}
    fn never<R: Request<Ack = (), Rejection = Never>>() {}
    fn items<R: StreamRequest<Item = u32>>() {}
    ack::<Add>();
    never::<Move>();
    items::<Watch>();
}

#[test]
fn protocol_lists_its_methods_in_order() {
    assert_eq!((Calc::NAME, Calc::VERSION), ("calc", 3));
    let listed: Vec<_> = Calc::METHODS.iter().map(|m| (m.id, m.version, m.name, m.ack_bytes_max, m.stream)).collect();
    assert_eq!(
        listed,
        [
            (1, 1, "add", 4096, false),
            (1, 2, "add-many", 16, false),
            (2, 1, "move", 4096, false),
            (3, 1, "watch", 4096, true)
        ]
    );
    for (at, method) in Calc::METHODS.iter().enumerate() {
        assert!(Calc::METHODS[..at].iter().all(|earlier| earlier.fingerprint != method.fingerprint));
    }
    fn has<P: Has<R>, R: Request>() {}
    has::<Calc, Add>();
    has::<Calc, AddMany>();
    has::<Calc, Move>();
    has::<Calc, Watch>();
}

#[test]
fn method_fingerprint_covers_its_answers() {
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 9, ack = u64)]
    struct One;
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 9, ack = u32)]
    struct OtherAck;
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 9, ack = u64, rejection = Overflow)]
    struct OtherRejection;
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 9, ack = u64, item = u8)]
    struct WithItems;
    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 9, ack = u64, item = u16)]
    struct WithOtherItems;
    let prints = [
        rpc::MethodInfo::of::<One>().fingerprint,
        rpc::MethodInfo::of::<OtherAck>().fingerprint,
        rpc::MethodInfo::of::<OtherRejection>().fingerprint,
        rpc::MethodInfo::of_stream::<WithItems>().fingerprint,
        rpc::MethodInfo::of_stream::<WithOtherItems>().fingerprint,
    ];
    for (at, print) in prints.iter().enumerate() {
        assert!(!prints[..at].contains(print), "{at}");
    }
}

#[test]
fn protocol_decodes_by_id_and_version() {
    let add = Add { a: 1, b: 300 };
    assert_eq!(Calc::decode(1, 1, &encoded(&add)), Ok(Calc::Add(add)));
    let many = AddMany { numbers: [1, 2].into() };
    assert_eq!(Calc::decode(1, 2, &encoded(&many)), Ok(Calc::AddMany(many)));
    assert_eq!(Calc::decode(2, 1, &[]), Ok(Calc::Move(Move)));
}

#[test]
fn request_that_is_not_understood_says_why() {
    assert_eq!(Calc::decode(4, 1, &[]), Err(DecodeFault::UnknownMethod));
    assert_eq!(Calc::decode(1, 3, &[]), Err(DecodeFault::UnsupportedVersion));
    assert_eq!(Calc::decode(2, 0, &[]), Err(DecodeFault::UnsupportedVersion));
    let error = Calc::decode(1, 1, &[1]).expect_err("half an Add");
    assert_eq!(error.to_string(), "bad body: the body ends in the middle of a value");
    let error = Calc::decode(2, 1, &[0]).expect_err("more than a Move");
    assert_eq!(error.to_string(), "bad body: 1 bytes are left over after the value");
}

#[test]
fn handler_becomes_a_service() {
    let service: rpc::Service<Calc> = CalcService::from(Sums).into();
    drop(service);
}

#[tokio::test]
async fn handler_is_called_by_its_trait() {
    assert_eq!(Sums.add(Add { a: 1, b: 2 }).await, Ok(3));
    assert_eq!(Sums.add(Add { a: u64::MAX, b: 2 }).await, Err(Overflow));
    assert_eq!(Sums.add_many(AddMany { numbers: [1, 2, 3].into() }).await, Ok(6));
    assert_eq!(Sums.r#move(Move).await, Ok(()));
}

/// An actor matches on the call enum; this compiles if the variants are what the documentation says.
#[allow(dead_code)]
fn answers(call: CalcCall) {
    assert!(["Add", "AddMany", "Move", "Watch"].contains(&format!("{call:?}").as_str()));
    match call {
        CalcCall::Add(request, responder) => {
            let _: (u64, rpc::Responder<Add>) = (request.a, responder);
        }
        CalcCall::AddMany(AddMany { .. }, _) | CalcCall::Move(Move, _) => {}
        CalcCall::Watch(request, responder, items) => {
            let _: (u32, rpc::Responder<Watch>, rpc::ItemSender<u32>) = (request.from, responder, items);
        }
    }
}

#[test]
fn call_can_cross_threads() {
    fn send<T: Send + 'static>() {}
    send::<CalcCall>();
    send::<<Calc as Protocol>::Call>();
}

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Wire)]
struct Page<T, const MAX: usize> {
    entries: rpc::List<T, MAX>,
    next: Option<Box<Cursor<T>>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, rpc::Wire)]
struct Cursor<T>(T);

#[test]
fn generic_type_is_wire_for_each_of_its_types() {
    let page = Page::<u16, 4> { entries: [1, 2].into(), next: Some(Box::new(Cursor(7))) };
    assert_eq!(body::decode(&encoded(&page)), Ok(page));
    assert_ne!(<Page<u16, 4>>::FINGERPRINT, <Page<u32, 4>>::FINGERPRINT);
    assert_ne!(<Page<u16, 4>>::FINGERPRINT, <Page<u16, 5>>::FINGERPRINT);
}
