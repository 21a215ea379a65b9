//! Models that others wrote.

use std::path::{Path, PathBuf};

use gguf::Gguf;

/// Every model in the folders of `testdata`.
pub(crate) fn golden() -> Vec<PathBuf> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").read_dir();
    let files = folders.into_iter().flatten().flatten().filter_map(|f| f.path().read_dir().ok()).flatten().flatten();
    let mut models: Vec<_> = files.map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    models.sort();
    models
}

#[test]
fn golden_models_open() {
    let models = golden();
    if models.is_empty() {
        eprintln!("skipped: no models under testdata");
    }
    for path in models {
        let model = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
        assert!(model.metadata().str("general.architecture").is_ok(), "{}", path.display());
        assert!(!model.tensors().is_empty(), "{}", path.display());
    }
}
