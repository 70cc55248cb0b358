//! What the kernel says about this process, from /proc (proc(5)).

use std::fs;

use crate::families::Kind;

/// One number about this process.
pub struct Sample {
    /// Its name without `dislocate_`.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// In base units.
    pub value: f64,
}

/// The process's numbers; one that cannot be read (a /proc that is hidden, say) is left out.
///
/// *Cost*: reads three small files and lists a directory.
pub fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut gauge = |name, help, value: Option<f64>| {
        samples.extend(value.map(|value| Sample { name, help, kind: Kind::Gauge, value }));
    };
    // The directory that is being listed is itself open.
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
    gauge("process_open_fds", "Open descriptors.", open);
    gauge("process_max_fds", "Descriptors that may be open.", max_fds());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key| field(&status, key).map(|kib| kib * 1024.0);
    gauge("process_resident_memory_bytes", "Resident memory.", kib("VmRSS:"));
    gauge("process_threads", "Threads.", field(&status, "Threads:"));
    let help = "CPU time, user and system.";
    samples.extend(cpu_seconds().map(|value| Sample {
        name: "process_cpu_seconds_total",
        help,
        kind: Kind::Counter,
        value,
    }));
    samples
}

/// The number after `key` in the lines of /proc/self/status.
fn field(status: &str, key: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn max_fds() -> Option<f64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map(|limit| limit as f64)
}

/// User and system time of all threads: fields 14 and 15 of /proc/self/stat, counted after the command's name, which
/// is in parentheses and may contain anything.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_files_memory_threads_and_time() {
        let samples = samples();
        for name in ["process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_threads"] {
            let sample = samples.iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("{name} is there"));
            assert!(sample.value >= 1.0, "{name} is {}", sample.value);
        }
        assert!(samples.iter().any(|sample| sample.name == "process_cpu_seconds_total"));
    }
}
