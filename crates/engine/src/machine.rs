//! How much memory there is, and how much of it this process may still take.

use std::{fs, path::Path};

/// Bytes that can be allocated without pushing other programs out: the system's estimate, or what is left of the
/// limit of our control group. `None` where the system does not say.
pub(crate) fn available_bytes() -> Option<u64> {
    let system = meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(group_left().map_or(system, |left| left.min(system)))
}

/// Whether so many bytes, and some more, can be allocated now.
pub(crate) fn is_free(bytes: u64) -> bool {
    available_bytes().is_none_or(|available| bytes.saturating_add(bytes / 8) <= available)
}

/// Bytes that the machine has; `None` where the system does not say.
pub fn memory_bytes() -> Option<u64> {
    meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Files of a version of control groups: the limit, what is used, and the line of `memory.stat` for cached files.
struct Group {
    limit: &'static str,
    used: &'static str,
    cached: &'static str,
}

const GROUP_1: Group = Group { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cached: "total_cache " };
const GROUP_2: Group = Group { limit: "memory.max", used: "memory.current", cached: "file " };

/// What the limits of our control groups leave, those around them included; cached files do not count.
fn group_left() -> Option<u64> {
    left_of(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The least that a group leaves, of those mounted at `root` that `groups`, lines of `number:controllers:path`, name.
fn left_of(root: &Path, groups: &str) -> Option<u64> {
    let mut left = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = Path::new(path.trim_start_matches('/'));
        let (mount, group) = match controllers {
            "" => (root.to_owned(), &GROUP_2),
            _ if controllers.split(',').any(|c| c == "memory") => (root.join("memory"), &GROUP_1),
            _ => continue,
        };
        let around = path.ancestors().filter_map(|folder| group.left(&mount.join(folder)));
        left = left.into_iter().chain(around).min();
    }
    left
}

impl Group {
    fn left(&self, folder: &Path) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let stat = read("memory.stat")?;
        let cached = stat.lines().find_map(|l| l.strip_prefix(self.cached)).and_then(|n| n.parse::<u64>().ok());
        let used = number(self.used)?.saturating_sub(cached.unwrap_or(0));
        Some(number(self.limit)?.saturating_sub(used))
    }
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

    #[test]
    fn the_tightest_group_counts_and_cached_files_do_not() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let write = |folder: &str, files: &[(&str, &str)]| {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{e}"));
            files.iter().for_each(|(name, text)| {
                fs::write(folder.join(name), text).unwrap_or_else(|e| panic!("{e}"));
            });
        };
        let left = |groups: &str| left_of(root.path(), groups);
        assert_eq!(left("0::/a/b\n"), None);
        write("a", &[("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 1\nfile 400\n")]);
        write("a/b", &[("memory.max", "max\n"), ("memory.current", "600\n"), ("memory.stat", "file 400\n")]);
        assert_eq!(left("0::/a/b\n"), Some(700), "a limit around ours");
        write("a/b", &[("memory.max", "500\n")]);
        assert_eq!(left("0::/a/b\n"), Some(300));

        let stat = ("memory.stat", "cache 0\ntotal_cache 50\n");
        write("memory/c", &[("memory.limit_in_bytes", "400\n"), ("memory.usage_in_bytes", "350\n"), stat]);
        assert_eq!(left("3:cpu:/c\n4:hugetlb,memory:/c\n0::/a/b\n"), Some(100), "version 1 beside version 2");
        assert_eq!(left("4:memory:/elsewhere\nnonsense\n"), None);
    }
}
