//! Numbers for people.

/// `13.4 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"], " ")
}

/// `284.3 B`: thousands, millions, billions.
pub(crate) fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "B", "T"], " ")
}

/// `3 min`: how long something takes or lies back.
pub(crate) fn age(seconds: u64) -> String {
    // From so many seconds on, in units of so many.
    const UNITS: [(u64, u64, &str); 3] = [(36 * 3600, 24 * 3600, "days"), (90 * 60, 3600, "h"), (90, 60, "min")];
    let unit = UNITS.iter().find(|(from, ..)| seconds >= *from);
    unit.map_or(format!("{seconds} s"), |(_, of, name)| format!("{} {name}", seconds / of + seconds % of * 2 / of))
}

fn scaled(n: u64, step: f64, units: &[&str], space: &str) -> String {
    let mut x = n as f64;
    let mut unit = 0;
    // 999.96 would be printed as 1000.0.
    while x >= step - 0.05 && unit + 1 < units.len() {
        x /= step;
        unit += 1;
    }
    let space = if units[unit].is_empty() { "" } else { space };
    match unit {
        0 => format!("{n}{space}{}", units[0]),
        _ => format!("{x:.1}{space}{}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_one_digit_behind_the_point() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(86_989_999_999), "81.0 GiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(count(999), "999");
        assert_eq!(count(284_334_567_000), "284.3 B");
    }

    #[test]
    fn ages_are_in_the_largest_unit_that_tells_enough() {
        let ages = [0, 89, 90, 150, 5399, 5400, 129_599, 129_600, u64::MAX].map(age);
        assert_eq!(ages, ["0 s", "89 s", "2 min", "3 min", "90 min", "2 h", "36 h", "2 days", "213503982334601 days"]);
    }
}
