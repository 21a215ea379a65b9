//! The files of weights: one, or several that an index names, and reads from them. Headers are read when they are opened,
//! data never but for the rows that are asked for.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use gguf::{Stamp, shorten};
use serde_json::Value;

use super::{Error, header, header::Stored};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files of JSON longer than this are none of a model's.
const JSON_BYTES_MAX: u64 = 100_000_000;

/// What the names of pickled weights end in.
const PICKLED: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// The weights of a folder.
pub(super) struct Shards {
    folder: PathBuf,
    files: Vec<Shard>,
    tensors: Vec<Place>,
    by_name: HashMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// A tensor, and the file that has it.
struct Place {
    shard: usize,
    stored: Stored,
}

impl Shards {
    pub(super) fn open(folder: &Path) -> Result<Shards, Error> {
        let mut shards =
            Shards { folder: folder.to_owned(), files: Vec::new(), tensors: Vec::new(), by_name: HashMap::new() };
        if folder.join(INDEX).exists() {
            shards.open_index()?;
        } else if folder.join(SINGLE).exists() {
            shards.push(Shard::open(folder.join(SINGLE)).map_err(|(path, source)| Error::Io { path, source })?)?;
        } else {
            return Err(no_weights(folder));
        }
        Ok(shards)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files, as they were when they were opened.
    pub(super) fn stamps(&self) -> impl Iterator<Item = (&Path, Stamp)> {
        self.files.iter().map(|file| (file.path.as_path(), file.stamp))
    }

    /// The names of all tensors, in the order of the files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|t| t.stored.name.as_str())
    }

    /// The number of a tensor.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn stored(&self, i: usize) -> &Stored {
        &self.tensors[i].stored
    }

    /// The file that has tensor `i`.
    pub(super) fn path(&self, i: usize) -> &Path {
        &self.files[self.tensors[i].shard].path
    }

    /// Reads bytes of tensor `i`, from byte `start` of it on.
    ///
    /// # Panics
    /// If these are not all in the tensor: our own mistake.
    pub(super) fn read(&self, i: usize, start: u64, out: &mut [u8]) -> Result<(), Error> {
        let Place { shard, stored } = &self.tensors[i];
        let (offset, shard) = (stored.range.start + start, &self.files[*shard]);
        assert!(offset + out.len() as u64 <= stored.range.end, "bytes after the end of `{}`", stored.name);
        // A file that was cut short tells so by its stamp, and better.
        let read = files::read_exact_at(&shard.file, out, offset);
        shard.check_unchanged()?;
        read.map_err(Error::io(&shard.path))
    }

    fn open_index(&mut self) -> Result<(), Error> {
        let index = self.folder.join(INDEX);
        let json = read_json(&index)?;
        let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
            return Err(Error::MissingKey { path: index, key: "weight_map".into() });
        };
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for (tensor, file) in map {
            let name = file.as_str().filter(|name| is_inside(name)).ok_or_else(|| {
                let field = format!("file of tensor `{}`", shorten(tensor));
                Error::invalid(&index, field, &file.to_string(), "the name of a .safetensors file in this folder")
            })?;
            if !numbers.contains_key(name) {
                numbers.insert(name, self.files.len());
                let shard = Shard::open(self.folder.join(name));
                self.push(shard.map_err(|(path, source)| Error::MissingShard { path, source })?)?;
            }
        }
        for (tensor, file) in map {
            let shard = numbers[file.as_str().expect("seen above")];
            if self.find(tensor).is_none_or(|i| self.tensors[i].shard != shard) {
                return Err(Error::NotInShard { path: self.files[shard].path.clone(), tensor: shorten(tensor) });
            }
        }
        Ok(())
    }

    /// Adds a file and its tensors.
    fn push(&mut self, shard: Shard) -> Result<(), Error> {
        let len = shard.file.metadata().map_err(Error::io(&shard.path))?.len();
        let number = self.files.len();
        for stored in header::read(&shard.path, &shard.file, len)? {
            if let Some(&i) = self.by_name.get(&stored.name) {
                let (path, tensor) = (shard.path.clone(), shorten(&stored.name));
                return Err(Error::InTwoShards { path, tensor, first: self.path(i).to_owned() });
            }
            self.by_name.insert(stored.name.clone(), self.tensors.len());
            self.tensors.push(Place { shard: number, stored });
        }
        shard.check_unchanged()?;
        self.files.push(shard);
        Ok(())
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Shard, (PathBuf, io::Error)> {
        // Opening a pipe would wait for somebody to write to it.
        let is_file = fs::metadata(&path).and_then(|m| match m.is_file() {
            true => File::open(&path),
            false => Err(io::Error::other("not a file")),
        });
        match is_file.and_then(|file| Ok((Stamp::of(&file)?, file))) {
            Ok((stamp, file)) => Ok(Shard { path, file, stamp }),
            Err(source) => Err((path, source)),
        }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match Stamp::of(&self.file).map_err(Error::io(&self.path))? == self.stamp {
            true => Ok(()),
            false => Err(Error::Changed { path: self.path.clone() }),
        }
    }
}

/// Whether a name from an index stays in its folder.
fn is_inside(name: &str) -> bool {
    let path = Path::new(name);
    let mut parts = path.components();
    let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    is_name && !name.contains(['/', '\\', '\0']) && path.extension().is_some_and(|e| e == "safetensors")
}

/// Why there is nothing to read.
fn no_weights(folder: &Path) -> Error {
    let is_pickle = |path: &PathBuf| path.extension().is_some_and(|e| PICKLED.iter().any(|p| e == *p));
    let mut files: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|e| e.path()).filter(is_pickle).collect(),
        Err(source) => return Error::Io { path: folder.to_owned(), source },
    };
    files.sort();
    match files.into_iter().next() {
        Some(path) => Error::Pickle { path },
        None => Error::NoWeights { path: folder.to_owned() },
    }
}

/// A file of JSON.
pub(super) fn read_json(path: &Path) -> Result<Value, Error> {
    let json = |what| Error::Json { path: path.to_owned(), what };
    let bytes = read_text(path)?;
    serde_json::from_str(&bytes).map_err(|e| json(shorten(&e.to_string())))
}

/// A file of JSON that may be absent.
pub(super) fn read_json_opt(path: &Path) -> Result<Option<Value>, Error> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

/// A text file of no more than [`JSON_BYTES_MAX`].
pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() || metadata.len() > JSON_BYTES_MAX {
        let what = format!("a file of at most {JSON_BYTES_MAX} bytes is expected");
        return Err(Error::Json { path: path.to_owned(), what });
    }
    fs::read_to_string(path).map_err(Error::io(path))
}
