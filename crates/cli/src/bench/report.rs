//! The figures: as a table for people, and for programs as CSV or JSON.
//!
//! The CSV has one row per measurement, as soon as it is known:
//!
//! | column | holds |
//! |---|---|
//! | `kind` | `prefill` or `decode` |
//! | `n_depth` | tokens that are in the context before |
//! | `n` | tokens that are measured |
//! | `runs` | how often |
//! | `median_tps`, `min_tps`, `max_tps` | tokens per second |
//! | `work` | what a token costs: multiply-adds with weights in prefill, bytes read in decode |
//! | `share` | of the limit of this run, 0 to 1: the int8 peak in prefill, the read bandwidth in decode; empty if unknown |
//! | `read_gbps`, `int8_gmacs` | these limits: 10^9 bytes, and 10^9 multiply-adds, per second; empty if unknown |
//! | `kv_bytes_per_token` | bytes of KV cache that each token of context takes |
//! | `expert_hit_rate` | of the experts that were chosen, the part that was in memory, 0 to 1; empty, as all that follow, where they are not streamed |
//! | `expert_bytes_per_token` | bytes of experts that were read |
//! | `stalled_share` | of the time, the part that was spent waiting for them |
//! | `ssd_share` | of what the SSD delivers, the part that was read; empty if unknown |
//! | `guesses_per_token`, `guesses_right` | experts that were read before their layer had chosen, and the part that it then chose |

use engine::{Cost, Limits};
use serde_json::{Value, json};

use super::{Kind, measure::Test};
use crate::{args::BenchArgs, units};

/// What the figures hold for.
pub(crate) struct About {
    pub(crate) machine: String,
    pub(crate) model: String,
    pub(crate) device: String,
    /// Measured in this run; `None` where the device does not tell.
    pub(crate) limits: Option<Limits>,
    /// Of the first token.
    pub(crate) cost: Cost,
    /// Of the KV cache, per token of context.
    pub(crate) kv_bytes: u64,
    /// Bytes per second that the SSD delivers; `None` where experts are in memory, or it was not measured.
    pub(crate) ssd: Option<f64>,
}

/// How figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One line per length.
    Text,
    /// One line per length of a sweep.
    Sweep,
    Csv,
    Json,
}

impl Form {
    pub(crate) fn of(args: &BenchArgs) -> Form {
        match () {
            () if args.json => Form::Json,
            () if args.csv => Form::Csv,
            () if args.sweep.is_some() => Form::Sweep,
            () => Form::Text,
        }
    }
}

const CSV_HEAD: &str = "kind,n_depth,n,runs,median_tps,min_tps,max_tps,work,share,read_gbps,int8_gmacs,kv_bytes_per_token,\
     expert_hit_rate,expert_bytes_per_token,stalled_share,ssd_share,guesses_per_token,guesses_right\n";

/// The heads of columns of rates, behind names that are so wide.
pub(crate) fn columns(width: usize) -> String {
    format!("{:width$}  {:>9}  {:>9}  {:>9}  {:>4}", "t/s", "median", "min", "max", "runs")
}

/// What comes before the first measurement.
pub(crate) fn head(form: Form, about: &About) -> String {
    match form {
        Form::Text => format!("{}\n{}  of the limit\n", introduction(about), columns(24)),
        Form::Sweep => format!(
            "{}\n{:>9}  {:>11}  {:12}  {:>10}  of the limit\n",
            introduction(about),
            "context",
            "prefill t/s",
            "of the limit",
            "decode t/s"
        ),
        Form::Csv => CSV_HEAD.into(),
        Form::Json => String::new(),
    }
}

/// Measurements that belong together.
pub(crate) fn rows(form: Form, about: &About, tests: &[Test]) -> String {
    match form {
        Form::Text => tests.iter().map(|t| text_row(about, t)).collect(),
        Form::Sweep => sweep_row(about, tests),
        Form::Csv => tests.iter().map(|t| csv_row(about, t)).collect(),
        Form::Json => String::new(),
    }
}

/// What comes when all is measured.
pub(crate) fn tail(form: Form, about: &About, tests: &[Test]) -> String {
    match form {
        Form::Json => format!("{:#}\n", as_json(about, tests)),
        Form::Text | Form::Sweep | Form::Csv => String::new(),
    }
}

pub(super) fn introduction(about: &About) -> String {
    let limits = match &about.limits {
        None => "unknown".into(),
        Some(l) => format!(
            "read {:.1} GB/s ({} of memory), int8 {:.0} GMAC/s ({}); measured now",
            l.read_gbps,
            units::bytes(l.read_bytes as u64),
            l.int8_gmacs,
            l.int8_by
        ),
    };
    let (layers, logits) = (about.cost.layers, about.cost.logits);
    format!(
        "machine  {}\ndevice   {}\nlimits   {limits}\nmodel    {}\n\
         token    {} of weights; {} multiply-adds, {} more for logits; {} of KV cache\n",
        about.machine,
        about.device,
        about.model,
        units::bytes((layers + logits).n_bytes),
        units::count(layers.n_mac),
        units::count(logits.n_mac),
        units::bytes(about.kv_bytes),
    )
}

fn text_row(about: &About, test: &Test) -> String {
    let rates = test.rates();
    let (min, max, n) = (rates[0], rates[rates.len() - 1], rates.len());
    let name = match test.n_depth {
        0 => format!("{} {}", test.kind.name(), test.n),
        depth => format!("{} {} behind {depth}", test.kind.name(), test.n),
    };
    let line = format!("{name:24}  {:>9.2}  {min:>9.2}  {max:>9.2}  {n:>4}  {}", test.median(), share(about, test));
    let experts = Streaming::of(about.ssd, test).map_or(String::new(), |s| {
        let (hits, stalled) = (100.0 * s.hit_rate, 100.0 * s.stalled_share);
        let bytes = units::bytes(s.bytes_per_token as u64);
        let ssd = s.ssd_share.map_or(String::new(), |share| format!(" ({:.0} % of the SSD)", 100.0 * share));
        let guesses = match s.n_guesses {
            0.0 => String::new(),
            n => format!(", {n:.1} guessed and {:.0} % of them right", 100.0 * s.right_share),
        };
        format!(
            "  experts: {hits:.0} % here, {bytes} read per token{ssd}, {stalled:.0} % of the time awaited{guesses}\n"
        )
    });
    format!("{}\n{experts}", line.trim_end())
}

/// What streaming experts took in a measurement.
struct Streaming {
    hit_rate: f64,
    bytes_per_token: f64,
    stalled_share: f64,
    /// Of what the SSD delivers, if that is known.
    ssd_share: Option<f64>,
    /// Per token.
    n_guesses: f64,
    right_share: f64,
}

impl Streaming {
    fn of(ssd: Option<f64>, test: &Test) -> Option<Streaming> {
        let stats = test.experts?;
        let seconds = test.seconds.iter().sum::<f64>().max(1e-9);
        let per_token = |n: u64| n as f64 / (test.n * test.seconds.len()) as f64;
        Some(Streaming {
            hit_rate: stats.hit_rate(),
            bytes_per_token: per_token(stats.read_bytes),
            n_guesses: per_token(stats.n_guesses),
            right_share: stats.n_right as f64 / stats.n_guesses.max(1) as f64,
            stalled_share: stats.stalled.as_secs_f64() / seconds,
            ssd_share: ssd.map(|rate| stats.read_bytes as f64 / seconds / rate),
        })
    }

    fn csv(&self) -> String {
        let ssd = self.ssd_share.map(|share| format!("{share:.4}")).unwrap_or_default();
        let Streaming { hit_rate, bytes_per_token, stalled_share, n_guesses, right_share, .. } = self;
        format!("{hit_rate:.4},{bytes_per_token:.0},{stalled_share:.4},{ssd},{n_guesses:.1},{right_share:.4}")
    }
}

fn sweep_row(about: &About, tests: &[Test]) -> String {
    let of = |kind| tests.iter().find(|t| t.kind == kind);
    let cells = |t: Option<&Test>| t.map(|t| (format!("{:.2}", t.median()), share(about, t))).unwrap_or_default();
    let n_ctx = of(Kind::Prefill).map_or(0, |t| t.n_depth + t.n);
    let ((prefill, peak), (decode, read)) = (cells(of(Kind::Prefill)), cells(of(Kind::Decode)));
    let line = format!("{n_ctx:>9}  {prefill:>11}  {peak:12}  {decode:>10}  {read}");
    format!("{}\n", line.trim_end())
}

/// `74 % of read`, or nothing.
pub(super) fn share(about: &About, test: &Test) -> String {
    let share = about.limits.as_ref().map(|l| format!("{:.0} % of {}", 100.0 * test.share(l), test.kind.bound()));
    share.unwrap_or_default()
}

fn csv_row(about: &About, test: &Test) -> String {
    let (rates, limits) = (test.rates(), about.limits.as_ref());
    let (min, max, n) = (rates[0], rates[rates.len() - 1], rates.len());
    let known = |figure: &dyn Fn(&Limits) -> String| limits.map(figure).unwrap_or_default();
    format!(
        "{},{},{},{n},{:.3},{min:.3},{max:.3},{:.0},{},{},{},{},{}\n",
        test.kind.name(),
        test.n_depth,
        test.n,
        test.median(),
        test.work,
        known(&|l| format!("{:.4}", test.share(l))),
        known(&|l| format!("{:.2}", l.read_gbps)),
        known(&|l| format!("{:.1}", l.int8_gmacs)),
        about.kv_bytes,
        Streaming::of(about.ssd, test).map_or(",,,,,".into(), |s| s.csv()),
    )
}

fn as_json(about: &About, tests: &[Test]) -> Value {
    let mut value = json_head(about);
    value["tests"] = tests.iter().map(|t| test_json(about, t)).collect();
    value
}

/// What the figures hold for.
pub(super) fn json_head(about: &About) -> Value {
    let limits = about.limits.as_ref();
    let cost = &about.cost;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "machine": about.machine, "model": about.model, "device": about.device,
        "limits": limits.map(|l| json!({
            "read_gbps": l.read_gbps, "read_bytes": l.read_bytes, "int8_gmacs": l.int8_gmacs, "int8_by": l.int8_by,
        })),
        "token": {
            "weight_bytes": (cost.layers + cost.logits).n_bytes, "macs": cost.layers.n_mac,
            "logits_macs": cost.logits.n_mac, "kv_bytes": about.kv_bytes,
        },
        "ssd_bytes_per_second": about.ssd,
    })
}

fn test_json(about: &About, test: &Test) -> Value {
    let rates = test.rates();
    json!({
        "kind": test.kind.name(), "n": test.n, "n_depth": test.n_depth, "seconds": test.seconds,
        "median_tps": test.median(), "min_tps": rates[0], "max_tps": rates[rates.len() - 1],
        "work": test.work, "share": about.limits.as_ref().map(|l| test.share(l)),
        "experts": Streaming::of(about.ssd, test).map(|s| json!({
            "hit_rate": s.hit_rate, "bytes_per_token": s.bytes_per_token, "stalled_share": s.stalled_share,
            "ssd_share": s.ssd_share, "guesses_per_token": s.n_guesses, "guesses_right": s.right_share,
        })),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use engine::{Stats, Work};
    use expect_test::{Expect, expect};

    use super::*;

    /// Figures as they might be, of lengths or of a sweep.
    pub(in super::super) fn example() -> (About, [Test; 4]) {
        let work = |n_bytes, n_mac| Work { n_bytes, n_mac };
        let about = About {
            machine: "Z80, 2 cores".into(),
            model: "tiny <1>, llama, 1.0 M parameters".into(),
            device: "CPU (Z, 1 threads), KV native, batch 512".into(),
            limits: Some(Limits { read_gbps: 0.02, read_bytes: 64 << 20, int8_gmacs: 1.0, int8_by: "mul" }),
            cost: Cost { layers: work(1_000_000, 900_000), logits: work(100_000, 90_000), attention: work(50, 9) },
            kv_bytes: 512,
            ssd: None,
        };
        let test = |kind, n, n_depth, seconds: &[f64], work| Test {
            kind,
            n,
            n_depth,
            seconds: seconds.into(),
            work,
            experts: None,
        };
        let tests = [
            test(Kind::Prefill, 512, 0, &[2.0, 1.0, 4.0], 900_000.0),
            test(Kind::Decode, 10, 512, &[1.0, 2.0], 1_125_000.0),
            test(Kind::Prefill, 512, 512, &[2.5], 900_000.0),
            test(Kind::Decode, 10, 1024, &[1.0], 1_150_000.0),
        ];
        (about, tests)
    }

    fn check(form: Form, expect: Expect) {
        let (about, tests) = example();
        let rows = tests.chunks(2).map(|step| rows(form, &about, step)).collect::<String>();
        expect.assert_eq(&format!("{}{rows}{}", head(form, &about), tail(form, &about, &tests[1..2])));
    }

    #[test]
    fn the_median_comes_with_its_range_and_its_share() {
        check(
            Form::Text,
            expect![[r#"
            machine  Z80, 2 cores
            device   CPU (Z, 1 threads), KV native, batch 512
            limits   read 0.0 GB/s (64.0 MiB of memory), int8 1 GMAC/s (mul); measured now
            model    tiny <1>, llama, 1.0 M parameters
            token    1.0 MiB of weights; 900.0 K multiply-adds, 90.0 K more for logits; 512 B of KV cache

            t/s                          median        min        max  runs  of the limit
            prefill 512                  256.00     128.00     512.00     3  23 % of int8
            decode 10 behind 512           7.50       5.00      10.00     2  42 % of read
            prefill 512 behind 512       204.80     204.80     204.80     1  18 % of int8
            decode 10 behind 1024         10.00      10.00      10.00     1  58 % of read
        "#]],
        );
    }

    #[test]
    fn a_sweep_has_a_line_per_length() {
        check(
            Form::Sweep,
            expect![[r#"
            machine  Z80, 2 cores
            device   CPU (Z, 1 threads), KV native, batch 512
            limits   read 0.0 GB/s (64.0 MiB of memory), int8 1 GMAC/s (mul); measured now
            model    tiny <1>, llama, 1.0 M parameters
            token    1.0 MiB of weights; 900.0 K multiply-adds, 90.0 K more for logits; 512 B of KV cache

              context  prefill t/s  of the limit  decode t/s  of the limit
                  512       256.00  23 % of int8        7.50  42 % of read
                 1024       204.80  18 % of int8       10.00  58 % of read
        "#]],
        );
    }

    #[test]
    fn a_measurement_is_a_row_of_csv() {
        check(
            Form::Csv,
            expect![[r#"
                kind,n_depth,n,runs,median_tps,min_tps,max_tps,work,share,read_gbps,int8_gmacs,kv_bytes_per_token,expert_hit_rate,expert_bytes_per_token,stalled_share,ssd_share,guesses_per_token,guesses_right
                prefill,0,512,3,256.000,128.000,512.000,900000,0.2304,0.02,1.0,512,,,,,,
                decode,512,10,2,7.500,5.000,10.000,1125000,0.4219,0.02,1.0,512,,,,,,
                prefill,512,512,1,204.800,204.800,204.800,900000,0.1843,0.02,1.0,512,,,,,,
                decode,1024,10,1,10.000,10.000,10.000,1150000,0.5750,0.02,1.0,512,,,,,,
            "#]],
        );
    }

    #[test]
    fn programs_get_every_figure() {
        check(
            Form::Json,
            expect![[r#"
                {
                  "version": "0.1.0",
                  "machine": "Z80, 2 cores",
                  "model": "tiny <1>, llama, 1.0 M parameters",
                  "device": "CPU (Z, 1 threads), KV native, batch 512",
                  "limits": {
                    "read_gbps": 0.02,
                    "read_bytes": 67108864,
                    "int8_gmacs": 1.0,
                    "int8_by": "mul"
                  },
                  "token": {
                    "weight_bytes": 1100000,
                    "macs": 900000,
                    "logits_macs": 90000,
                    "kv_bytes": 512
                  },
                  "ssd_bytes_per_second": null,
                  "tests": [
                    {
                      "kind": "decode",
                      "n": 10,
                      "n_depth": 512,
                      "seconds": [
                        1.0,
                        2.0
                      ],
                      "median_tps": 7.5,
                      "min_tps": 5.0,
                      "max_tps": 10.0,
                      "work": 1125000.0,
                      "share": 0.421875,
                      "experts": null
                    }
                  ]
                }
            "#]],
        );
    }

    #[test]
    fn streamed_experts_have_figures_of_their_own() {
        let (about, tests) = example();
        let stalled = std::time::Duration::from_millis(750);
        let stats = Stats { n_hits: 30, n_misses: 10, read_bytes: 40 << 20, n_guesses: 8, n_right: 6, stalled };
        let test = Test { experts: Some(stats), ..tests[1].clone() };
        let about = About { ssd: Some(100e6), ..about };
        let row = text_row(&about, &test);
        let second = row.lines().nth(1).unwrap_or_default();
        assert_eq!(
            second,
            "  experts: 75 % here, 2.0 MiB read per token (14 % of the SSD), 25 % of the time awaited, 0.4 guessed and 75 % of them right"
        );
        assert!(csv_row(&about, &test).ends_with(",512,0.7500,2097152,0.2500,0.1398,0.4,0.7500\n"));
        let json = &test_json(&about, &test)["experts"];
        let expected = json!({
            "hit_rate": 0.75, "bytes_per_token": 2097152.0, "stalled_share": 0.25,
            "ssd_share": (40 << 20) as f64 / 3.0 / 100e6, "guesses_per_token": 0.4, "guesses_right": 0.75,
        });
        assert_eq!(*json, expected);
    }

    #[test]
    fn without_limits_there_are_no_shares() {
        let (about, tests) = example();
        let about = About { limits: None, ..about };
        assert_eq!(text_row(&about, &tests[0]).split_whitespace().last(), Some("3"));
        assert!(csv_row(&about, &tests[0]).ends_with(",900000,,,,512,,,,,,\n"));
        assert!(introduction(&about).contains("limits   unknown\n"));
        assert_eq!(test_json(&about, &tests[0])["share"], Value::Null);
    }
}
