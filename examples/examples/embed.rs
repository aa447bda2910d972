//! A pod in a program of yours: a worker of your own, a child that hosts it, and its end as a typed value.
//!
//! The program is started again for the child; `pod::host` makes that second process the child.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use examples::{Outcome, check};
use futures::future::BoxFuture;
use pod::{PodController, PodOptions, SpawnPod, Terminal, TurnContext, TurnEnd, TurnResult, WorkEnd};
use pod::{Roots, Worker, WorkerError, WorkerSpec, Workers};

struct Shout;

impl Worker for Shout {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let input = cx.input().ok_or_else(|| WorkerError::new("nothing to shout"))?.to_uppercase();
            cx.output(&input).await?;
            Ok(TurnEnd::Finished)
        })
    }
}

fn main() -> Outcome {
    let workers = Workers::builtin().with("shout", |_| Ok(Box::new(Shout)));
    pod::host(&workers); // becomes the child, if this process was started as one
    let runtime = tokio::runtime::Runtime::new()?;
    let directory = tempfile::tempdir()?;
    let roots = Roots::at(&directory.path().join("pods"))?;
    runtime.block_on(async {
        let options = PodOptions::new("boss".parse()?, WorkerSpec::ledger()).roots(roots).workers(workers);
        let boss = PodController::spawn(options).await?;
        let child = boss.spawn_pod(SpawnPod::new("clerk".parse()?, WorkerSpec::of_kind("shout"))).await?;
        let work = child.run("a report that is not lost").await?;
        let end = work.ended().await;
        println!("the work of `{}` ended: {end:?}", child.id().name);
        let terminal = child.stop(std::time::Duration::from_secs(10)).await?;
        println!("its life ended: {terminal:?}");
        boss.shutdown().await;
        check(end == WorkEnd::TurnEnded(TurnResult::Finished), "the turn's end is known by its type")?;
        check(terminal == Terminal::ShutDown, "its life ended by its own word")?;
        Ok(())
    })
}
