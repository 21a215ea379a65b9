//! Collects importance from a corpus, merges files of it, and shows what they hold.

use std::{ffi::OsStr, fmt::Write as _, path::Path, sync::Arc, time::Instant};

use engine::{Engine, Options, Session};
use serde_json::json;
use tokenizer::{Special, TokenId};
use tools::imatrix::{Collector, Coverage, Entry, Error as ImatrixError, Imatrix, Rows, corpus};

use crate::{
    args::{Format, ImatrixArgs},
    error::Error,
    interrupt::Work,
    model,
    output::{self, NewFile},
    progress::Progress,
    prompt,
    speaker::open_session,
    table::table,
    terminal::{self, escape},
};

/// Experts that are named, where there are more of them.
const SHOWN: usize = 8;

/// Does what `args` ask for.
pub(crate) fn run(args: &ImatrixArgs) -> Result<(), Error> {
    if let Some(path) = &args.show {
        let imatrix = Imatrix::read(path)?;
        return output::print(&if args.json { as_json(&imatrix) } else { as_text(path, &imatrix) });
    }
    let out = args.out.as_deref().expect("the flags ask for it");
    output::check_name(out)?;
    let mut before = Imatrix::new(args.ctx as u32);
    for path in &args.inputs {
        before.merge(Imatrix::read(path)?)?;
    }
    let Some(file) = &args.file else { return write(&before, out, args) };
    if before.down.is_some_and(|down| down != args.collect().down) {
        return Err(ImatrixError::Rows.into());
    }
    Run::open(args, file, out, before)?.run()
}

/// A corpus that is being read.
struct Run<'a> {
    args: &'a ImatrixArgs,
    file: &'a Path,
    out: &'a Path,
    before: Imatrix,
    collector: Arc<Collector>,
    engine: Engine,
    chunks: Vec<Vec<TokenId>>,
}

impl<'a> Run<'a> {
    fn open(args: &'a ImatrixArgs, file: &'a Path, out: &'a Path, before: Imatrix) -> Result<Run<'a>, Error> {
        output::never_over(out, file)?;
        model::spare(&args.model, [Some(file), Some(out)])?;
        let words = prompt::read_file(file)?;
        let collector = Collector::new(args.collect());
        let open = |options: &Options| Engine::open_through(options, |dev| collector.watch(dev));
        let engine = model::open_with(&args.model, &args.model.options()?, open)?;
        engine.files().try_for_each(|part| output::never_over(out, part))?;
        let chunks = chunks(&engine, args, file, &words)?;
        Ok(Run { args, file, out, before, collector, engine, chunks })
    }

    fn run(self) -> Result<(), Error> {
        let n_ctx = self.chunks.iter().map(Vec::len).max().unwrap_or(1);
        let help = "let the model see fewer tokens at a time, with --ctx";
        let mut session = open_session(&self.engine, n_ctx).map_err(|e| e.advise(help))?;
        let began = Instant::now();
        let n_done = self.read(&mut session)?;
        let n_tokens = self.n_tokens(n_done);
        let all = self.all(n_done)?;
        write(&all, self.out, self.args)?;
        self.engine.finish_trace()?;
        tell_coverage(&all);
        let rate = n_tokens as f64 / began.elapsed().as_secs_f64();
        let (out, n) = (self.out.display(), self.chunks.len());
        terminal::note(&format!("{n_tokens} tokens at {rate:.1} t/s, {n_done} of {n} chunks, in {out}"));
        if n_done < n { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Has the model read the chunks, until it is interrupted. How many it has read.
    fn read(&self, session: &mut Session) -> Result<usize, Error> {
        let work = Work::begin();
        let mut progress = Progress::collecting();
        let n_all = self.n_tokens(self.chunks.len()) as u64;
        for (i, chunk) in self.chunks.iter().enumerate() {
            self.collector.run(session, chunk)?;
            let n_done = i + 1;
            progress.set(self.n_tokens(n_done) as u64, n_all);
            let saves = self.args.save_every.is_some_and(|n| n_done.is_multiple_of(n));
            if work.interrupted() || n_done == self.chunks.len() {
                return Ok(n_done);
            }
            if saves {
                write(&self.all(n_done)?, self.out, self.args)?;
            } else if i == 0 {
                // What does not go together is better known now than in some hours.
                self.all(n_done)?;
            }
        }
        Ok(0)
    }

    /// What was known before, and what the first chunks have shown.
    fn all(&self, n_chunks: usize) -> Result<Imatrix, Error> {
        let chunk_count = self.n_tokens(n_chunks).div_ceil(self.args.ctx);
        let mut new = self.collector.imatrix(u32::try_from(chunk_count).unwrap_or(u32::MAX), self.args.ctx as u32);
        new.datasets.push(self.file.display().to_string());
        let mut all = self.before.clone();
        all.merge(new)?;
        Ok(all)
    }

    fn n_tokens(&self, n_chunks: usize) -> usize {
        self.chunks[..n_chunks].iter().map(Vec::len).sum()
    }
}

/// The chunks that were asked for.
fn chunks(engine: &Engine, args: &ImatrixArgs, file: &Path, words: &str) -> Result<Vec<Vec<TokenId>>, Error> {
    let special = if args.parse_special { Special::Parse } else { Special::Plain };
    let chunks = match file.extension().and_then(OsStr::to_str) {
        Some("jsonl") => corpus::prompts(engine, words, args.ctx),
        _ => corpus::text(engine, words, special, args.ctx),
    };
    let chunks = chunks.map_err(|source| Error::Corpus { path: file.into(), source })?;
    let n_all = chunks.len();
    let mut n_left = args.max_tokens.unwrap_or(usize::MAX);
    let fits = |chunk: &Vec<TokenId>| n_left.checked_sub(chunk.len()).map(|n| n_left = n).is_some();
    let most = args.max_prompts.unwrap_or(usize::MAX);
    let chunks: Vec<_> = chunks.into_iter().skip(args.skip).take(most).take_while(fits).collect();
    match chunks.is_empty() {
        true => Err(Error::Usage {
            what: format!("none of {n_all} chunks is left to read"),
            help: "give a smaller --skip, or a larger --max-tokens".into(),
        }),
        false => Ok(chunks),
    }
}

fn write(imatrix: &Imatrix, out: &Path, args: &ImatrixArgs) -> Result<(), Error> {
    let (format, mut file) = (args.format(out), NewFile::create(out)?);
    file.fill(|out| match format {
        Format::Gguf => imatrix.write_gguf(out),
        Format::Dat => imatrix.write_legacy(out),
    })?;
    file.finish()
}

/// Says which experts a quantiser will have to guess about.
fn tell_coverage(imatrix: &Imatrix) {
    let layers = layers(imatrix);
    let n = |of: fn(&Coverage) -> &Vec<usize>| layers.iter().map(|(_, coverage)| of(coverage).len()).sum::<usize>();
    let (never, rarely) = (n(|c| &c.never), n(|c| &c.rarely));
    if never + rarely > 0 {
        terminal::note(&format!(
            "experts that were never met: {never}; met by less than a hundredth of the mean: {rarely}; --show lists them"
        ));
    }
}

/// Coverage by layer, where the experts' matrices of a layer agree, else by tensor.
fn layers(imatrix: &Imatrix) -> Vec<(&str, Coverage)> {
    let mut layers: Vec<(&str, Coverage)> = Vec::new();
    for (name, coverage) in by_number(imatrix.coverage(), |(name, _)| name) {
        let layer = name.match_indices('.').nth(1).map_or(name, |(end, _)| &name[..end]);
        match layers.iter().find(|(known, _)| *known == layer) {
            None => layers.push((layer, coverage)),
            Some((_, known)) if *known == coverage => {}
            Some(_) => layers.push((name, coverage)),
        }
    }
    layers
}

/// In the order of the layers' numbers, and then as they come.
fn by_number<T>(items: impl Iterator<Item = T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let mut items = Vec::from_iter(items);
    items.sort_by_key(|item| name(item).split('.').nth(1).and_then(|n| n.parse::<usize>().ok()));
    items
}

fn as_text(path: &Path, imatrix: &Imatrix) -> String {
    let mut out = String::new();
    let (n, size, corpus) = (imatrix.chunk_count, imatrix.chunk_size, imatrix.datasets.join(", "));
    let _ = writeln!(out, "file    {}", escape(&path.display().to_string()));
    let _ = writeln!(out, "corpus  {}, {n} chunks of {size} tokens", escape(&corpus));
    let layers = layers(imatrix);
    if imatrix.down.is_some() || !layers.is_empty() {
        let _ = writeln!(out, "down    {}", imatrix.down.map_or("the file does not say how rows count", named));
    }
    out += "\n";
    let head = [["tensor", "columns", "experts", "rows"].map(String::from).to_vec()];
    table(&mut out, head.into_iter().chain(by_number(imatrix.entries.iter(), |e| e.0).into_iter().map(row)));
    if !layers.is_empty() {
        out += "\n";
        let head = [["layer", "never met", "rarely", "rows of an expert", "worst"].map(String::from).to_vec()];
        table(&mut out, head.into_iter().chain(layers.iter().map(|(layer, coverage)| covered(layer, coverage))));
    }
    out
}

fn named(down: Rows) -> &'static str {
    match down {
        Rows::Weighted => "weighted",
        Rows::Alike => "alike",
    }
}

fn row((name, entry): (&String, &Entry)) -> Vec<String> {
    let n = entry.counts().len();
    let rows: u64 = entry.counts().iter().sum();
    vec![escape(name), entry.n_cols().to_string(), n.to_string(), rows.to_string()]
}

/// A layer's experts, and the worst of them by number.
fn covered(layer: &str, coverage: &Coverage) -> Vec<String> {
    let [least, most] = coverage.range;
    let worst = Vec::from_iter(coverage.never.iter().chain(&coverage.rarely).map(usize::to_string));
    let more = if worst.len() > SHOWN { " ..." } else { "" };
    vec![
        escape(layer),
        coverage.never.len().to_string(),
        coverage.rarely.len().to_string(),
        format!("{least} to {most}, {:.1} in the mean", coverage.mean),
        worst[..worst.len().min(SHOWN)].join(" ") + more,
    ]
}

fn as_json(imatrix: &Imatrix) -> String {
    let tensor = |(name, entry): (&String, &Entry)| {
        json!({ "name": name, "n_cols": entry.n_cols(), "counts": entry.counts() })
    };
    let coverage = |(name, coverage): (&str, Coverage)| json!({ "name": name, "never": coverage.never, "rarely": coverage.rarely, "mean": coverage.mean });
    let shown = json!({
        "datasets": imatrix.datasets, "chunk_count": imatrix.chunk_count, "chunk_size": imatrix.chunk_size,
        "down": imatrix.down.map(named), "tensors": imatrix.entries.iter().map(tensor).collect::<Vec<_>>(),
        "coverage": imatrix.coverage().map(coverage).collect::<Vec<_>>(),
    });
    format!("{shown:#}\n")
}
