//! How many cores there are for us: hyperthreads share the units that multiply, so a core counts once.

use std::{collections::BTreeSet, fs, thread};

/// One thread per physical core that this process may use: what its affinity allows, and no more than its share of
/// processor time.
pub fn n_threads_default() -> usize {
    let share = thread::available_parallelism().map_or(1, |n| n.get());
    let allowed = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        parse_list(line)
    });
    let siblings = |cpu: usize| {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let list = fs::read_to_string(format!("{topology}/thread_siblings_list")).ok()?;
        parse_list(&list)
    };
    allowed.map_or(share, |allowed| n_cores(&allowed, siblings).clamp(1, share))
}

/// How many cores the processors `cpus` belong to, given each one's siblings. What is not known is a core of its own.
fn n_cores(cpus: &[usize], siblings: impl Fn(usize) -> Option<Vec<usize>>) -> usize {
    let core = |&cpu: &usize| siblings(cpu).and_then(|s| s.into_iter().min()).unwrap_or(cpu);
    cpus.iter().map(core).collect::<BTreeSet<usize>>().len()
}

/// `0-3,8` and the like.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = vec![];
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for (text, cpus) in [
            ("0\n", Some(vec![0])),
            ("\t0-3,8", Some(vec![0, 1, 2, 3, 8])),
            ("5,7-8\n", Some(vec![5, 7, 8])),
            ("", None),
            ("0-", None),
        ] {
            assert_eq!(parse_list(text), cpus, "{text:?}");
        }
    }

    #[test]
    fn hyperthreads_count_once() {
        let neighbours = |cpu: usize| Some(vec![cpu / 2 * 2, cpu / 2 * 2 + 1]);
        let far = |cpu: usize| Some(vec![cpu % 8, cpu % 8 + 8]);
        assert_eq!(n_cores(&[0, 1, 2, 3], neighbours), 2);
        assert_eq!(n_cores(&[1, 2, 5], neighbours), 3);
        assert_eq!(n_cores(&[0, 1, 8, 9], far), 2);
        assert_eq!(n_cores(&[0, 1, 2], |_| None), 3);
    }

    #[test]
    fn there_is_at_least_one_and_no_more_than_the_system_gives() {
        let n = n_threads_default();
        assert!((1..=thread::available_parallelism().map_or(1, |n| n.get())).contains(&n), "{n}");
    }
}
