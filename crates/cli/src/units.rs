//! Numbers for people.

/// `13.4 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"], " ")
}

/// `284.3 B`: thousands, millions, billions.
pub(crate) fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "B", "T"], " ")
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
}
