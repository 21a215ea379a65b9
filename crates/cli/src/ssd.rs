//! What the SSD had to do in the last days, and since anybody counts: `ds4 ssd`.

use std::fmt::Write as _;

use engine::{Ledger, Traffic};
use serde_json::{Value, json};

use crate::{args::SsdArgs, error::Error, folders, output, units};

const N_DAYS: u32 = 30;

/// Prints it.
pub(crate) fn run(args: &SsdArgs) -> Result<(), Error> {
    let folder = args.cache.folder().ok_or_else(|| Error::Usage {
        what: "the environment names no home, so there is no folder to look in".into(),
        help: "say where it is with --cache-dir DIR".into(),
    })?;
    if let Some(path) = folders::in_the_way(&folder) {
        return Err(Error::NotAFolder { path: path.into() });
    }
    let report = Report::of(&Ledger::open(&folder)?);
    output::print(&if args.json { format!("{:#}\n", report.to_json()) } else { report.to_text() })
}

struct Report {
    days: Vec<(String, Traffic)>,
    recent: Traffic,
    first_day: Option<String>,
    total: Traffic,
}

impl Report {
    fn of(ledger: &Ledger) -> Report {
        let days: Vec<_> = ledger.recent(N_DAYS).collect();
        let recent = days.iter().map(|(_, traffic)| *traffic).sum();
        Report { days, recent, first_day: ledger.first_day(), total: ledger.total() }
    }

    fn to_text(&self) -> String {
        let mut out = format!("{:16}{:>12}{:>12}\n", "day (UTC)", "read", "written");
        let mut row = |name: &str, t: &Traffic| {
            let (read, written) = (units::bytes(t.read_bytes), units::bytes(t.written_bytes));
            let _ = writeln!(out, "{name:16}{read:>12}{written:>12}");
        };
        self.days.iter().for_each(|(day, traffic)| row(day, traffic));
        row(&format!("last {N_DAYS} days"), &self.recent);
        let since = self.first_day.as_ref().map_or("ever".into(), |day| format!("since {day}"));
        row(&since, &self.total);
        out
    }

    fn to_json(&self) -> Value {
        let traffic = |t: &Traffic| json!({ "read_bytes": t.read_bytes, "written_bytes": t.written_bytes });
        let day = |(day, t): &(String, Traffic)| json!({ "day": day, "read_bytes": t.read_bytes, "written_bytes": t.written_bytes });
        json!({
            "days": self.days.iter().map(day).collect::<Vec<_>>(),
            "last_30_days": traffic(&self.recent),
            "total": traffic(&self.total),
            "since": self.first_day,
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn example() -> Report {
        let traffic = |read_bytes, written_bytes| Traffic { read_bytes, written_bytes };
        let days = vec![("2026-11-24".into(), traffic(87 << 30, 0)), ("2026-11-25".into(), traffic(1 << 20, 512))];
        let first_day = Some("2026-09-01".into());
        Report { days, recent: traffic((87 << 30) + (1 << 20), 512), first_day, total: traffic(3 << 40, 512) }
    }

    #[test]
    fn days_come_before_their_sums() {
        expect![[r#"
            day (UTC)               read     written
            2026-11-24          87.0 GiB         0 B
            2026-11-25           1.0 MiB       512 B
            last 30 days        87.0 GiB       512 B
            since 2026-09-01     3.0 TiB       512 B
        "#]]
        .assert_eq(&example().to_text());
    }

    #[test]
    fn programs_get_bytes() {
        expect![[r#"
            {
              "days": [
                {
                  "day": "2026-11-24",
                  "read_bytes": 93415538688,
                  "written_bytes": 0
                },
                {
                  "day": "2026-11-25",
                  "read_bytes": 1048576,
                  "written_bytes": 512
                }
              ],
              "last_30_days": {
                "read_bytes": 93416587264,
                "written_bytes": 512
              },
              "total": {
                "read_bytes": 3298534883328,
                "written_bytes": 512
              },
              "since": "2026-09-01"
            }"#]]
        .assert_eq(&format!("{:#}", example().to_json()));
    }
}
