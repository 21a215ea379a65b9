//! Copies of model files with other weights.

use std::path::Path;

use gguf::{Element, Gguf, TensorInfo, Writer};

/// Writes `from` to `to`, each tensor as `edit` makes it of its bytes.
pub(crate) fn copy_with(from: &Path, to: &Path, edit: impl Fn(&TensorInfo, Vec<u8>) -> (Element, Vec<u8>)) {
    let model = Gguf::open(from).unwrap_or_else(|e| panic!("{e}"));
    let mut writer = Writer::new();
    for (key, value) in model.metadata().iter() {
        writer.set(key, value.clone());
    }
    for t in model.tensors() {
        let (element, bytes) = edit(t, model.bytes(t).as_ref().to_vec());
        writer.tensor(&t.name, &t.shape, element, bytes);
    }
    writer.write(to).unwrap_or_else(|e| panic!("{e}"));
}
