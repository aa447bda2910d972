//! Inside the processes of a contender: its server, or its client; see `process` for the other end.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::contender::{self, Contender, Driver, Failure};
use crate::measure::alloc;
use crate::measure::lap::Lap;
use crate::measure::usage::Usage;
use crate::process::{Answer, Job, LapFigures, Order};

fn prepare(job: &str) -> Result<(Job, &'static dyn Contender), Failure> {
    let job: Job = serde_json::from_str(job)?;
    let mut cpus = CpuSet::new();
    for cpu in &job.cpus {
        cpus.set(*cpu);
    }
    sched_setaffinity(None, &cpus)?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let contender = contender::find(&job.contender).ok_or("no such contender")?;
    Ok((job, contender))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn answer(answer: &Answer) {
    match serde_json::to_string(answer) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("an answer cannot be printed: {error}"),
    }
}

/// Orders that both sides obey.
fn obey(order: &Order) -> Answer {
    match order {
        Order::CountAllocations(on) => {
            alloc::count(*on);
            Answer::Done
        }
        Order::Usage { memory: true } => Answer::Usage(Usage::with_memory()),
        Order::Usage { memory: false } => Answer::Usage(Usage::now()),
        other => Answer::Failed(format!("not an order for this side: {other:?}")),
    }
}

/// The server, until standard input ends.
pub(crate) fn serve(job: &str) -> Result<(), Failure> {
    let (job, contender) = prepare(job)?;
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(order) => answer(&obey(&order)),
                Err(error) => answer(&Answer::Failed(error.to_string())),
            }
        }
        std::process::exit(0);
    });
    let local = tokio::task::LocalSet::new();
    runtime()?.block_on(local.run_until(contender.serve(&job.path, &job.load)))
}

/// The client, until standard input ends. Its runtime runs between orders too, as a program's would.
pub(crate) fn drive(job: &str) -> Result<(), Failure> {
    let (job, contender) = prepare(job)?;
    let (sender, mut orders) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let local = tokio::task::LocalSet::new();
    runtime()?.block_on(local.run_until(async {
        let mut driver = None;
        while let Some(line) = orders.recv().await {
            let order: Order = serde_json::from_str(&line)?;
            answer(&match perform(&order, &job, contender, &mut driver).await {
                Ok(done) => done,
                Err(error) => Answer::Failed(error.to_string()),
            });
        }
        // Connections are closed by the end of the process, which nothing is to delay.
        std::process::exit(0);
    }))
}

async fn perform(
    order: &Order,
    job: &Job,
    contender: &dyn Contender,
    driver: &mut Option<Box<dyn Driver>>,
) -> Result<Answer, Failure> {
    match order {
        Order::Connect => {
            *driver = Some(contender.connect(&job.path, &job.load).await?);
            Ok(Answer::Done)
        }
        Order::Run { until, timed } => {
            let driver = driver.as_mut().ok_or("not connected")?;
            let lap = Arc::new(Lap::new(*until, *timed));
            let (cpu_before, started) = (Usage::now().cpu_micros, Instant::now());
            driver.run(&lap).await?;
            let elapsed = started.elapsed();
            Ok(Answer::Ran(LapFigures {
                calls: lap.calls(),
                elapsed_micros: elapsed.as_secs_f64() * 1e6,
                cpu_micros: Usage::now().cpu_micros - cpu_before,
                p50_micros: lap.quantile_micros(0.5),
                p99_micros: lap.quantile_micros(0.99),
            }))
        }
        Order::CallEach { payload_bytes } => {
            driver
                .as_mut()
                .ok_or("not connected")?
                .call_each(Bytes::from(vec![contender::LETTER; *payload_bytes]))
                .await?;
            Ok(Answer::Done)
        }
        Order::Prepare { times } => {
            let payload = Bytes::from(vec![contender::LETTER; job.load.payload_bytes]);
            for _ in 0..*times {
                contender.prepare(&payload);
            }
            Ok(Answer::Done)
        }
        order => Ok(obey(order)),
    }
}
