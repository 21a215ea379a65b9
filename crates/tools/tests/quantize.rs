//! Files are packed whole or not at all, the same by any number of threads, and from where the last run ended.

use std::{
    fs::{self, File},
    io,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use gguf::{Element, Gguf, Stamp, Value, Writer};
use quant::{FORMATS, Format};
use tempfile::TempDir;
use tools::{
    GgufSource, Source, Weights,
    imatrix::{Entry, Imatrix},
    quantize::{Done, Error, Guide, Options, Plan, Steps, run},
    recipe::{Recipe, Rule},
};

const F32: Element = Element::Packed(Format::F32);

/// A model with all kinds of tensors, in pseudo-random numbers; `change` may spoil a tensor's.
fn model(folder: &Path, change: impl Fn(&str, &mut [f32])) -> PathBuf {
    model_with(folder, &[("llama.block_count", 4u32.into())], change)
}

fn model_with(folder: &Path, keys: &[(&str, Value)], change: impl Fn(&str, &mut [f32])) -> PathBuf {
    let path = folder.join("model.gguf");
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama".to_string());
    keys.iter().for_each(|(key, value)| _ = writer.set(key, value.clone()));
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let shapes: [(&str, &[usize]); 6] = [
        ("token_embd.weight", &[300, 512]),
        ("blk.0.attn_norm.weight", &[512]),
        ("blk.0.attn_v.weight", &[128, 512]),
        ("blk.0.ffn_down.weight", &[512, 96]),
        ("blk.3.ffn_up_exps.weight", &[3, 64, 512]),
        ("output.weight", &[300, 512]),
    ];
    for (name, shape) in shapes {
        let mut values: Vec<f32> = (0..shape.iter().product()).map(|_| random()).collect();
        change(name, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor(name, shape, F32, bytes);
    }
    writer.tensor("table.weight", &[2, 3], Element::I32, [7u8; 24]);
    writer.write(&path).unwrap_or_else(|e| panic!("{e}"));
    path
}

fn source(folder: &TempDir) -> GgufSource {
    open(&model(folder.path(), |_, _| ()))
}

fn open(path: &Path) -> GgufSource {
    GgufSource::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

fn plan(source: &GgufSource, recipe: &str) -> Plan {
    let recipe = Recipe::parse(recipe).unwrap_or_else(|e| panic!("{e}"));
    Plan::new(source, &recipe, None).unwrap_or_else(|e| panic!("{e}"))
}

fn options(folder: &TempDir, n_threads: usize) -> Options {
    Options { path: folder.path().join("out.gguf"), n_threads, overwrite: true, steps: Steps::default() }
}

/// Work in small pieces, each complete tensor of which lasts.
const SMALL: Steps = Steps { n_weights: 5000, lasting_bytes: 0 };

/// Ends a run the `n`-th time that it tells how far it is, the first one being its beginning.
fn stop_at(n: usize) -> impl Fn(Done) -> ControlFlow<()> + Sync {
    let told = AtomicUsize::new(0);
    move |_| match told.fetch_add(1, Ordering::Relaxed) + 1 < n {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

/// Runs, and returns what the file holds.
fn made(source: &impl Source, plan: &Plan, guide: Option<&Guide>, options: &Options) -> Vec<u8> {
    run(source, plan, guide, options, &go_on).unwrap_or_else(|e| panic!("{e}"));
    fs::read(&options.path).unwrap_or_else(|e| panic!("{e}"))
}

/// The tensors that an earlier process completed, if the rest can be made now.
fn n_before(source: &impl Source, plan: &Plan, options: &Options) -> usize {
    let before = AtomicUsize::new(usize::MAX);
    let note = |done: Done| {
        before.store(done.n_tensors_before, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    run(source, plan, None, options, &note).unwrap_or_else(|e| panic!("{e}"));
    before.into_inner()
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn go_on(_: Done) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_tensor_becomes_what_its_rule_says() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "output.weight F16\nblk.*_exps.weight Q4_0\nblk.*.attn_v.weight copy\n* Q8_0");
    run(&source, &plan, None, &options(&folder, 2), &go_on).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(names(&folder), ["model.gguf", "out.gguf"]);

    let (made, from) = [folder.path().join("out.gguf"), folder.path().join("model.gguf")]
        .map(|path| Gguf::open(&path).unwrap_or_else(|e| panic!("{e}")))
        .into();
    assert_eq!(made.file_bytes(), plan.n_bytes());
    let types: Vec<&str> = made.tensors().iter().map(|t| t.element.name()).collect();
    assert_eq!(types, ["Q8_0", "F32", "F32", "Q8_0", "Q4_0", "F16", "I32"]);
    for tensor in made.tensors() {
        let old = from.tensor(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
        let (old, new) = (from.bytes(old), made.bytes(tensor));
        let expected = match tensor.element {
            Element::Packed(format) if format != Format::F32 => packed(old.as_ref(), format),
            _ => old.as_ref().to_vec(),
        };
        assert!(new.as_ref() == expected, "{}", tensor.name);
    }
}

fn packed(bytes: &[u8], format: Format) -> Vec<u8> {
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut out = vec![0; format.row_bytes(values.len()).unwrap_or(0)];
    format.encoder().unwrap_or_else(|| panic!("{format:?}"))(&values, None, &mut out);
    out
}

#[test]
fn rows_that_are_no_whole_blocks_take_another_type() {
    let folder = folder();
    let source = source(&folder);
    let down = |recipe| plan(&source, recipe).targets[3].clone();
    let target = down("* Q6_K");
    assert_eq!((target.to.name(), target.instead_of), ("Q8_0", Some(Format::Q6_K)));
    assert_eq!(down("* Q8_0").instead_of, None);
}

#[test]
fn neither_threads_nor_pieces_change_a_byte() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "blk.*_exps.weight IQ2_XXS\nblk.0.attn_v.weight copy\n* Q8_0");
    let expected = made(&source, &plan, None, &options(&folder, 1));
    for (n_threads, n_weights) in [(2, 1 << 20), (7, 1 << 20), (1, 1), (2, 5000), (3, 40_000)] {
        let options = Options { steps: Steps { n_weights, lasting_bytes: 50_000 }, ..options(&folder, n_threads) };
        assert!(made(&source, &plan, None, &options) == expected, "{n_threads} threads, pieces of {n_weights}");
    }
}

#[test]
fn an_interrupted_run_is_gone_on_with() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "blk.*_exps.weight IQ2_XXS\n* Q8_0");
    let expected = made(&source, &plan, None, &options(&folder, 1));
    fs::remove_file(folder.path().join("out.gguf")).unwrap_or_else(|e| panic!("{e}"));

    let cut = Options { steps: SMALL, ..options(&folder, 1) };
    for n in [1, 35, 40, 41, 42] {
        let ended = run(&source, &plan, None, &cut, &stop_at(n));
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert_eq!(names(&folder), ["model.gguf", "out.gguf.partial", "out.gguf.partial.state"]);
    }
    let n_before = n_before(&source, &plan, &options(&folder, 2));
    assert!((2..7).contains(&n_before), "{n_before}");
    assert_eq!(names(&folder), ["model.gguf", "out.gguf"]);
    assert!(fs::read(&cut.path).unwrap_or_default() == expected);
}

#[test]
fn what_was_left_of_another_file_is_not_gone_on_with() {
    let folder = folder();
    let source = source(&folder);
    let [one, other] = ["* Q8_0", "* Q4_0"].map(|recipe| plan(&source, recipe));
    assert!(run(&source, &one, None, &options(&folder, 1), &stop_at(4)).is_err());
    assert_eq!(n_before(&source, &other, &options(&folder, 1)), 0);
    let made = Gguf::open(&folder.path().join("out.gguf")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(made.tensors()[0].element.name(), "Q4_0");
}

#[test]
fn a_state_that_was_cut_short_counts_only_whole_lines() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let expected = made(&source, &plan, None, &options(&folder, 1));
    assert!(run(&source, &plan, None, &options(&folder, 1), &stop_at(5)).is_err());
    let state = folder.path().join("out.gguf.partial.state");
    let text = fs::read_to_string(&state).unwrap_or_default();
    fs::write(&state, format!("{text}7")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(n_before(&source, &plan, &options(&folder, 1)), 3);
    assert!(fs::read(folder.path().join("out.gguf")).unwrap_or_default() == expected);
}

#[test]
fn what_is_left_beside_a_finished_file_does_not_replace_it_by_zeros() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let [out, partial, state] = tools::quantize::names(&folder.path().join("out.gguf"));
    let cut = Options { steps: SMALL, ..options(&folder, 1) };
    let kept = std::sync::Mutex::new(String::new());
    let keep = |_| {
        let text = fs::read_to_string(&state).unwrap_or_default();
        *kept.lock().unwrap_or_else(|e| panic!("{e}")) = text;
        ControlFlow::Continue(())
    };
    run(&source, &plan, None, &cut, &keep).unwrap_or_else(|e| panic!("{e}"));
    let expected = fs::read(&out).unwrap_or_default();
    let kept = kept.into_inner().unwrap_or_default();
    assert!(kept.lines().count() > 3, "{kept}");
    fs::write(&state, kept).unwrap_or_else(|e| panic!("{e}"));
    assert!(!partial.exists() && made(&source, &plan, None, &options(&folder, 1)) == expected);
}

/// A source that the system cannot read from some row on, of any tensor.
struct Failing {
    inner: GgufSource,
    n_reads: AtomicUsize,
    error: fn() -> io::Error,
}

impl Failing {
    fn read_one(&self) -> io::Result<()> {
        match self.n_reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
            Ok(_) => Ok(()),
            Err(_) => Err((self.error)()),
        }
    }
}

impl Source for Failing {
    type Error = io::Error;

    fn files(&self) -> Vec<(PathBuf, Stamp)> {
        self.inner.files()
    }

    fn keys(&self) -> &[(String, Value)] {
        self.inner.keys()
    }

    fn weights(&self) -> &[Weights] {
        self.inner.weights()
    }

    fn read(&self, i: usize, rows: Range<usize>, out: &mut [f32]) -> io::Result<()> {
        self.read_one()?;
        self.inner.read(i, rows, out).map_err(io::Error::other)
    }

    fn read_bytes(&self, i: usize, rows: Range<usize>, out: &mut [u8]) -> io::Result<()> {
        self.read_one()?;
        self.inner.read_bytes(i, rows, out).map_err(io::Error::other)
    }
}

#[test]
fn a_disk_that_cannot_be_read_costs_nothing_that_was_done() {
    let folder = folder();
    let error = || io::Error::from_raw_os_error(5);
    let source = Failing { inner: source(&folder), n_reads: AtomicUsize::new(50), error };
    let plan = Plan::new(&source, &Recipe::parse("* Q8_0").unwrap_or_else(|e| panic!("{e}")), None);
    let plan = plan.unwrap_or_else(|e| panic!("{e}"));
    let cut = Options { steps: SMALL, ..options(&folder, 2) };
    let ended = run(&source, &plan, None, &cut, &go_on);
    assert!(ended.is_err_and(|error| matches!(error, Error::Source(_)) && error.can_go_on()));
    source.n_reads.store(usize::MAX, Ordering::Relaxed);
    assert!(n_before(&source, &plan, &cut) > 0);
    let resumed = fs::read(&cut.path).unwrap_or_default();
    assert!(resumed == made(&source, &plan, None, &options(&folder, 1)));
}

#[test]
fn a_weight_that_is_no_number_is_named_and_leaves_nothing() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let folder = folder();
        let spoil = |name: &str, values: &mut [f32]| {
            if name == "blk.3.ffn_up_exps.weight" {
                values[130 * 512 + 17] = bad;
            }
        };
        let source = open(&model(folder.path(), spoil));
        let plan = plan(&source, "* Q8_0");
        let error = run(&source, &plan, None, &options(&folder, 2), &go_on).err().unwrap_or_else(|| panic!("{bad}"));
        assert_eq!(
            error.to_string(),
            format!("tensor `blk.3.ffn_up_exps.weight`, row 130, column 17: the weight is {bad}")
        );
        assert_eq!(names(&folder), ["model.gguf"]);
    }
}

#[test]
fn norms_that_are_copied_are_looked_at_too() {
    let folder = folder();
    let spoil = |name: &str, values: &mut [f32]| {
        if name == "blk.0.attn_norm.weight" {
            values[5] = f32::NAN;
        }
    };
    let source = open(&model(folder.path(), spoil));
    let ended = run(&source, &plan(&source, "* copy"), None, &options(&folder, 2), &go_on);
    assert!(matches!(ended, Err(Error::NotFinite { row: 0, column: 5, .. })), "{ended:?}");
}

#[test]
fn a_weight_beyond_a_format_is_named() {
    let spoiled = |bad: f32| {
        let folder = folder();
        let spoil = |name: &str, values: &mut [f32]| {
            if name == "output.weight" {
                values[2 * 512 + 1] = bad;
            }
        };
        let source = open(&model(folder.path(), spoil));
        (folder, source)
    };
    for bad in [1e9, -1e9, 3e20, -2e38] {
        let (folder, source) = spoiled(bad);
        let packed = |format: &Format| format.encoder().is_some() && ![Format::F32, Format::BF16].contains(format);
        for &to in FORMATS.iter().filter(|format| packed(format) && (bad == -2e38 || **format != Format::MXFP4)) {
            let plan = plan(&source, &format!("output.weight {}\n* copy", to.name()));
            match run(&source, &plan, None, &options(&folder, 1), &go_on) {
                Err(Error::TooLarge { tensor, row: 2, column: 1, value, format }) => {
                    assert_eq!((&*tensor, value, format), ("output.weight", bad, to.name()));
                }
                other => panic!("{bad} as {to:?}: {other:?}"),
            }
        }
        let plan = plan(&source, "output.weight BF16\n* copy");
        run(&source, &plan, None, &options(&folder, 1), &go_on).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn files_that_are_there_or_being_made_stay() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let options = Options { overwrite: false, ..options(&folder, 1) };
    fs::write(&options.path, "precious").unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(run(&source, &plan, None, &options, &go_on), Err(Error::Exists { .. })));
    fs::remove_file(&options.path).unwrap_or_else(|e| panic!("{e}"));

    let partial = File::create(folder.path().join("out.gguf.partial")).unwrap_or_else(|e| panic!("{e}"));
    partial.lock().unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(run(&source, &plan, None, &options, &go_on), Err(Error::Busy { .. })));
}

#[cfg(unix)]
#[test]
fn only_files_are_replaced() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let refused = |name: &str| {
        let options = Options { path: folder.path().join(name), ..options(&folder, 1) };
        let ended = run(&source, &plan, None, &options, &go_on);
        assert!(matches!(ended, Err(Error::NotAFile { .. })), "{name}: {ended:?}");
    };
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).unwrap_or_else(|e| panic!("{e}"));
    symlink("model.gguf", at("link")).unwrap_or_else(|e| panic!("{e}"));
    symlink("nowhere", at("dangling")).unwrap_or_else(|e| panic!("{e}"));
    symlink("model.gguf", at("other.partial")).unwrap_or_else(|e| panic!("{e}"));
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap_or_else(|e| panic!("{e}")));
    ["folder", "link", "dangling", "other", "socket"].into_iter().for_each(refused);
    assert_eq!(names(&folder), ["dangling", "folder", "link", "model.gguf", "other.partial", "socket"]);
}

#[test]
fn what_appears_meanwhile_stays_and_the_work_is_kept() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let expected = made(&source, &plan, None, &options(&folder, 1));
    let options = Options { overwrite: false, ..options(&folder, 1) };
    fs::remove_file(&options.path).unwrap_or_else(|e| panic!("{e}"));
    let put = |_| {
        fs::write(&options.path, "precious").unwrap_or_else(|e| panic!("{e}"));
        ControlFlow::Continue(())
    };
    let ended = run(&source, &plan, None, &options, &put);
    assert!(matches!(ended, Err(Error::Appeared { .. })), "{ended:?}");
    assert_eq!(fs::read(&options.path).unwrap_or_default(), b"precious");
    assert_eq!(n_before(&source, &plan, &Options { overwrite: true, ..options }), 7, "all is there");
    assert!(fs::read(folder.path().join("out.gguf")).unwrap_or_default() == expected);
}

#[test]
fn a_source_that_changes_is_noticed() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let touch = |_| {
        let file = File::options().append(true).open(folder.path().join("model.gguf"));
        file.and_then(|mut file| std::io::Write::write_all(&mut file, b"x")).unwrap_or_else(|e| panic!("{e}"));
        ControlFlow::Continue(())
    };
    let ended = run(&source, &plan, None, &options(&folder, 1), &touch);
    assert!(matches!(ended, Err(Error::Changed { .. })), "{ended:?}");
    assert_eq!(names(&folder), ["model.gguf"]);
}

#[test]
fn a_source_that_took_the_place_of_the_opened_one_is_noticed() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let other = tempfile::tempdir_in(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let other = model(other.path(), |_, values| values[0] = 0.5);
    fs::rename(&other, folder.path().join("model.gguf")).unwrap_or_else(|e| panic!("{e}"));
    let ended = run(&source, &plan, None, &options(&folder, 1), &go_on);
    assert!(matches!(ended, Err(Error::Changed { .. })), "{ended:?}");
}

const EXPERTS: &str = "blk.3.ffn_up_exps.weight";

fn guide(entries: &[(&str, Entry)]) -> Guide {
    let mut imatrix = Imatrix::new(512);
    imatrix.entries.extend(entries.iter().map(|(name, entry)| (name.to_string(), entry.clone())));
    Guide::new(imatrix, "known.gguf")
}

/// What is known of so many columns of experts that met so many rows.
fn entry(n_cols: usize, counts: &[u64]) -> Entry {
    let sums = counts
        .iter()
        .zip([3, 7, 11])
        .flat_map(|(&count, k)| (0..n_cols).map(move |i| if count == 0 { 0.0 } else { (1 + i * k % 97) as f32 }));
    Entry::new(sums.collect(), counts.to_vec()).unwrap_or_else(|e| panic!("{e}"))
}

fn planned(source: &GgufSource, recipe: &str, guide: Option<&Guide>) -> Result<Plan, Error> {
    Plan::new(source, &Recipe::parse(recipe).unwrap_or_else(|e| panic!("{e}")), guide)
}

#[test]
fn importance_is_that_of_each_matrix() {
    let folder = folder();
    let source = source(&folder);
    let counts = [1, 0, 4];
    let guide = guide(&[(EXPERTS, entry(512, &counts))]);
    let plan = planned(&source, "blk.*_exps.weight Q2_K\n* copy", Some(&guide)).unwrap_or_else(|e| panic!("{e}"));
    assert!(plan.targets.iter().all(|t| t.guided == (t.name == EXPERTS)));
    run(&source, &plan, Some(&guide), &Options { steps: SMALL, ..options(&folder, 2) }, &go_on)
        .unwrap_or_else(|e| panic!("{e}"));
    let [made, from] =
        ["out.gguf", "model.gguf"].map(|name| Gguf::open(&folder.path().join(name)).unwrap_or_else(|e| panic!("{e}")));
    let key = made.metadata().str_opt("quantize.imatrix.file").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(key, Some("known.gguf"));

    let [made, from] =
        [&made, &from].map(|file| file.bytes(file.tensor(EXPERTS).unwrap_or_else(|| panic!("it is gone"))));
    let values: Vec<f32> = from.as_ref().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let encode = Format::Q2_K.encoder().unwrap_or_else(|| panic!("no encoder"));
    let packed = |expert: usize, columns: Option<Vec<f32>>| {
        let mut bytes = vec![0; 64 * 2 * 84];
        let columns = columns.map(|columns| columns.repeat(64));
        encode(&values[expert * 64 * 512..][..64 * 512], columns.as_deref(), &mut bytes);
        bytes
    };
    let entry = entry(512, &counts);
    // Of an expert that no row met nothing is known, as if the file did not have it.
    let columns = |expert: usize| match counts[expert] {
        0 => None,
        n => Some(entry.sums()[512 * expert..][..512].iter().map(|sum| sum / n as f32).collect::<Vec<f32>>()),
    };
    for (expert, made) in made.as_ref().chunks(64 * 2 * 84).enumerate() {
        assert!(made == packed(expert, columns(expert)), "expert {expert}");
        assert!(made != packed(expert, columns((expert + 1) % 3)), "expert {expert} by another's");
    }
}

#[test]
fn what_no_tensor_has_is_told_and_what_does_not_fit_is_refused_when_it_is_planned() {
    let folder = folder();
    let source = source(&folder);
    let known = |name: &str, n_cols: usize| guide(&[(name, entry(n_cols, &[1, 0, 0]))]);
    let strangers = |guide: &Guide| guide.strangers(source.weights()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(strangers(&known("blk.9.other.weight", 512)), ["blk.9.other.weight"]);
    assert_eq!(strangers(&known(&format!("{EXPERTS}.expert_1"), 512)), [""; 0]);

    let refused = |guide: Guide| {
        let plan = planned(&source, "blk.*_exps.weight Q2_K\n* copy", Some(&guide));
        plan.err().unwrap_or_else(|| panic!("it fits"))
    };
    assert!(matches!(refused(known(EXPERTS, 500)), Error::Importance(_)));
    assert!(matches!(refused(known("blk.9.other.weight", 512)), Error::OtherModel { .. }));
    let middle = format!("{EXPERTS}.expert.1");
    let wrong = guide(&[(EXPERTS, entry(512, &[1, 2, 3])), (&middle, entry(100, &[1]))]);
    assert!(matches!(refused(wrong), Error::Importance(_)));
}

#[test]
fn tensors_without_importance_are_known() {
    let folder = folder();
    let source = source(&folder);
    let of = |guide: &Guide| {
        let plan = planned(&source, "blk.*_exps.weight IQ2_XXS\n* Q8_0", Some(guide)).unwrap_or_else(|e| panic!("{e}"));
        let packed: Vec<_> = plan.targets.into_iter().filter(|t| t.is_packed()).collect();
        assert!(packed.iter().all(|t| t.wants_importance() == (t.name == EXPERTS)));
        packed.into_iter().filter(|t| t.guided).map(|t| t.name).collect::<Vec<_>>()
    };
    assert_eq!(of(&guide(&[(EXPERTS, entry(512, &[1, 2, 3]))])), [EXPERTS]);
    let one = format!("{EXPERTS}.expert.1");
    assert_eq!(of(&guide(&[(&one, entry(512, &[1])), ("output.weight", entry(512, &[1]))])), ["output.weight"]);
}

/// The header's keys, as text.
fn keys(path: &Path) -> Vec<String> {
    let file = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    file.metadata().iter().map(|(key, value)| format!("{key} {value:?}")).collect()
}

#[test]
fn keys_of_the_types_stay_while_the_types_do() {
    let folder = folder();
    let quantised = [
        ("llama.block_count", 4u32.into()),
        ("general.file_type", 7u32.into()),
        ("general.quantization_version", 2u32.into()),
        ("quantize.imatrix.file", "old".to_string().into()),
    ];
    let source = open(&model_with(folder.path(), &quantised, |_, _| ()));
    let out = folder.path().join("out.gguf");
    let copied = made(&source, &plan(&source, "* copy"), None, &options(&folder, 1));
    assert!(copied == fs::read(folder.path().join("model.gguf")).unwrap_or_default(), "nothing is lost");
    made(&source, &plan(&source, "output.weight Q8_0\n* copy"), None, &options(&folder, 1));
    let kept = keys(&out);
    assert!(kept.iter().any(|key| key.starts_with("general.quantization_version U32(2)")), "{kept:?}");
    assert!(!kept.iter().any(|key| key.contains("file_type") || key.contains("imatrix")), "{kept:?}");
    made(&source, &plan(&source, "file_type 9\n* copy"), None, &options(&folder, 1));
    let kept = keys(&out);
    assert!(kept.iter().filter(|key| key.contains("file_type")).eq(["general.file_type U32(9)"]), "{kept:?}");
}

#[test]
fn layers_are_counted_by_any_integer_and_by_no_other_value() {
    let made = |count: Value| {
        let folder = folder();
        let source = open(&model_with(folder.path(), &[("llama.block_count", count)], |_, _| ()));
        let plan = planned(&source, "blk.*.attn_v.weight Q6_K if favoured\n* Q8_0", None);
        plan.map(|plan| plan.targets[2].to.name())
    };
    for count in [Value::U32(4), Value::U64(4), Value::I32(4), Value::U8(4)] {
        assert_eq!(made(count).unwrap_or_else(|e| panic!("{e}")), "Q8_0");
    }
    for count in [Value::U32(0), Value::I64(-1), Value::F32(4.0), Value::String("4".into())] {
        let error = made(count).err().unwrap_or_else(|| panic!("it counts as something"));
        assert_eq!(
            error.to_string(),
            "the recipe goes by the number of layers, and `llama.block_count` does not say how many there are"
        );
    }
}

#[test]
fn coarse_formats_get_importance_from_the_weights_where_there_is_none() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "blk.*_exps.weight IQ2_XXS\n* copy");
    run(&source, &plan, None, &options(&folder, 2), &go_on).unwrap_or_else(|e| panic!("{e}"));
    let made = Gguf::open(&folder.path().join("out.gguf")).unwrap_or_else(|e| panic!("{e}"));
    let from = Gguf::open(&folder.path().join("model.gguf")).unwrap_or_else(|e| panic!("{e}"));
    let [made, from] = [&made, &from].map(|file| {
        let tensor = file.tensor("blk.3.ffn_up_exps.weight").unwrap_or_else(|| panic!("it is gone"));
        file.bytes(tensor)
    });
    let values: Vec<f32> = from.as_ref().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut expected = Vec::new();
    for matrix in values.chunks(64 * 512) {
        let sums = |i| matrix.chunks(512).map(|row| f64::from(row[i]) * f64::from(row[i])).sum::<f64>() as f32;
        let sums: Vec<f32> = (0..512).map(sums).collect();
        let mut bytes = vec![0; 64 * 2 * 66];
        let encode = Format::IQ2_XXS.encoder().unwrap_or_else(|| panic!("no encoder"));
        encode(matrix, Some(&sums.repeat(64)), &mut bytes);
        expected.extend(bytes);
    }
    assert!(made.as_ref() == expected);
}

#[test]
fn rules_beside_a_recipe_reach_vectors_and_refuse_tables() {
    let folder = folder();
    let source = source(&folder);
    let with = |rule: &str| {
        let mut recipe = Recipe::parse("* Q8_0").unwrap_or_else(|e| panic!("{e}"));
        recipe.prefer(Rule::assigned(rule).unwrap_or_else(|e| panic!("{e}")));
        Plan::new(&source, &recipe, None)
    };
    let plan = with("*norm.weight=F16").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(plan.targets[1].to.name(), "F16");
    assert!(matches!(with("table.weight=Q8_0"), Err(Error::NotWeights { .. })));
}

#[test]
fn recipes_are_for_their_family() {
    let folder = folder();
    let recipe = Recipe::named("q2").unwrap_or_else(|| panic!("no q2"));
    let ended = Plan::new(&source(&folder), &recipe, None).err();
    assert!(matches!(ended, Some(Error::Family { .. })), "{ended:?}");
}

#[test]
fn a_partial_file_of_somebody_else_is_left_alone() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let partial = folder.path().join("out.gguf.partial");
    fs::write(&partial, "precious").unwrap_or_else(|e| panic!("{e}"));
    let refused = run(&source, &plan, None, &options(&folder, 1), &go_on);
    assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
    assert_eq!(fs::read(&partial).unwrap_or_else(|e| panic!("{e}")), b"precious");
}

#[test]
fn what_is_no_model_is_not_packed() {
    let folder = folder();
    let refused = |writer: &Writer| {
        let path = folder.path().join("other.gguf");
        writer.write(&path).unwrap_or_else(|e| panic!("{e}"));
        let error = planned(&open(&path), "* Q8_0", None).err().unwrap_or_else(|| panic!("it is packed"));
        assert!(matches!(error, Error::NotAModel { .. }), "{error}");
    };
    refused(Writer::new().set("general.architecture", "llama".to_string()));
    let zeros = [0u8; 4];
    let mut writer = Writer::new();
    writer.set("general.type", "imatrix".to_string()).tensor("x.in_sum2", &[1], Element::Packed(Format::F32), zeros);
    refused(&writer);
}

#[test]
fn importance_of_a_wider_model_or_of_more_experts_is_refused() {
    let folder = folder();
    let source = source(&folder);
    let refused = |name: &str, known: Entry| {
        let plan = planned(&source, "* Q4_0", Some(&guide(&[(name, known)])));
        let error = plan.err().unwrap_or_else(|| panic!("{name}: it fits"));
        assert!(matches!(error, Error::Importance(_)), "{error}");
    };
    refused("output.weight", entry(1024, &[1]));
    refused(EXPERTS, entry(512, &[1, 2, 3, 4, 5, 6]));
}
