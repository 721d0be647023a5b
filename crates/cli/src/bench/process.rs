//! What time it is, and what this process and the broker have spent.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::fs;

/// Monotonic nanoseconds, comparable between the processes of one machine.
#[inline]
pub(crate) fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// CPU seconds of this process, in user space and in the kernel.
pub(crate) fn own_cpu() -> f64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime)) as f64 / 1e9
}

fn nanos(time: Timespec) -> u64 {
    // Neither clock is ever negative.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU seconds of a process; 0 where it cannot be known.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything, so the fields are counted from behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    const USER: usize = 12;
    const SYSTEM: usize = 13;
    (ticks(USER) + ticks(SYSTEM)) / rustix::param::clock_ticks_per_second() as f64
}

/// Memory of a process that is in RAM, in KiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// Of that, what is not a file's.
    pub(crate) anonymous: u64,
}

/// The memory of a process; 0 where it cannot be known.
pub(crate) fn memory_of(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Memory { resident: field("VmRSS:"), anonymous: field("RssAnon:") }
}

/// Bytes that a process has had written to disks; 0 where it cannot be known.
pub(crate) fn written_by(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_the_same_in_both_ways() {
        let start = now();
        while own_cpu() < 0.1 {
            std::hint::black_box(now());
        }
        assert!(now() - start > 0);
        let seen = cpu_of(std::process::id());
        assert!((seen - own_cpu()).abs() < 0.1, "{seen} is not {}", own_cpu());
        let memory = memory_of(std::process::id());
        assert!(memory.anonymous > 0 && memory.resident >= memory.anonymous);
    }
}
