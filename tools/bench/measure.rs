//! What processes use: processor time, and memory.

use std::fs;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::Error;

/// Processor time of these processes so far, user and system together, exact to the nanosecond.
pub(crate) fn processor_time(processes: &[u32]) -> Result<Duration, Error> {
    let mut sum = Duration::ZERO;
    for &process in processes {
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process)?))?;
        sum += Duration::from(clock_gettime(clock)?);
    }
    Ok(sum)
}

/// The proportional set size of these processes, in KiB: shared pages count in parts.
pub(crate) fn memory(processes: &[u32]) -> Result<f64, Error> {
    let mut sum = 0.0;
    for process in processes {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss line")?;
        sum += line.trim().trim_end_matches(" kB").trim().parse::<f64>()?;
    }
    Ok(sum)
}

/// The same once it no longer changes, or after a few seconds.
pub(crate) async fn settled_memory(processes: &[u32]) -> Result<f64, Error> {
    let mut last = memory(processes)?;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = memory(processes)?;
        if (now - last).abs() < 16.0 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Descriptors that these processes have open.
pub(crate) fn descriptors(processes: &[u32]) -> usize {
    let open = |process| fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
    processes.iter().map(open).sum()
}

/// The machine, for the record.
pub(crate) fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|pair| pair.1))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} x {}, Linux {}", models.len(), models.first().unwrap_or(&"unknown processor"), kernel.trim())
}
