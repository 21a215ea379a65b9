//! Rows in columns.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::units;

/// Appends rows in columns as wide as their widest cell.
pub(crate) fn table(out: &mut String, rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A row per type of tensors, given the type, weights and bytes of each: how many there are, and what they come to.
pub(crate) fn by_type(tensors: impl Iterator<Item = (&'static str, u64, u64)>) -> impl Iterator<Item = Vec<String>> {
    let mut types = BTreeMap::new();
    for (name, n_weights, n_bytes) in tensors {
        let (n, weights, bytes) = types.entry(name).or_insert((0, 0, 0));
        *n += 1;
        *weights += n_weights;
        *bytes += n_bytes;
    }
    types.into_iter().map(type_row)
}

fn type_row((name, (n, weights, bytes)): (&'static str, (usize, u64, u64))) -> Vec<String> {
    let bits = 8.0 * bytes as f64 / weights.max(1) as f64;
    vec![
        name.into(),
        format!("{n} tensors"),
        format!("{} weights", units::count(weights)),
        units::bytes(bytes),
        format!("{bits:.2} bits each"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut out = String::new();
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        table(&mut out, [row(&["a", "bé", "c"]), row(&["aaa", "b", "cc"])].into_iter());
        assert_eq!(out, "a    bé  c\naaa  b   cc\n");
    }
}
