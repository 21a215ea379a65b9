//! How much memory there is, and how much of it this process may still take.

use std::fs;

/// Bytes that can be allocated without pushing other programs out: the system's estimate, or what is left of the
/// limit of our control group. `None` where the system does not say.
pub(crate) fn available_bytes() -> Option<u64> {
    let system = meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(group_left().map_or(system, |left| left.min(system)))
}

/// Bytes that the machine has; `None` where the system does not say.
pub fn memory_bytes() -> Option<u64> {
    meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// What the limit of the control group (version 2, mounted at the usual place) leaves; cached files do not count.
fn group_left() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|l| l.strip_prefix("0::"))?;
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok()?.trim().parse().ok()
    };
    let used = number("memory.current")?;
    let stat = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.stat")).ok()?;
    let cached = stat.lines().find_map(|l| l.strip_prefix("file ")).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    Some(number("memory.max")?.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_estimate_is_read_in_kibibytes() {
        let text = "MemTotal:  4 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(2 << 20));
        assert_eq!(meminfo(text, "MemTotal:"), Some(4 << 10));
        assert_eq!(meminfo("MemTotal:  4 kB\n", "MemAvailable:"), None);
        assert_eq!(meminfo("MemAvailable: much\n", "MemAvailable:"), None);
    }
}
