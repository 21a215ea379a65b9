//! What is in a model file: its keys, and its tensors by type or one by one. Reads the header only.

use std::fmt::Write as _;

use gguf::{Array, Gguf, TensorInfo, Value};
use serde_json::{Map, Value as Json, json};

use crate::{
    args::InspectArgs,
    error::Error,
    model, output,
    table::{by_type, table},
    terminal::escape,
    units,
};

/// Prints what `args` asks for.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Error> {
    let file = model::file(args.file.as_deref().or(args.model.as_deref()))?;
    output::print(&match args.json {
        true => as_json(&file, args.tensors),
        false => as_text(&file, args.tensors),
    })
}

fn as_text(file: &Gguf, tensors: bool) -> String {
    let mut out = format!("{}\n\n", escape(&summary(file)));
    for (key, value) in file.metadata().iter() {
        let _ = writeln!(out, "{}  {}", escape(key), escape(&value.to_string()));
    }
    out += "\n";
    match tensors {
        true => table(&mut out, file.tensors().iter().map(tensor_row)),
        false => table(&mut out, by_type(file.tensors().iter().map(of_tensor))),
    }
    out
}

/// The file in one line.
fn summary(file: &Gguf) -> String {
    let n_weights: u64 = file.tensors().iter().map(|t| t.n_elements() as u64).sum();
    let parts = if file.n_parts() > 1 { format!(" in {} files", file.n_parts()) } else { String::new() };
    format!(
        "{}: GGUF version {}, {}{parts}, {} keys, {} tensors, {} weights",
        file.path().display(),
        file.version(),
        units::bytes(file.file_bytes()),
        file.metadata().len(),
        file.tensors().len(),
        units::count(n_weights),
    )
}

fn of_tensor(t: &TensorInfo) -> (&'static str, u64, u64) {
    (t.element.name(), t.n_elements() as u64, t.n_bytes() as u64)
}

fn tensor_row(t: &TensorInfo) -> Vec<String> {
    vec![escape(&t.name), format!("{:?}", t.shape), t.element.name().into(), units::bytes(t.n_bytes() as u64)]
}

fn as_json(file: &Gguf, tensors: bool) -> String {
    let keys: Map<String, Json> = file.metadata().iter().map(|(key, value)| (key.into(), json_of(value))).collect();
    let mut all = json!({
        "version": file.version(),
        "file_bytes": file.file_bytes(),
        "n_parts": file.n_parts(),
        "n_tensors": file.tensors().len(),
        "metadata": keys,
    });
    if tensors {
        all["tensors"] = file.tensors().iter().map(tensor_json).collect();
    }
    format!("{all:#}\n")
}

fn tensor_json(t: &TensorInfo) -> Json {
    json!({ "name": t.name, "shape": t.shape, "type": t.element.name(), "n_bytes": t.n_bytes() })
}

/// A value in full. Numbers that JSON has no word for become `null`.
fn json_of(value: &Value) -> Json {
    match value {
        Value::Bool(x) => json!(x),
        Value::String(x) => json!(x),
        Value::U8(x) => json!(x),
        Value::I8(x) => json!(x),
        Value::U16(x) => json!(x),
        Value::I16(x) => json!(x),
        Value::U32(x) => json!(x),
        Value::I32(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::I64(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Array(x) => array_json(x),
    }
}

fn array_json(array: &Array) -> Json {
    match array {
        Array::Bool(x) => json!(x),
        Array::String(x) => x.iter().map(Json::from).collect(),
        Array::U8(x) => json!(x),
        Array::I8(x) => json!(x),
        Array::U16(x) => json!(x),
        Array::I16(x) => json!(x),
        Array::U32(x) => json!(x),
        Array::I32(x) => json!(x),
        Array::F32(x) => json!(x),
        Array::U64(x) => json!(x),
        Array::I64(x) => json!(x),
        Array::F64(x) => json!(x),
    }
}
