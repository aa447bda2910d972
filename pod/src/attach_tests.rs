//! Observers of a real pod, over its socket.

use std::sync::atomic::Ordering;

use futures::StreamExt as _;
use rpc::CallError;

use super::*;
use crate::fixture::{Puppet, within};
use crate::protocol::Method;
use crate::store::{HistoryItem, OutputKind};

async fn watch(puppet: &Puppet, from: u64) -> (u64, rpc::ItemStream<Observed>) {
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let (ack, items) = within("the subscription", client.open(Subscribe { from })).await.unwrap();
    (ack.head, items)
}

async fn next(items: &mut rpc::ItemStream<Observed>) -> Observed {
    within("the next item", items.next()).await.unwrap().unwrap()
}

async fn write(puppet: &Puppet, text: &str) {
    let item = HistoryItem::Output { output: OutputKind::Text, text: text.to_owned() };
    puppet.pod.commit(move |tx| tx.append(None, None, &item)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_sees_every_entry_once_in_order_and_then_every_commit() {
    let puppet = Puppet::new().await;
    // More than a page.
    for number in 0..3 * PAGE / 2 {
        write(&puppet, &number.to_string()).await;
    }
    let (head, mut items) = watch(&puppet, 0).await;
    let mut seen = 0;
    loop {
        match next(&mut items).await {
            Observed::Entry { seq, json, .. } => {
                assert_eq!(seq, seen + 1);
                assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json:?}");
                seen = seq;
            }
            Observed::CaughtUp { cursor } => break assert_eq!((cursor, head), (seen, seen)),
            Observed::Status(_) => {}
        }
    }
    for _ in 0..3 {
        write(&puppet, "new").await;
        assert!(matches!(next(&mut items).await, Observed::Entry { seq, .. } if seq == seen + 1));
        seen += 1;
    }
    let (_, mut later) = watch(&puppet, seen - 1).await;
    assert!(matches!(next(&mut later).await, Observed::Entry { seq, .. } if seq == seen), "goes on where it was");
    puppet.pod.shutdown().await;
    while within("the end of the stream", items.next()).await.is_some_and(|item| item.is_ok()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_beyond_the_bound_is_refused_and_takes_no_seat() {
    let puppet = Puppet::new().await;
    let observers = &puppet.pod.shared().observers;
    observers.store(OBSERVERS_MAX as usize, Ordering::Release);
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let refused = client.open(Subscribe { from: 0 }).await.map(|_| ());
    let full = SubscribeRejection::TooManyObservers { max: OBSERVERS_MAX };
    assert!(matches!(refused, Err(CallError::Rejected(why)) if why == full));
    within("the seat that was not taken", async {
        while observers.load(Ordering::Acquire) > OBSERVERS_MAX as usize {
            tokio::task::yield_now().await;
        }
    })
    .await;
    observers.store(0, Ordering::Release);
    let (_, items) = watch(&puppet, 0).await;
    assert_eq!(observers.load(Ordering::Acquire), 1);
    drop(items);
    // Who goes is noticed with the next commit at the latest.
    within("the free seat", async {
        while observers.load(Ordering::Acquire) > 0 {
            write(&puppet, "x").await;
        }
    })
    .await;
}
