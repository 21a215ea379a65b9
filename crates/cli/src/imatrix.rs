//! Collects importance from a corpus, merges files of it, and shows what they hold.
//!
//! A result has its name once it is complete. What was collected before that, as `--save-every` asks, or because something ends the
//! work early, is in FILE.partial, from which another run goes on.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

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
    let before = before(args)?;
    let Some(file) = &args.file else { return write(&before, NewFile::create(out)?, args.format(out)) };
    if before.down.is_some_and(|down| down != args.collect().down) {
        return Err(ImatrixError::Rows.into());
    }
    let (run, result) = Run::open(args, file, out, before)?;
    run.run(result)
}

/// What the files of `--in` hold together.
fn before(args: &ImatrixArgs) -> Result<Imatrix, Error> {
    let mut all = Imatrix::new(args.ctx as u32);
    for path in &args.inputs {
        all.merge(Imatrix::read(path)?).map_err(|source| Error::Together { path: path.clone(), source })?;
    }
    Ok(all)
}

/// A corpus that is being read.
struct Run<'a> {
    args: &'a ImatrixArgs,
    file: &'a Path,
    out: &'a Path,
    /// Where what there is waits for another run.
    part: PathBuf,
    before: Imatrix,
    collector: Arc<Collector>,
    engine: Engine,
    chunks: Vec<Vec<TokenId>>,
    /// Chunks that the model has read.
    n_done: usize,
    /// The same, and the one that failed, which is counted as far as it was seen.
    n_begun: usize,
    /// How many of those the part is of.
    n_saved: Option<usize>,
}

impl<'a> Run<'a> {
    /// Finds out whether the result can be made before anything takes its time, and begins it.
    fn open(
        args: &'a ImatrixArgs,
        file: &'a Path,
        out: &'a Path,
        before: Imatrix,
    ) -> Result<(Run<'a>, NewFile), Error> {
        let mut part = out.as_os_str().to_owned();
        part.push(".partial");
        let part = PathBuf::from(part);
        let results = [out, &*part];
        results.iter().try_for_each(|result| output::never_over(result, file))?;
        let inputs = args.inputs.iter().map(|input| Some(&**input));
        model::spare(&args.model, inputs.chain([Some(file), Some(out), Some(&*part)]))?;
        spare_part(&part, args)?;
        let result = NewFile::create(out)?;
        let words = prompt::read_file(file)?;
        let collector = Collector::new(args.collect());
        let open = |options: &Options| Engine::open_through(options, |dev| collector.watch(dev));
        let engine = model::open_with(&args.model, &args.model.options(), open)?;
        for path in results {
            engine.files().try_for_each(|model| output::never_over(path, model))?;
        }
        let chunks = chunks(&engine, args, file, &words)?;
        let run =
            Run { args, file, out, part, before, collector, engine, chunks, n_done: 0, n_begun: 0, n_saved: None };
        Ok((run, result))
    }

    fn run(mut self, result: NewFile) -> Result<(), Error> {
        let n_ctx = self.chunks.iter().map(Vec::len).max().unwrap_or(1);
        let help = "let the model see fewer tokens at a time, with --ctx";
        let mut session = open_session(&self.engine, n_ctx).map_err(|e| e.advise(help))?;
        let began = Instant::now();
        let read = self.read(&mut session, &result);
        let seconds = began.elapsed().as_secs_f64();
        let traced = self.engine.finish_trace();
        match read.and_then(|()| self.complete(result)) {
            Ok(()) => {
                let (n, n_tokens) = (self.chunks.len(), self.n_tokens(self.chunks.len()));
                let (rate, out) = (n_tokens as f64 / seconds, self.out.display());
                terminal::note(&format!("{n_tokens} tokens at {rate:.1} t/s, {n} chunks, in {out}"));
                Ok(traced?)
            }
            // Refused for good, and nothing but the first chunk is lost.
            Err(error @ (Error::Together { .. } | Error::NoSpace { .. })) => Err(error),
            Err(error) => {
                self.keep();
                Err(error)
            }
        }
    }

    /// Has the model read the chunks.
    fn read(&mut self, session: &mut Session, result: &NewFile) -> Result<(), Error> {
        let work = Work::begin();
        let mut progress = Progress::collecting();
        let n_all = self.n_tokens(self.chunks.len()) as u64;
        while let Some(chunk) = self.chunks.get(self.n_done) {
            self.n_begun += 1;
            self.collector.run(session, chunk)?;
            self.n_done += 1;
            progress.set(self.n_tokens(self.n_done) as u64, n_all);
            if self.n_done == self.chunks.len() {
                break;
            }
            if self.n_done == 1 {
                // What does not go together, or has no room, is better known now than in some hours.
                result.check_room(self.all()?.data_bytes())?;
            }
            if work.interrupted() {
                return Err(Error::Interrupted);
            }
            if self.args.save_every.is_some_and(|n| self.n_done.is_multiple_of(n))
                && let Err(e) = self.save()
            {
                terminal::note(&format!("{e}; what was collected is kept in memory"));
            }
        }
        Ok(())
    }

    /// Gives the result its name. The part, if there is one, holds nothing else.
    fn complete(&mut self, result: NewFile) -> Result<(), Error> {
        let all = self.all()?;
        write(&all, result, self.args.format(self.out))?;
        if self.n_saved.is_some() {
            // If it stays, the next run says so.
            let _ = fs::remove_file(&self.part);
        }
        tell_coverage(&all);
        Ok(())
    }

    /// Keeps what was collected by a run that ends early, and says how to go on.
    fn keep(&mut self) {
        if self.n_done > 0
            && let Err(e) = self.save()
        {
            terminal::note(&format!("{e}; what was collected is not kept"));
        }
        if let Some(n) = self.n_saved {
            let (part, n_all) = (self.part.display(), self.chunks.len());
            terminal::note(&format!("{part}: what {n} of {n_all} chunks showed; {}", self.way_on(n)));
        }
    }

    /// How to go on behind the first `n` chunks.
    fn way_on(&self, n: usize) -> String {
        let part = self.part.display();
        if n == self.chunks.len() {
            return format!("make the result of it with --in {part} --out {}", self.out.display());
        }
        let mut way = format!("go on with --in {part} --skip {}", self.args.skip + n);
        if self.args.max_prompts.is_some() {
            let _ = write!(way, " --max-prompts {}", self.chunks.len() - n);
        }
        if let Some(most) = self.args.max_tokens {
            let _ = write!(way, " --max-tokens {}", most - self.n_tokens(n));
        }
        way
    }

    /// Writes what there is beside the result, in the format that loses nothing of it.
    fn save(&mut self) -> Result<(), Error> {
        write(&self.all()?, NewFile::create(&self.part)?, Format::Gguf)?;
        self.n_saved = Some(self.n_begun);
        Ok(())
    }

    /// What was known before, and what the chunks have shown so far.
    fn all(&self) -> Result<Imatrix, Error> {
        let chunk_count = self.n_tokens(self.n_begun).div_ceil(self.args.ctx);
        let mut new = self.collector.imatrix(u32::try_from(chunk_count).unwrap_or(u32::MAX), self.args.ctx as u32);
        new.datasets.push(self.file.display().to_string());
        let mut all = self.before.clone();
        let path = self.args.inputs.first().cloned().unwrap_or_default();
        all.merge(new).map_err(|source| Error::Together { path, source })?;
        Ok(all)
    }

    fn n_tokens(&self, n_chunks: usize) -> usize {
        self.chunks[..n_chunks].iter().map(Vec::len).sum()
    }
}

/// Refuses to begin where the work of an earlier run waits to be gone on with.
fn spare_part(part: &Path, args: &ImatrixArgs) -> Result<(), Error> {
    let goes_on = args.inputs.iter().any(|input| output::never_over(part, input).is_err());
    match part.exists() && !goes_on {
        true => Err(Error::Usage {
            what: format!("{}: holds what a run before collected", part.display()),
            help: "go on from it with --in and the --skip that was told, or remove it".into(),
        }),
        false => Ok(()),
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

fn write(imatrix: &Imatrix, mut file: NewFile, format: Format) -> Result<(), Error> {
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
    let rows: u128 = entry.counts().iter().map(|&count| u128::from(count)).sum();
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
    let tensor =
        |(name, entry): (&String, &Entry)| json!({ "name": name, "n_cols": entry.n_cols(), "counts": entry.counts() });
    let coverage = |(name, coverage): (&str, Coverage)| json!({ "name": name, "never": coverage.never, "rarely": coverage.rarely, "mean": coverage.mean });
    let shown = json!({
        "datasets": imatrix.datasets, "chunk_count": imatrix.chunk_count, "chunk_size": imatrix.chunk_size,
        "down": imatrix.down.map(named), "tensors": imatrix.entries.iter().map(tensor).collect::<Vec<_>>(),
        "coverage": imatrix.coverage().map(coverage).collect::<Vec<_>>(),
    });
    format!("{shown:#}\n")
}
