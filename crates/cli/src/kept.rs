//! What people do with a folder of what conversations computed: `ds4 kv`.

use std::{collections::HashSet, path::Path};

use kv::{About, BLOCK, Kind, Listed, Name, Refused};
use serde_json::{Value, json};

use crate::{
    args::{KvCommand, KvRm},
    error::Error,
    output, terminal, units,
};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Digits of a name that tell pieces apart for people.
const DIGITS: usize = 12;

/// Does it, and prints what came of it.
pub(crate) fn run(command: &KvCommand) -> Result<(), Error> {
    match command {
        KvCommand::Ls(folder) => print(folder.json, &List(pieces(&folder.dir)?)),
        KvCommand::Stats(folder) => print(folder.json, &Stats::of(&pieces(&folder.dir)?)),
        KvCommand::Verify(folder) => {
            let verified = Verified::of(&pieces(&folder.dir)?)?;
            print(folder.json, &verified)?;
            match verified.broken.len() {
                0 => Ok(()),
                n => Err(Error::BrokenPieces { n, n_all: verified.n }),
            }
        }
        KvCommand::Rm(args) => print(args.folder.json, &remove(args)?),
    }
}

/// What is shown, to people and to programs.
trait Report {
    fn to_text(&self) -> String;
    fn to_json(&self) -> Value;
}

fn print(json: bool, report: &dyn Report) -> Result<(), Error> {
    output::print(&if json { format!("{:#}\n", report.to_json()) } else { report.to_text() })
}

/// What is in a folder, if it is one of pieces.
fn pieces(dir: &Path) -> Result<Vec<Listed>, Error> {
    match kv::is_store(dir)? {
        true => Ok(kv::list(dir)?),
        false => Err(Error::NotAStore { path: dir.into() }),
    }
}

/// The pieces, one a line.
struct List(Vec<Listed>);

impl Report for List {
    fn to_text(&self) -> String {
        let row = |cells: [&str; 7]| {
            let [name, kind, tokens, size, age, heat, model] = cells;
            format!("{name:DIGITS$}  {kind:4}  {tokens:>8}  {size:>10}  {age:>8}  {heat:>6}  {model}\n")
        };
        let piece = |listed: &Listed| {
            let (name, size) = (short(&listed.name), units::bytes(listed.n_bytes));
            match &listed.about {
                Ok(about) => row([
                    &name,
                    kind(about),
                    &about.n_tokens.to_string(),
                    &size,
                    &units::age(about.age_ms / 1000),
                    &format!("{:.1}", about.heat),
                    &terminal::escape(&about.model),
                ]),
                Err(why) => row([&name, "?", "", &size, "", "", &format!("({why})")]),
            }
        };
        let head = row(["piece", "kind", "tokens", "size", "age", "heat", "model"]);
        head + &self.0.iter().map(piece).collect::<String>()
    }

    fn to_json(&self) -> Value {
        let piece = |listed: &Listed| {
            let file = json!({ "name": listed.name.to_string(), "bytes": listed.n_bytes });
            merged(
                file,
                match &listed.about {
                    Ok(about) => json!({
                        "kind": kind(about), "tokens": about.n_tokens, "model": about.model,
                        "parent": about.parent.to_string(), "root": about.root.to_string(),
                        "age_seconds": about.age_ms / 1000, "unused_seconds": about.unused_ms / 1000, "heat": about.heat,
                    }),
                    Err(why) => json!({ "refused": why.to_string() }),
                },
            )
        };
        self.0.iter().map(piece).collect()
    }
}

/// What pieces come to.
#[derive(Default)]
struct Stats {
    /// By the model's name.
    models: Vec<(String, Sum)>,
    all: Sum,
    n_refused: u64,
    refused_bytes: u64,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    n_rows: u64,
    n_tails: u64,
    bytes: u64,
    heat_max: f64,
    /// Of the newest one.
    age_ms: Option<u64>,
}

impl Stats {
    fn of(pieces: &[Listed]) -> Stats {
        let mut stats = Stats::default();
        for listed in pieces {
            let Ok(about) = &listed.about else {
                stats.n_refused += 1;
                stats.refused_bytes += listed.n_bytes;
                continue;
            };
            let i = stats.models.iter().position(|(model, _)| *model == about.model).unwrap_or_else(|| {
                stats.models.push((about.model.clone(), Sum::default()));
                stats.models.len() - 1
            });
            [&mut stats.models[i].1, &mut stats.all].into_iter().for_each(|sum| sum.add(about, listed.n_bytes));
        }
        stats.models.sort_by(|a, b| a.0.cmp(&b.0));
        stats
    }
}

impl Sum {
    fn add(&mut self, about: &About, n_bytes: u64) {
        match about.kind {
            Kind::Rows => self.n_rows += 1,
            Kind::Tail => self.n_tails += 1,
        }
        self.bytes += n_bytes;
        self.heat_max = self.heat_max.max(about.heat);
        self.age_ms = Some(self.age_ms.map_or(about.age_ms, |age_ms| age_ms.min(about.age_ms)));
    }

    fn n_tokens(&self) -> u64 {
        self.n_rows * BLOCK as u64
    }

    fn text(&self, name: &str, width: usize) -> String {
        format!(
            "{name:width$}  {:>9}  {:>9}  {:>6}  {:>10}  {:>7.1}  {:>8}\n",
            self.n_rows,
            self.n_tokens(),
            self.n_tails,
            units::bytes(self.bytes),
            self.heat_max,
            self.age_ms.map_or(String::new(), |age_ms| units::age(age_ms / 1000)),
        )
    }

    fn json(&self) -> Value {
        json!({
            "rows": self.n_rows, "tokens": self.n_tokens(), "tails": self.n_tails, "bytes": self.bytes,
            "heat_max": self.heat_max, "newest_seconds": self.age_ms.map(|age_ms| age_ms / 1000),
        })
    }
}

impl Report for Stats {
    fn to_text(&self) -> String {
        let names: Vec<_> = self.models.iter().map(|(model, _)| terminal::escape(model)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("model".len());
        let mut out = format!(
            "{:width$}  {:>9}  {:>9}  {:>6}  {:>10}  {:>7}  {:>8}\n",
            "model", "blocks", "tokens", "tails", "size", "hottest", "newest"
        );
        names.iter().zip(&self.models).for_each(|(name, (_, sum))| out += &sum.text(name, width));
        out += &self.all.text("all", width);
        if self.n_refused > 0 {
            let bytes = units::bytes(self.refused_bytes);
            out += &format!("and {} that cannot be used, {bytes}; ds4 kv verify names them\n", self.n_refused);
        }
        out
    }

    fn to_json(&self) -> Value {
        let model = |(name, sum): &(String, Sum)| merged(json!({ "model": name }), sum.json());
        json!({
            "models": self.models.iter().map(model).collect::<Vec<_>>(),
            "all": self.all.json(),
            "refused": { "pieces": self.n_refused, "bytes": self.refused_bytes },
        })
    }
}

/// What reading everything found.
struct Verified {
    n: usize,
    bytes: u64,
    /// Names, with what is wrong.
    broken: Vec<(String, String)>,
    /// Names of what another version has written, which is left alone.
    other: Vec<(String, String)>,
}

impl Verified {
    fn of(pieces: &[Listed]) -> Result<Verified, Error> {
        let mut verified = Verified { n: 0, bytes: 0, broken: Vec::new(), other: Vec::new() };
        for listed in pieces {
            let found = match kv::verify(listed) {
                // Whoever writes there has removed it meanwhile.
                Err(kv::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                found => found?,
            };
            verified.n += 1;
            verified.bytes += listed.n_bytes;
            match found {
                Ok(()) => {}
                Err(why @ Refused::Version { .. }) => verified.other.push((listed.name.to_string(), why.to_string())),
                Err(why) => verified.broken.push((listed.name.to_string(), why.to_string())),
            }
        }
        Ok(verified)
    }
}

impl Report for Verified {
    fn to_text(&self) -> String {
        let line = |(name, why): &(String, String)| format!("{name}.kv {why}\n");
        let lines: String = self.broken.iter().chain(&self.other).map(line).collect();
        let (n_whole, bytes) = (self.n - self.broken.len() - self.other.len(), units::bytes(self.bytes));
        format!("{lines}{n_whole} of {} pieces are whole, {bytes} read\n", self.n)
    }

    fn to_json(&self) -> Value {
        let list = |all: &[(String, String)]| -> Value {
            all.iter().map(|(name, why)| json!({ "name": name, "refused": why })).collect()
        };
        json!({
            "pieces": self.n, "bytes": self.bytes, "broken": list(&self.broken), "other_versions": list(&self.other),
        })
    }
}

/// What was removed.
struct Removed(Vec<Listed>);

fn remove(args: &KvRm) -> Result<Removed, Error> {
    let all = pieces(&args.folder.dir)?;
    if let Some(model) = &args.model
        && !all.iter().any(|listed| is_of(listed, model))
    {
        return Err(Error::Usage {
            what: format!("nothing there is of the model '{model}'"),
            help: "ds4 kv stats DIR names the models".into(),
        });
    }
    let chosen = chosen(&all, args);
    Ok(Removed(kv::remove(&args.folder.dir, |listed| chosen.contains(&listed.name))?))
}

fn is_of(listed: &Listed, model: &str) -> bool {
    listed.about.as_ref().is_ok_and(|about| about.model == model)
}

/// What is to be removed; never what something hangs from that is to stay.
fn chosen(all: &[Listed], args: &KvRm) -> HashSet<Name> {
    let is_asked_for = |listed: &Listed| match &listed.about {
        _ if args.all => true,
        Ok(about) => {
            let old = args.older_than.is_none_or(|days| about.unused_ms >= days.saturating_mul(DAY_MS));
            old && args.model.as_ref().is_none_or(|model| about.model == *model)
        }
        Err(_) => false,
    };
    let (mut chosen, mut needed) = (HashSet::new(), HashSet::new());
    // What hangs from a piece is listed behind it.
    for listed in all.iter().rev() {
        if is_asked_for(listed) && !needed.contains(&listed.name) {
            chosen.insert(listed.name);
        } else if let Ok(about) = &listed.about {
            needed.insert(about.parent);
        }
    }
    chosen
}

impl Report for Removed {
    fn to_text(&self) -> String {
        format!("removed {} pieces, {}\n", self.0.len(), units::bytes(self.n_bytes()))
    }

    fn to_json(&self) -> Value {
        json!({ "removed": self.0.iter().map(|l| l.name.to_string()).collect::<Vec<_>>(), "bytes": self.n_bytes() })
    }
}

impl Removed {
    fn n_bytes(&self) -> u64 {
        self.0.iter().map(|listed| listed.n_bytes).sum()
    }
}

fn kind(about: &About) -> &'static str {
    match about.kind {
        Kind::Rows => "rows",
        Kind::Tail => "tail",
    }
}

fn short(name: &Name) -> String {
    name.to_string()[..DIGITS].into()
}

/// The keys of both.
fn merged(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}
