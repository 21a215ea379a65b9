//! Folders as Hugging Face publishes models, read as what the GGUF of the model would hold.
//!
//! ```text
//! config.json                                  -> family, sizes                -> keys           config, family, deepseek_v4, llama
//! tokenizer.json, tokenizer_config.json, ..    -> vocabulary                   -> keys           tokenizer
//! generation_config.json                       -> how to choose tokens         -> keys           sampling
//! *.safetensors                                -> headers, checked             -> what there is  shards, header
//! a family's rules                             -> names, shapes, types         -> tensors        builder
//! positioned reads of the rows asked for       -> in the spelling of the GGUF  -> bytes, floats  rows
//! ```
//!
//! A folder is a stranger, as a GGUF is: names stay inside it, every size is checked against the bytes that are there
//! before it is used, and a file that somebody writes to meanwhile gives no rows. Every tensor has to be asked for by a
//! rule of the family, or be left out by one.

mod builder;
mod config;
mod deepseek_v4;
mod error;
mod family;
mod header;
mod llama;
mod rows;
mod sampling;
mod shards;
mod tokenizer;

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use gguf::{Element, Stamp, Value};

use crate::{Source, Weights};
use builder::Plan;
use config::Config;
use family::Family;
use shards::Shards;

pub use error::Error;

/// An opened folder.
pub struct Folder {
    files: Shards,
    /// What says how weights are read, and some are made of it alone.
    config: (PathBuf, Stamp),
    keys: Vec<(String, Value)>,
    plan: Plan,
}

impl Folder {
    /// Opens a folder: reads its JSON files and the headers of its weights, and checks that they make a model.
    ///
    /// # Errors
    /// What is wrong with the folder, in one line.
    pub fn open(path: &Path) -> Result<Folder, Error> {
        if !path.metadata().map_err(Error::io(path))?.is_dir() {
            return Err(Error::NotAFolder { path: path.to_owned() });
        }
        let config = Config::read(path)?;
        let family = Family::of(&config)?;
        let mut keys = (family.keys)(&config)?.into_entries();
        keys.insert(1, ("general.name".into(), name(path).into()));
        keys.splice(2..2, sampling::keys(path)?);
        let files = Shards::open(path)?;
        let plan = (family.plan)(&config, &files)?;
        // Only now is it known that there are as many words as the numbers say, each of which takes memory.
        keys.extend(tokenizer::keys(path, &config, family.pre)?);
        let config = (config.path().to_owned(), config.stamp());
        Ok(Folder { files, config, keys, plan })
    }

    /// The stored tensors that the GGUF goes without: drafters, and what is computed from others.
    pub fn left_out(&self) -> &[String] {
        &self.plan.left_out
    }
}

impl Source for Folder {
    type Error = Error;

    fn files(&self) -> Vec<(PathBuf, Stamp)> {
        let weights = self.files.stamps().map(|(path, stamp)| (path.to_owned(), stamp));
        weights.chain([self.config.clone()]).collect()
    }

    fn keys(&self) -> &[(String, Value)] {
        &self.keys
    }

    fn weights(&self) -> &[Weights] {
        &self.plan.weights
    }

    fn read(&self, i: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let weights = &self.plan.weights[i];
        let Element::Packed(format) = weights.element else { panic!("`read` is for weights") };
        let row_bytes = format.row_bytes(weights.n_cols()).expect("checked when it was opened");
        let mut bytes = vec![0; row_bytes * rows.len()];
        self.read_bytes(i, rows, &mut bytes)?;
        format.decode(&bytes, out);
        Ok(())
    }

    fn read_bytes(&self, i: usize, rows: Range<usize>, out: &mut [u8]) -> Result<(), Error> {
        self.plan.origins[i].read(&self.files, &self.plan.weights[i].shape, rows, out)
    }
}

/// The name of a model: that of its folder. A download's folder has the name of a revision, inside of one that names the
/// model, `models--AUTHOR--NAME/snapshots/REVISION`.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let word = |path: Option<&Path>| path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let download = word(path.ancestors().nth(2));
    match download.strip_prefix("models--").and_then(|rest| rest.split_once("--")) {
        Some((_, name)) => name.into(),
        None => word(Some(&path)),
    }
}
