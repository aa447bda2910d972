//! What this process has used so far: processor time, allocations, memory.

use serde::{Deserialize, Serialize};

use crate::measure::alloc;

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// User and system time, in microseconds.
    pub(crate) cpu_micros: u64,
    /// While counting was on.
    pub(crate) allocations: u64,
    /// Resident, in KiB; 0 if the kernel did not say.
    pub(crate) resident_kib: u64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        Self { cpu_micros: cpu_micros(), allocations: alloc::allocations(), resident_kib: 0 }
    }

    pub(crate) fn with_memory() -> Self {
        Self { resident_kib: resident_kib(), ..Self::now() }
    }
}

/// Of all threads, to the nanosecond that the scheduler counts in.
fn cpu_micros() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
