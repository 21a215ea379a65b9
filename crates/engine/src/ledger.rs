//! What the SSD had to do, day by day: the bytes that we read from it and wrote to it.
//!
//! ```text
//! day,read_bytes,written_bytes       UTC, oldest first, a line for each day with any
//! 2026-11-25,91234567890,0
//! ```
//!
//! Read is what came past the page cache: experts, also to measure the disk. Written is what sessions leave in a folder.
//! Several processes add to one file. A file that is not
//! as it should be is left alone, since what it holds is known nowhere else. `docs/formats/ssd-ledger.md` has the details.

use std::{collections::BTreeMap, io, iter::Sum, ops::AddAssign, path::Path};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::Offset};

use crate::{Error, folder::Folder};

pub(crate) const NAME: &str = "ssd-ledger.csv";

const COLUMNS: &str = "day,read_bytes,written_bytes";

/// A line for each day of a thousand years.
const BYTES_MAX: u64 = 32 << 20;

/// Bytes that an SSD was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read.
    pub read_bytes: u64,
    /// Written.
    pub written_bytes: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Traffic) {
        self.read_bytes = self.read_bytes.saturating_add(more.read_bytes);
        self.written_bytes = self.written_bytes.saturating_add(more.written_bytes);
    }
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Traffic>>(all: I) -> Traffic {
        let mut sum = Traffic::default();
        all.for_each(|traffic| sum += traffic);
        sum
    }
}

/// The traffic of every day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<Date, Traffic>);

/// Why nothing could be added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unkept {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("line {line} is not `{COLUMNS}`")]
    Line { line: usize },
}

impl Ledger {
    /// What is known in the folder that engines keep things in; nothing where nothing was kept.
    ///
    /// # Errors
    /// [`Error::Ledger`].
    pub fn open(cache_dir: &Path) -> Result<Ledger, Error> {
        let folder = Folder::new(cache_dir);
        let ledger = folder.read(NAME, BYTES_MAX).map_err(Unkept::from).and_then(parse);
        ledger.map_err(|e| Error::Ledger { path: folder.path(NAME), problem: e.to_string() })
    }

    /// The last `n` days that have any traffic, of as many that have passed, oldest first. Days are written `2026-11-25`.
    pub fn recent(&self, n: u32) -> impl Iterator<Item = (String, Traffic)> {
        self.since(first_of(n, today())).map(|(day, traffic)| (day.to_string(), traffic))
    }

    /// The first day that is known.
    pub fn first_day(&self) -> Option<String> {
        self.0.keys().next().map(Date::to_string)
    }

    /// Today's.
    pub(crate) fn today(&self) -> Traffic {
        self.0.get(&today()).copied().unwrap_or_default()
    }

    /// All days together.
    pub fn total(&self) -> Traffic {
        self.0.values().copied().sum()
    }

    fn since(&self, first: Date) -> impl Iterator<Item = (Date, Traffic)> {
        self.0.range(first..).map(|(day, traffic)| (*day, *traffic))
    }

    fn to_text(&self) -> String {
        format!("{COLUMNS}\n{}", self.0.iter().map(|(day, traffic)| line(*day, *traffic)).collect::<String>())
    }
}

/// Adds to the ledger in `folder` what happened today.
pub(crate) fn add(folder: &Folder, traffic: Traffic) -> Result<(), Unkept> {
    add_on(folder, today(), traffic)
}

fn add_on(folder: &Folder, day: Date, traffic: Traffic) -> Result<(), Unkept> {
    folder.update(NAME, BYTES_MAX, |old| {
        let mut ledger = parse(old?)?;
        *ledger.0.entry(day).or_default() += traffic;
        Ok(ledger.to_text())
    })
}

fn today() -> Date {
    Offset::UTC.to_datetime(Timestamp::now()).date()
}

/// The first of `n` days that end with `last`.
fn first_of(n: u32, last: Date) -> Date {
    last.saturating_sub((i64::from(n) - 1).days())
}

fn line(day: Date, traffic: Traffic) -> String {
    format!("{day},{},{}\n", traffic.read_bytes, traffic.written_bytes)
}

/// Takes nothing but what `to_text` writes, so that no line is read as something else than whoever wrote it meant.
fn parse(bytes: Option<Vec<u8>>) -> Result<Ledger, Unkept> {
    let Some(bytes) = bytes else { return Ok(Ledger::default()) };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = (1..).zip(text.split_inclusive('\n'));
    if lines.next().is_none_or(|(_, line)| line.strip_suffix('\n') != Some(COLUMNS)) {
        return Err(Unkept::Line { line: 1 });
    }
    let mut ledger = Ledger::default();
    for (line, entry) in lines {
        let last = ledger.0.keys().next_back().copied();
        let (day, traffic) = parse_line(entry).filter(|&(day, _)| Some(day) > last).ok_or(Unkept::Line { line })?;
        ledger.0.insert(day, traffic);
    }
    Ok(ledger)
}

fn parse_line(entry: &str) -> Option<(Date, Traffic)> {
    let mut fields = entry.trim_end_matches('\n').split(',');
    let day = fields.next()?.parse().ok()?;
    let mut number = || fields.next()?.parse().ok();
    let traffic = Traffic { read_bytes: number()?, written_bytes: number()? };
    (line(day, traffic) == entry).then_some((day, traffic))
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use expect_test::expect;
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
    }

    fn read(read_bytes: u64) -> Traffic {
        Traffic { read_bytes, written_bytes: 0 }
    }

    #[test]
    fn days_add_up_and_stay_in_order() {
        let root = temporary();
        let folder = Folder::new(root.path());
        let add = |day, traffic| add_on(&folder, day, traffic).unwrap_or_else(|e| panic!("{e}"));
        add(date(2026, 11, 25), read(5));
        add(date(2026, 10, 26), read(3));
        add(date(2026, 10, 27), read(2));
        add(date(2026, 11, 25), Traffic { read_bytes: 1, written_bytes: u64::MAX });
        add(date(2026, 11, 25), Traffic { read_bytes: 1, written_bytes: 7 });
        let text = fs::read_to_string(folder.path(NAME)).unwrap_or_default();
        expect![[r#"
            day,read_bytes,written_bytes
            2026-10-26,3,0
            2026-10-27,2,0
            2026-11-25,7,18446744073709551615
        "#]]
        .assert_eq(&text);
        let ledger = Ledger::open(root.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((ledger.total().read_bytes, ledger.first_day()), (12, Some("2026-10-26".into())));
        let recent: Vec<_> =
            ledger.since(first_of(30, date(2026, 11, 25))).map(|(day, t)| (day, t.read_bytes)).collect();
        assert_eq!(recent, [(date(2026, 10, 27), 2), (date(2026, 11, 25), 7)]);
    }

    #[test]
    fn what_is_added_at_once_is_all_there() {
        let root = temporary();
        thread::scope(|scope| {
            for i in 0..4 {
                let folder = Folder::new(root.path());
                scope.spawn(move || {
                    (0..8).for_each(|_| add(&folder, read(1 << (8 * i))).unwrap_or_else(|e| panic!("{e}")))
                });
            }
        });
        let total = Ledger::open(root.path()).unwrap_or_else(|e| panic!("{e}")).total();
        assert_eq!(total, read(0x0808_0808));
    }

    #[test]
    fn a_damaged_ledger_is_told_and_left_alone() {
        for (text, line) in [
            ("", 1),
            ("day,read_bytes\n", 1),
            ("day,read_bytes,written_bytes\n2026-13-01,1,1\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01,1,1\n2026-12-02,-1,1\n", 3),
            ("day,read_bytes,written_bytes\n2026-12-01,1,1,1\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01,1\n", 2),
            ("day,read_bytes,written_bytes\n\n", 2),
            ("day,read_bytes,written_bytes\n20261201,1,1\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01T10:00,1,1\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01,+1,1\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01,01,1\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01,1,1\r\n", 2),
            ("day,read_bytes,written_bytes\n2026-12-01,1,1\n2026-12-02,12,1", 3),
            ("day,read_bytes,written_bytes\n2026-12-01,1,1\n2026-12-01,2,1\n", 3),
            ("day,read_bytes,written_bytes\n2026-12-02,1,1\n2026-12-01,2,1\n", 3),
        ] {
            let root = temporary();
            let folder = Folder::new(root.path());
            fs::write(folder.path(NAME), text).unwrap_or_else(|e| panic!("{e}"));
            let told = add(&folder, read(1)).expect_err("damaged").to_string();
            assert_eq!(told, format!("line {line} is not `day,read_bytes,written_bytes`"));
            let error = Ledger::open(root.path()).expect_err("damaged").to_string();
            assert_eq!(error, format!("{}: {told}", folder.path(NAME).display()));
            assert_eq!(fs::read_to_string(folder.path(NAME)).unwrap_or_default(), text);
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), with_head in any::<bool>()) {
            let head = if with_head { format!("{COLUMNS}\n").into_bytes() } else { Vec::new() };
            if let Ok(ledger) = parse(Some([head, bytes].concat())) {
                prop_assert_eq!(parse(Some(ledger.to_text().into_bytes())).ok(), Some(ledger));
            }
        }
    }
}
