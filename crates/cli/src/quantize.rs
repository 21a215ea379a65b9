//! Packs a model by a recipe, or shows what that would come to.

use std::{
    fmt::Write as _,
    fs,
    num::NonZero,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Mutex, Once, PoisonError},
    thread,
};

use serde_json::json;
use tools::{
    CompareError, Difference, GgufSource, Source, compare,
    hf::Folder,
    imatrix::Imatrix,
    quantize::{self, Guide, Options, Plan, Planned, Steps},
    recipe::{RECIPES, Recipe, Rule, names},
};

use crate::{
    args::QuantizeArgs,
    error::Error,
    interrupt::Work,
    output,
    progress::Progress,
    prompt,
    table::{by_type, table},
    terminal::{self, escape},
    units,
};

/// Does what `args` ask for.
pub(crate) fn run(args: &QuantizeArgs) -> Result<(), Error> {
    let Some(input) = &args.input else { return list() };
    if !input.is_dir() {
        return pack_or_show(&GgufSource::open(input)?, args);
    }
    let folder = Folder::open(input)?;
    if let Some(name) = folder.left_out().first() {
        terminal::note(&format!("{} tensors are left out, such as {}", folder.left_out().len(), escape(name)));
    }
    pack_or_show(&folder, args)
}

fn list() -> Result<(), Error> {
    let mut out = String::new();
    let about = |name| Recipe::named(name).map(|recipe| recipe.about).unwrap_or_default();
    table(&mut out, RECIPES.iter().map(|(name, _)| vec![(*name).to_string(), about(name)]));
    output::print(&out)
}

fn pack_or_show<S: Source>(source: &S, args: &QuantizeArgs) -> Result<(), Error> {
    if let Some(other) = &args.compare {
        return show_differences(source, other, args.json);
    }
    check_rules(source, args)?;
    let guide = args.imatrix.as_deref().map(|path| guide(path, source)).transpose()?;
    let plan = Plan::new(source, &recipe(args)?, guide.as_ref())?;
    tell_importance(&plan, args.imatrix.as_deref());
    match &args.out {
        Some(out) if !args.dry_run => pack(source, &plan, guide.as_ref(), out, args),
        _ => output::print(&if args.json { as_json(&plan) } else { as_text(&plan) }),
    }
}

/// Refuses rules that were given for nothing.
fn check_rules<S: Source>(source: &S, args: &QuantizeArgs) -> Result<(), Error> {
    let is_idle = |rule: &&Rule| !source.weights().iter().any(|weights| rule.is_about(&weights.name));
    match args.tensor.iter().find(is_idle) {
        Some(rule) => Err(Error::Usage {
            what: format!("--tensor {}: no tensor of this model has such a name", rule.pattern()),
            help: "--dry-run shows the names".into(),
        }),
        None => Ok(()),
    }
}

/// The recipe of that name or in that file, behind what was asked for tensor by tensor.
fn recipe(args: &QuantizeArgs) -> Result<Recipe, Error> {
    let name = args.recipe.as_deref().unwrap_or_default();
    let mut recipe = match Recipe::named(&name.to_lowercase()) {
        Some(recipe) => recipe,
        None if Path::new(name).exists() => read_recipe(Path::new(name))?,
        None => {
            return Err(Error::Usage {
                what: format!("no recipe {name}, and no file of that name"),
                help: format!("there are {}", names()),
            });
        }
    };
    args.tensor.iter().for_each(|rule| recipe.prefer(rule.clone()));
    Ok(recipe)
}

fn guide<S: Source>(path: &Path, source: &S) -> Result<Guide, Error> {
    let imatrix = Imatrix::read(path).map_err(quantize::Error::Importance)?;
    let guide = Guide::new(imatrix, &path.file_name().unwrap_or_default().to_string_lossy());
    let strangers: Vec<&str> = guide.strangers(source.weights()).collect();
    if let Some(first) = strangers.first() {
        let path = path.display();
        terminal::note(&format!("{path}: {} entries are of no tensor of this model, such as {first}", strangers.len()));
    }
    Ok(guide)
}

fn read_recipe(path: &Path) -> Result<Recipe, Error> {
    Recipe::parse(&prompt::read_file(path)?).map_err(|source| Error::Recipe { path: path.into(), source })
}

fn pack<S: Source>(
    source: &S,
    plan: &Plan,
    guide: Option<&Guide>,
    out: &Path,
    args: &QuantizeArgs,
) -> Result<(), Error> {
    output::check_name(out)?;
    let inputs = inputs(source, args);
    for name in quantize::names(out) {
        inputs.iter().try_for_each(|file| output::never_over(&name, file))?;
    }
    tell(plan);
    let n_threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get));
    let options = Options { path: out.into(), n_threads, overwrite: args.overwrite, steps: Steps::default() };
    let work = Work::begin();
    let progress = Mutex::new(Progress::packing());
    let begun = Once::new();
    let made = quantize::run(source, plan, guide, &options, &|done| {
        begun.call_once(|| tell_resumed(done.n_tensors_before, plan));
        progress.lock().unwrap_or_else(PoisonError::into_inner).set_from(done.n_before, done.n_weights, done.n_all);
        if Work::is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop((progress, work));
    made.inspect_err(|error| tell_kept(error, out))?;
    terminal::note(&format!("{} tensors, {} in {}", plan.targets.len(), units::bytes(plan.n_bytes()), out.display()));
    Ok(())
}

/// The files that a result is made of, whichever of them are read.
fn inputs<S: Source>(source: &S, args: &QuantizeArgs) -> Vec<PathBuf> {
    let weights = source.files().into_iter().map(|(path, _)| path);
    let beside = args.input.iter().filter(|input| input.is_dir()).flat_map(fs::read_dir).flatten().flatten();
    let words =
        beside.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json" || e == "jinja"));
    let recipe = args.recipe.iter().filter(|name| Recipe::named(&name.to_lowercase()).is_none()).map(PathBuf::from);
    weights.chain(words).chain(recipe).chain(args.imatrix.clone()).collect()
}

fn tell_resumed(n_before: usize, plan: &Plan) {
    if n_before > 0 {
        terminal::note(&format!("goes on after {n_before} of {} tensors", plan.targets.len()));
    }
}

/// What remains of a run that ended early.
fn tell_kept(error: &quantize::Error, out: &Path) {
    let [_, partial, _] = quantize::names(out);
    if error.can_go_on() && partial.exists() {
        let partial = partial.display();
        terminal::note(&format!("{partial}: what is done is kept here, and the same command goes on from it"));
    }
}

/// What is packed without importance, where that was given or is expected.
fn tell_importance(plan: &Plan, imatrix: Option<&Path>) {
    let packed: Vec<&Planned> = plan.targets.iter().filter(|t| t.is_packed()).collect();
    let lacking: Vec<&Planned> = packed.iter().copied().filter(|t| !t.guided).collect();
    if let (Some(path), Some(first)) = (imatrix, lacking.first()) {
        let (n, n_all, path) = (lacking.len(), packed.len(), path.display());
        terminal::note(&format!(
            "{path}: has no importance for {n} of {n_all} tensors that are packed, such as {}",
            first.name
        ));
    }
    if let (Some(path), true) = (imatrix, packed.is_empty()) {
        terminal::note(&format!("{}: has no effect, as no tensor is packed", path.display()));
    }
    let coarse: Vec<&Planned> = lacking.into_iter().filter(|t| t.wants_importance()).collect();
    if let Some(first) = coarse.first() {
        terminal::note(&format!(
            "{} tensors become types that want importance and have none, such as {}, which becomes {}: expect a loss that \
             `ds4 imatrix` and --imatrix would spare",
            coarse.len(),
            first.name,
            first.to.name(),
        ));
    }
}

/// What one should know before it takes hours.
fn tell(plan: &Plan) {
    let fallen: Vec<&Planned> = plan.targets.iter().filter(|t| t.instead_of.is_some()).collect();
    if let Some(first) = fallen.first() {
        terminal::note(&format!(
            "{} tensors have rows that their type does not divide and take a larger one: {} becomes {}",
            fallen.len(),
            first.name,
            first.to.name(),
        ));
    }
    let again = plan.targets.iter().filter(|t| t.from.has_blocks() && t.to != t.from).count();
    if again > 0 {
        terminal::note(&format!(
            "{again} tensors were packed before: what that lost is lost, and adds to what this loses"
        ));
    }
}

fn as_text(plan: &Plan) -> String {
    let mut out = String::new();
    table(&mut out, plan.targets.iter().map(row));
    out += "\n";
    table(&mut out, by_type(plan.targets.iter().map(of_target)));
    let _ = writeln!(out, "\n{} bytes in all, {}", plan.n_bytes(), units::bytes(plan.n_bytes()));
    out
}

fn of_target(t: &Planned) -> (&'static str, u64, u64) {
    (t.to.name(), t.shape.iter().product::<usize>() as u64, t.n_bytes)
}

fn row(t: &Planned) -> Vec<String> {
    let instead = t.instead_of.map(|asked| format!("for {}", asked.name())).unwrap_or_default();
    let (from, to) = (t.from.name().to_string(), t.to.name().to_string());
    vec![escape(&t.name), format!("{:?}", t.shape), from, "->".into(), to, units::bytes(t.n_bytes), instead]
}

fn as_json(plan: &Plan) -> String {
    let tensors = plan.targets.iter().map(|t| {
        json!({ "name": t.name, "shape": t.shape, "from": t.from.name(), "type": t.to.name(), "instead_of": t.instead_of.map(|asked| asked.name()), "n_bytes": t.n_bytes })
    });
    format!("{:#}\n", json!({ "n_bytes": plan.n_bytes(), "tensors": tensors.collect::<Vec<_>>() }))
}

fn show_differences<S: Source>(source: &S, other: &Path, json: bool) -> Result<(), Error> {
    let mut all: Vec<Difference> = Vec::new();
    let progress = Mutex::new(Progress::comparing());
    let n_all = source.weights().len() as u64;
    let missing = compare(source, &GgufSource::open(other)?, &mut |difference| {
        all.push(difference);
        progress.lock().unwrap_or_else(PoisonError::into_inner).set(all.len() as u64, n_all);
    });
    drop(progress);
    let missing = missing.map_err(|error| match error {
        CompareError::One(e) => Error::Quantize(quantize::Error::Source(Box::new(e))),
        CompareError::Other(e) => Error::Gguf(e),
        different => Error::Different { path: other.into(), what: different.to_string() },
    })?;
    if let Some(name) = missing.first() {
        terminal::note(&format!("{} tensors are in one of both only, such as {name}", missing.len()));
    }
    output::print(&if json { differences_as_json(&all) } else { differences_as_text(&all) })
}

fn differences_as_text(all: &[Difference]) -> String {
    let head = ["tensor", "from", "to", "error", "of the weights", "largest"].map(String::from).to_vec();
    let rows = all.iter().map(|d| {
        let numbers = [format!("{:.3e}", d.rmse), format!("{:.3} %", 100.0 * d.relative), format!("{:.3e}", d.largest)];
        [vec![escape(&d.name), d.from.name().into(), d.to.name().into()], numbers.to_vec()].concat()
    });
    let mut out = String::new();
    table(&mut out, std::iter::once(head).chain(rows));
    out
}

fn differences_as_json(all: &[Difference]) -> String {
    let rows = all.iter().map(|d| {
        json!({
            "name": d.name, "from": d.from.name(), "to": d.to.name(),
            "rmse": d.rmse, "relative": d.relative, "largest": d.largest,
        })
    });
    format!("{:#}\n", json!(rows.collect::<Vec<_>>()))
}
