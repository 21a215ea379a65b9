//! How likely models find a text, and how far they are from one of them: `ds4 perplexity`.

mod report;

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use engine::{Engine, Options, Session};
use gguf::{Gguf, Origin};
use tools::perplexity::{self, Files, Head, Passages, Position, Reader, Writer, score};

use self::report::{Outcome, Report};
use crate::{
    args::PerplexityArgs,
    error::Error,
    interrupt::Work,
    model,
    output::{self, NewFile},
    progress::Progress,
    prompt,
    speaker::{describe, open_session},
    terminal, units,
};

/// The chunk of whoever asks for none, as llama.cpp has it.
const N_CTX: usize = 512;

/// Scores the text by each model, and prints every row of the table as soon as it is known.
pub(crate) fn run(args: &PerplexityArgs) -> Result<(), Error> {
    let models = models(args)?;
    check_names(args, &models)?;
    check_models(&models)?;
    let names = report::names(&models);
    let base = open_base(args)?.map(|base| base.head().clone());
    let mut scoring = Scoring::new(args, base.as_ref())?;
    let mut report = Report::new(args, &names, base.as_ref());
    let measured = models.iter().zip(&names).try_for_each(|(model, name)| {
        let (outcome, saved) = scoring.measure(model, name)?;
        let complete = outcome.complete();
        report.add(outcome)?;
        saved?;
        if complete { Ok(()) } else { Err(Error::Interrupted) }
    });
    // What took its time is told, whatever became of the models behind it.
    let told = report.finish().and_then(|()| scoring.finish());
    measured.and(told)
}

fn models(args: &PerplexityArgs) -> Result<Vec<Origin>, Error> {
    let named = args.model.model.iter().chain(&args.more);
    let mut models = Vec::from_iter(named.map(Origin::from));
    if models.is_empty() {
        models.push(model::origin(None));
    }
    if args.model.route_trace.is_some() && models.len() > 1 {
        return Err(Error::Usage {
            what: "a trace of routes is of one model".into(),
            help: "leave out --route-trace, or take the models one by one".into(),
        });
    }
    Ok(models)
}

/// Refuses what is no model before another one is measured for hours.
fn check_models(models: &[Origin]) -> Result<(), Error> {
    match models {
        [_] => Ok(()), // it is opened next
        several => several.iter().try_for_each(|model| Gguf::open_from(model).map(drop)).map_err(Error::from),
    }
}

/// Refuses results that would take the place of what is read, or of each other.
fn check_names(args: &PerplexityArgs, models: &[Origin]) -> Result<(), Error> {
    let (save, detail) = (args.save_base.as_deref(), args.detail.as_deref());
    let (text, base) = (Some(&*args.file), args.base.as_deref());
    model::spare(&args.model, [text, base, save, detail])?;
    for out in [save, detail].into_iter().flatten() {
        output::check_name(out)?;
        let inputs = [text, base].into_iter().flatten().chain(models.iter().filter_map(Origin::file));
        inputs.into_iter().try_for_each(|input| output::never_over(out, input))?;
    }
    save.zip(detail).map_or(Ok(()), |(save, detail)| output::never_over(save, detail))
}

/// A text that models are to score.
struct Scoring<'a> {
    args: &'a PerplexityArgs,
    text: String,
    /// What they are compared with.
    base: Option<&'a Head>,
    /// Where every position is written.
    detail: Option<NewFile>,
    /// Whether there are positions of a model.
    has_detail: bool,
}

impl<'a> Scoring<'a> {
    fn new(args: &'a PerplexityArgs, base: Option<&'a Head>) -> Result<Scoring<'a>, Error> {
        let text = prompt::read_file(&args.file)?;
        let mut detail = args.detail.as_deref().map(NewFile::create).transpose()?;
        detail.as_mut().map_or(Ok(()), |out| out.text(&report::detail_head(base.is_some())))?;
        Ok(Scoring { args, text, base, detail, has_detail: false })
    }

    /// Scores the text by one model, until Ctrl+C; and whether what is asked for beside the figures could be written.
    fn measure(&mut self, model: &Origin, name: &str) -> Result<(Outcome, Result<(), Error>), Error> {
        let engine = self.open(model)?;
        let passages = self.passages(&engine)?;
        let mut session = open_session(&engine, passages.n_ctx())?;
        let mut base = open_base(self.args)?;
        let mut save = self.save(&engine, &passages)?;
        let start = Instant::now();
        let files = Files { base: base.as_mut(), save: save.as_mut() };
        let positions = until_interrupted(&mut session, &passages, files).map_err(|e| told(self.args, e))?;
        let traced = engine.finish_trace();
        let outcome = Outcome::new(&engine, name, passages, &positions, start.elapsed());
        let saved = match outcome.complete() {
            true => self.write_detail(&engine, name, &positions).and_then(|()| finish(save)),
            false => {
                self.tell_unsaved();
                Ok(())
            }
        };
        Ok((outcome, saved.and(traced.map_err(Error::from))))
    }

    /// Says what Ctrl+C has left undone.
    fn tell_unsaved(&self) {
        if let Some(path) = &self.args.save_base {
            terminal::note(&format!("{}: not written, as not all positions were scored", path.display()));
        }
    }

    /// Writes every position of a model, or gives the file up.
    fn write_detail(&mut self, engine: &Engine, name: &str, positions: &[Position]) -> Result<(), Error> {
        let Some(mut out) = self.detail.take() else { return Ok(()) };
        report::detail_rows(name, engine, positions).try_for_each(|row| out.text(&row))?;
        (self.detail, self.has_detail) = (Some(out), true);
        Ok(())
    }

    /// Completes the file of positions.
    fn finish(self) -> Result<(), Error> {
        self.detail.filter(|_| self.has_detail).map_or(Ok(()), NewFile::finish)
    }

    fn open(&self, model: &Origin) -> Result<Engine, Error> {
        let options = Options { model: model.clone(), ..self.args.model.options() };
        let engine = model::open(&self.args.model, &options)?;
        for out in [&self.args.save_base, &self.args.detail].into_iter().flatten() {
            engine.files().try_for_each(|part| output::never_over(out, part))?;
        }
        Ok(engine)
    }

    /// The text as this model reads it.
    fn passages(&self, engine: &Engine) -> Result<Passages, Error> {
        let (args, base) = (self.args, self.base);
        let tokenizer = engine.tokenizer().ok_or_else(|| Error::NoVocabulary { path: engine.path().into() })?;
        let n_ctx = args.ctx.or(base.map(|base| base.n_ctx)).unwrap_or(N_CTX);
        let n_chunks = args.chunks.or(base.map(Head::n_chunks));
        let passages = Passages::new(tokenizer, &self.text, n_ctx, n_chunks).map_err(|e| told(args, e))?;
        let same = base.map_or(Ok(()), |base| passages.check(base, engine.info().n_vocab));
        same.map(|()| passages).map_err(|e| told(args, e.into()))
    }

    /// Begins the file that others are to be compared with, if it is asked for and there is room for it.
    fn save(&self, engine: &Engine, passages: &Passages) -> Result<Option<Writer<NewFile>>, Error> {
        let Some(path) = &self.args.save_base else { return Ok(None) };
        let head = passages.head(&describe(engine), engine.info().n_vocab);
        let out = NewFile::create(path)?;
        let free = out.check_room(head.file_bytes())?.map(|free| format!(" of {} that are free", units::bytes(free)));
        let (bytes, free) = (units::bytes(head.file_bytes()), free.unwrap_or_default());
        terminal::note(&format!("{}: will take {bytes}{free}", path.display()));
        let writer = Writer::create(out, &head);
        writer.map(Some).map_err(|source| Error::Write { path: path.clone(), source })
    }
}

/// Gives a base that is complete its name.
fn finish(save: Option<Writer<NewFile>>) -> Result<(), Error> {
    save.map_or(Ok(()), |save| save.into_inner().finish())
}

fn open_base(args: &PerplexityArgs) -> Result<Option<Reader>, Error> {
    args.base.as_deref().map(Reader::open).transpose().map_err(|e| told(args, e.into()))
}

/// Scores as many positions as there are before Ctrl+C.
fn until_interrupted(
    session: &mut Session,
    passages: &Passages,
    files: Files<NewFile>,
) -> Result<Vec<Position>, perplexity::Error> {
    let work = Work::begin();
    let mut progress = Progress::scoring();
    let mut positions = Vec::with_capacity(passages.n_scored());
    score(session, passages, files, &mut |position| {
        positions.push(position);
        progress.set(positions.len() as u64, passages.n_scored() as u64);
        if work.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(positions)
}

/// An error under the name of the file that it is about.
fn told(args: &PerplexityArgs, error: perplexity::Error) -> Error {
    use perplexity::Error::{Base, Engine, Other, TooShort, Write};
    let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
    match error {
        Engine(e) => Error::Engine(e),
        Write(source) => Error::Write { path: path(&args.save_base), source },
        source @ TooShort { .. } => Error::Perplexity { path: args.file.clone(), source },
        source @ (Base(_) | Other(_)) => Error::Perplexity { path: path(&args.base), source },
    }
}
