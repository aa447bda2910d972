//! Where and when, and which versions.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Machine {
    /// UTC.
    pub(crate) date: String,
    /// With `+` behind it if there were changes that are in no commit.
    pub(crate) commit: String,
    pub(crate) processor: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    pub(crate) versions: Vec<(String, String)>,
}

/// Packages whose versions say what was compared.
const PACKAGES: [&str; 10] =
    ["tokio", "tokio-util", "tarpc", "ttrpc", "zlink", "capnp", "capnp-rpc", "tonic", "prost", "remoc"];

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned());
        Self {
            date: today(),
            commit: commit(),
            processor,
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions: PACKAGES.iter().filter_map(|name| Some(((*name).to_owned(), locked(name)?))).collect(),
        }
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let directory = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").args(["-C", directory]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    if changed { commit + "+" } else { commit }
}

/// The version of a package in our lock file.
fn locked(package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"\nversion = \"");
    let lock = include_str!("../../Cargo.lock");
    let at = lock.find(&name)? + name.len();
    lock[at..].split('"').next().map(str::to_owned)
}

fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(i64::try_from(seconds / 86_400).unwrap_or(0));
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970-01-01: 400 years have 146 097 days, counted from a March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!([civil(0), civil(11_016), civil(20_778)], [(1970, 1, 1), (2000, 2, 29), (2026, 11, 21)]);
    }

    #[test]
    fn version_of_tokio_is_locked() {
        assert!(locked("tokio").is_some_and(|version| version.starts_with("1.")));
        assert_eq!(locked("no-such-package"), None);
    }
}
