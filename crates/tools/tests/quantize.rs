//! Files are packed whole or not at all, the same by any number of threads, and from where the last run ended.

use std::{
    fs::{self, File},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use gguf::{Element, Gguf, Writer};
use quant::Format;
use tempfile::TempDir;
use tools::{
    GgufSource, Source as _,
    imatrix::{Entry, Imatrix},
    quantize::{Error, Guide, Options, Plan, run},
    recipe::{Recipe, Rule},
};

const F32: Element = Element::Packed(Format::F32);

/// A model with all kinds of tensors, in pseudo-random numbers; `change` may spoil a tensor's.
fn model(folder: &Path, change: impl Fn(&str, &mut [f32])) -> PathBuf {
    let path = folder.join("model.gguf");
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama".to_string()).set("llama.block_count", 4u32);
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
    Options { path: folder.path().join("out.gguf"), n_threads, overwrite: true }
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn go_on(_: tools::quantize::Done) -> ControlFlow<()> {
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
fn threads_do_not_change_a_byte() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "blk.*_exps.weight Q4_0\n* Q8_0");
    let made = |n_threads| {
        run(&source, &plan, None, &options(&folder, n_threads), &go_on).unwrap_or_else(|e| panic!("{e}"));
        fs::read(folder.path().join("out.gguf")).unwrap_or_default()
    };
    let one = made(1);
    assert!(!one.is_empty() && one == made(2) && one == made(7));
}

#[test]
fn an_interrupted_run_is_gone_on_with() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let whole = options(&folder, 1);
    run(&source, &plan, None, &whole, &go_on).unwrap_or_else(|e| panic!("{e}"));
    let expected = fs::read(&whole.path).unwrap_or_default();
    fs::remove_file(&whole.path).unwrap_or_else(|e| panic!("{e}"));

    for n_steps in [1, 3, 5] {
        let steps = AtomicUsize::new(0);
        let stop = |_| match steps.fetch_add(1, Ordering::Relaxed) + 1 < n_steps {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let ended = run(&source, &plan, None, &options(&folder, 1), &stop);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert_eq!(names(&folder), ["model.gguf", "out.gguf.partial", "out.gguf.partial.state"]);
    }
    let first = AtomicUsize::new(usize::MAX);
    let note = |done: tools::quantize::Done| {
        first.fetch_min(done.n_before as usize, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    run(&source, &plan, None, &options(&folder, 2), &note).unwrap_or_else(|e| panic!("{e}"));
    assert!(first.into_inner() >= 300 * 512, "it began afresh");
    assert_eq!(names(&folder), ["model.gguf", "out.gguf"]);
    assert!(fs::read(&whole.path).unwrap_or_default() == expected);
}

#[test]
fn what_was_left_of_another_file_is_not_gone_on_with() {
    let folder = folder();
    let source = source(&folder);
    let stop = |_| ControlFlow::Break(());
    let one = plan(&source, "* Q8_0");
    assert!(run(&source, &one, None, &options(&folder, 1), &stop).is_err());
    let other = plan(&source, "* Q4_0");
    let note = |done: tools::quantize::Done| {
        assert_eq!(done.n_before, 0);
        ControlFlow::Continue(())
    };
    run(&source, &other, None, &options(&folder, 1), &note).unwrap_or_else(|e| panic!("{e}"));
    let made = Gguf::open(&folder.path().join("out.gguf")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(made.tensors()[0].element.name(), "Q4_0");
}

#[test]
fn a_state_that_was_cut_short_counts_only_whole_lines() {
    let folder = folder();
    let source = source(&folder);
    let plan = plan(&source, "* Q8_0");
    let steps = AtomicUsize::new(0);
    let stop = |_| match steps.fetch_add(1, Ordering::Relaxed) {
        0..4 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    assert!(run(&source, &plan, None, &options(&folder, 1), &stop).is_err());
    let state = folder.path().join("out.gguf.partial.state");
    let text = fs::read_to_string(&state).unwrap_or_default();
    fs::write(&state, format!("{text}7")).unwrap_or_else(|e| panic!("{e}"));
    run(&source, &plan, None, &options(&folder, 1), &go_on).unwrap_or_else(|e| panic!("{e}"));
    let made = fs::read(folder.path().join("out.gguf")).unwrap_or_default();
    run(&source, &plan, None, &options(&folder, 1), &go_on).unwrap_or_else(|e| panic!("{e}"));
    assert!(made == fs::read(folder.path().join("out.gguf")).unwrap_or_default());
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
    let folder = folder();
    let spoil = |name: &str, values: &mut [f32]| {
        if name == "output.weight" {
            values[2 * 512 + 1] = -1e9;
        }
    };
    let source = open(&model(folder.path(), spoil));
    let ended = run(&source, &plan(&source, "* Q8_0"), None, &options(&folder, 1), &go_on);
    match ended {
        Err(Error::TooLarge { tensor, row: 2, value: -1e9, format: "Q8_0" }) => assert_eq!(tensor, "output.weight"),
        other => panic!("{other:?}"),
    }
    run(&source, &plan(&source, "* BF16"), None, &options(&folder, 1), &go_on).unwrap_or_else(|e| panic!("{e}"));
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

/// Only the experts are known, and of them only the first was met.
fn known(name: &str, n_cols: usize) -> Guide {
    let sums = (0..3 * n_cols).map(|i| if i < n_cols { (1 + i) as f32 } else { 0.0 });
    let entry = Entry::new(sums.collect(), vec![1, 0, 0]).unwrap_or_else(|e| panic!("{e}"));
    let mut imatrix = Imatrix::new(512);
    imatrix.entries.insert(name.into(), entry);
    Guide::new(imatrix, "known.gguf")
}

#[test]
fn importance_is_that_of_each_matrix() {
    let folder = folder();
    let source = source(&folder);
    let recipe = Recipe::parse("blk.*_exps.weight Q2_K\n* copy").unwrap_or_else(|e| panic!("{e}"));
    let made = |guide: Option<&Guide>| {
        let plan = Plan::new(&source, &recipe, guide).unwrap_or_else(|e| panic!("{e}"));
        run(&source, &plan, guide, &options(&folder, 2), &go_on).unwrap_or_else(|e| panic!("{e}"));
        let made = Gguf::open(&folder.path().join("out.gguf")).unwrap_or_else(|e| panic!("{e}"));
        let tensor = made.tensor("blk.3.ffn_up_exps.weight").unwrap_or_else(|| panic!("it is gone"));
        let key = made.metadata().str_opt("quantize.imatrix.file").unwrap_or_else(|e| panic!("{e}")).map(str::to_owned);
        (made.bytes(tensor).as_ref().to_vec(), key)
    };
    let experts = "blk.3.ffn_up_exps.weight";
    let ((plain, no_key), (guided, key)) = (made(None), made(Some(&known(experts, 512))));
    assert!(plain[..plain.len() / 3] != guided[..plain.len() / 3]);
    assert_eq!((no_key, key.as_deref()), (None, Some("known.gguf")));

    let strangers = |guide: &Guide| guide.strangers(source.weights()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(strangers(&known("blk.9.other.weight", 512)), ["blk.9.other.weight"]);
    assert_eq!(strangers(&known(&format!("{experts}.expert_1"), 512)), [""; 0]);
    let refused = |guide: &Guide| Plan::new(&source, &recipe, Some(guide)).err().unwrap_or_else(|| panic!("it fits"));
    assert!(matches!(refused(&known(experts, 500)), Error::Importance(_)));
    assert!(matches!(refused(&known("blk.9.other.weight", 512)), Error::OtherModel { .. }));
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
