//! Files of the safetensors format, written by hand: also such as no library would write.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use serde_json::{Map, Value, json};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
}

impl Tensor {
    pub(crate) fn new(name: impl Into<String>, dtype: &'static str, shape: &[usize]) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.to_vec() }
    }

    pub(crate) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn n_bytes(&self) -> usize {
        let size = match self.dtype {
            "I64" => 8,
            "F32" | "I32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        size * self.n_elements()
    }
}

/// The start of a file of these tensors, one after the other.
pub(crate) fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut json = Map::new();
    json.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut done = 0;
    for t in tensors {
        let end = done + t.n_bytes();
        json.insert(t.name.clone(), json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [done, end]}));
        done = end;
    }
    with_length(&Value::Object(json).to_string())
}

/// A header as it is, with its length in front.
pub(crate) fn with_length(json: &str) -> Vec<u8> {
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.as_bytes());
    out
}

/// A file with data.
pub(crate) fn write(path: &Path, tensors: &[(Tensor, Vec<u8>)]) {
    let names: Vec<_> = tensors.iter().map(|(t, _)| t.clone()).collect();
    let mut out = header(&names);
    for (t, bytes) in tensors {
        assert_eq!(bytes.len(), t.n_bytes(), "{}", t.name);
        out.extend(bytes);
    }
    fs::write(path, out).unwrap_or_else(|e| panic!("{e}"));
}

/// A file whose data is a hole: it reads as zeros, and takes no room.
pub(crate) fn write_sparse(path: &Path, tensors: &[Tensor]) {
    let header = header(tensors);
    let mut file = File::create(path).unwrap_or_else(|e| panic!("{e}"));
    file.write_all(&header).unwrap_or_else(|e| panic!("{e}"));
    let data: usize = tensors.iter().map(Tensor::n_bytes).sum();
    file.set_len((header.len() + data) as u64).unwrap_or_else(|e| panic!("{e}"));
}

/// The name of file `i` of `n`.
pub(crate) fn shard_name(i: usize, n: usize) -> String {
    format!("model-{:05}-of-{n:05}.safetensors", i + 1)
}

/// The index of files with these tensors.
pub(crate) fn write_index(folder: &Path, shards: &[Vec<Tensor>]) {
    let mut map = Map::new();
    for (i, tensors) in shards.iter().enumerate() {
        tensors.iter().for_each(|t| _ = map.insert(t.name.clone(), shard_name(i, shards.len()).into()));
    }
    let total: usize = shards.iter().flatten().map(Tensor::n_bytes).sum();
    let json = json!({"metadata": {"total_size": total}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), json.to_string()).unwrap_or_else(|e| panic!("{e}"));
}
