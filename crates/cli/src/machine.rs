//! What the program runs on, in one line, for numbers that would mean nothing without it.

use std::{fs, thread};

use crate::units;

/// `AMD EPYC 9R14, 2 cores, 23.4 GiB, linux x86_64`, as far as the system tells.
pub(crate) fn describe() -> String {
    let cpu = processor(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown processor".into());
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let memory = engine::memory_bytes().map(|n| format!(", {}", units::bytes(n))).unwrap_or_default();
    format!("{cpu}, {cores} cores{memory}, {} {}", std::env::consts::OS, std::env::consts::ARCH)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn processor(cpuinfo: &str) -> Option<String> {
    let name = field(cpuinfo, "model name")?;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The value of the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(k, _)| k.trim() == key).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_read_as_far_as_it_tells() {
        assert_eq!(processor("vendor_id\t: x\nmodel name\t: AMD  EPYC\n").unwrap(), "AMD EPYC");
        assert_eq!(processor(""), None);
    }
}
