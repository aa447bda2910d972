//! One workload: all contenders started, then round by round in turn.

use crate::contender::{Contender, Failure};
use crate::measure::lap::Until;
use crate::plan::{Effort, Workload};
use crate::process::{self, Pair, PairFigures};
use crate::report::Series;

/// Measures `workload`. A contender that fails says so in its series and does not stop the others.
pub(crate) fn measure(
    workload: &Workload,
    effort: &Effort,
    contenders: &[&'static dyn Contender],
) -> Result<Vec<Series>, Failure> {
    let (_root, directory) = process::scratch()?;
    let mut running: Vec<(Series, Option<Pair>)> = Vec::new();
    for contender in contenders {
        let mut series = Series::new(workload, *contender);
        let refused = workload.refused_by(*contender);
        let pair = match refused {
            Some(why) => Err(why.into()),
            None => process::job(contender.name(), &directory, workload.load, workload.placement)
                .and_then(|job| Pair::start(&job)),
        };
        match pair {
            Ok(pair) => running.push((series, Some(pair))),
            Err(why) => {
                series.give_up(refused.is_none(), &why.to_string());
                running.push((series, None));
            }
        }
    }
    let micros = u64::try_from(effort.slice.as_micros())?;
    // The first round warms caches, buffers and the processor's clock.
    for round in 0..=workload.rounds(effort.rounds) {
        turn(&mut running, Until::Micros(micros), false, |series, figures| {
            if round > 0 {
                series.add(&figures);
            }
        });
        if (1..=effort.timed_rounds).contains(&round) {
            turn(&mut running, Until::Micros(micros), true, |series, figures| series.add_latencies(&figures.lap));
        }
    }
    Ok(running.into_iter().map(|(series, _)| series).collect())
}

fn turn(
    running: &mut [(Series, Option<Pair>)],
    until: Until,
    timed: bool,
    mut keep: impl FnMut(&mut Series, PairFigures),
) {
    for (series, slot) in running {
        let Some(pair) = slot else { continue };
        match pair.run(until, timed) {
            Ok(figures) => keep(series, figures),
            Err(why) => {
                series.give_up(true, &why.to_string());
                *slot = None;
            }
        }
    }
}
