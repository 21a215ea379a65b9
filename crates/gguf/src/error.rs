//! What can be wrong with a model file, each in one line: the file as the user named it, the field, where it is, what
//! was found and what is allowed. Text from the file is escaped and cut to 64 characters.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a file, or a key of it, is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{}: {}", shown(path), reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A folder, a pipe, a device.
    #[error("{}: is {found}, not a file", shown(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it leads to.
        found: &'static str,
    },

    /// The file does not start as a GGUF does.
    #[error("{}: not a GGUF file: {found}", shown(path))]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },

    /// A GGUF for machines with the other byte order.
    #[error(
        "{}: a big-endian GGUF (version at byte 4 is 0x{version:08x}); only little-endian files are supported",
        shown(path)
    )]
    BigEndian {
        /// The file.
        path: PathBuf,
        /// The version as read.
        version: u32,
    },

    /// The header ends in the middle.
    #[error("{}: {field} at byte {offset} needs {needs} bytes, but the file ends at byte {len}", shown(path))]
    Cut {
        /// The file.
        path: PathBuf,
        /// The field being read.
        field: String,
        /// Where it starts.
        offset: u64,
        /// Its length, as far as is known.
        needs: u64,
        /// Length of the file.
        len: u64,
    },

    /// A field has a value that is not allowed there.
    #[error("{}: {field} at byte {offset} is {found}; allowed: {allowed}", shown(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Where it starts.
        offset: u64,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },

    /// Two keys, or two tensors, of one name.
    #[error("{}: {what} `{name}` at byte {second} is a repetition of the one at byte {first}", shown(path))]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// `key` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
        /// Where the first stands.
        first: u64,
        /// Where the second stands.
        second: u64,
    },

    /// The directory points past the end of the file.
    #[error("{}: tensor `{tensor}` needs bytes {start}..{end}, but the file ends at byte {len}", shown(path))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// Length of the file.
        len: u64,
    },

    /// Two tensors share bytes.
    #[error(
        "{}: tensor `{second}` starts at byte {start}, inside tensor `{first}`, which ends at byte {end}",
        shown(path)
    )]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The tensor that starts first.
        first: String,
        /// The other.
        second: String,
        /// Where the second starts.
        start: u64,
        /// Where the first ends.
        end: u64,
    },

    /// Somebody wrote to the file while its header was read.
    #[error("{}: changed while it was being opened", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// A model in several files was opened by another than the first.
    #[error("{}: is part {part} of a model in {count} files; open the first, {first}", shown(path))]
    NotFirst {
        /// The file.
        path: PathBuf,
        /// Its place, from 1.
        part: u32,
        /// Number of files.
        count: u32,
        /// The first one's name.
        first: String,
    },

    /// A file of a split model has another name than its keys promise.
    #[error("{}: is part {part} of a model in {count} files, so its name must end in `{suffix}`", shown(path))]
    SplitName {
        /// The file.
        path: PathBuf,
        /// Its place, from 1.
        part: u32,
        /// Number of files.
        count: u32,
        /// How the name must end.
        suffix: String,
    },

    /// Another file of the model could not be opened.
    #[error("{}: part {part} of {count} is missing: {}", shown(path), reason(source))]
    MissingPart {
        /// Where the part should be.
        path: PathBuf,
        /// Its place, from 1.
        part: u32,
        /// Number of files.
        count: u32,
        /// What the system said.
        source: io::Error,
    },

    /// The files of a split model do not belong together.
    #[error("{}: `{key}` is {found}, but it should be {expected} to fit {}", shown(path), shown(first))]
    Split {
        /// The file.
        path: PathBuf,
        /// The key that tells.
        key: &'static str,
        /// Its value, or `absent`.
        found: String,
        /// The value that fits.
        expected: String,
        /// The first file.
        first: PathBuf,
    },

    /// The files of a split model have not as many tensors as the first promises.
    #[error("{}: `split.tensors.count` is {found}, but the parts have {expected} tensors together", shown(path))]
    TensorCount {
        /// The first file.
        path: PathBuf,
        /// The value of the key.
        found: u64,
        /// The tensors that there are.
        expected: usize,
    },

    /// A tensor is in two files of a split model.
    #[error("{}: tensor `{tensor}` is in {} too", shown(path), shown(first))]
    InTwoParts {
        /// The later file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The earlier file.
        first: PathBuf,
    },

    /// A key that the model needs is absent.
    #[error("{}: key `{key}` is missing", shown(path))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },

    /// A key holds a value of another type.
    #[error("{}: key `{key}` is {found}; expected {expected}", shown(path))]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type in the file.
        found: String,
        /// The types that would do.
        expected: &'static str,
    },

    /// A key holds a number that does not fit.
    #[error("{}: key `{key}` has the value {found}; allowed: {allowed}", shown(path))]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The number.
        found: i128,
        /// The range.
        allowed: String,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "check the path".into(),
            Error::Io { .. } => "check the permissions and the disk".into(),
            Error::NotAFile { .. } => "give the path of a .gguf file".into(),
            Error::NotGguf { .. } => "download the .gguf file of this model".into(),
            Error::BigEndian { .. } => "use the little-endian conversion of this model".into(),
            // No model is larger than this.
            Error::Truncated { end, .. } if *end > 1 << 50 => "the file is damaged; download it again".into(),
            Error::Truncated { end, len, .. } => {
                format!("the download stopped {} bytes short; run it again, it will resume", end - len)
            }
            Error::Cut { .. } => "the download stopped early, or the file is damaged; download it again".into(),
            Error::Changed { .. } => "wait until the download or conversion is finished".into(),
            Error::NotFirst { first, .. } => format!("the other parts are found by themselves; open {first}"),
            Error::SplitName { .. } => "give the files the names that they were published with".into(),
            Error::MissingPart { .. } => "download all parts into one folder".into(),
            Error::Split { .. } | Error::TensorCount { .. } | Error::InTwoParts { .. } => {
                "the parts belong to different models; download them again, into a folder of their own".into()
            }
            Error::MissingKey { .. } | Error::WrongType { .. } | Error::OutOfRange { .. } => {
                "the file may be of another kind than expected, or converted wrongly".into()
            }
            Error::Invalid { .. } | Error::Duplicate { .. } | Error::Overlap { .. } => {
                "the file is damaged or was converted wrongly; download or convert it again".into()
            }
        }
    }
}

/// What the system said, without its number.
pub fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(reason, _)| reason).to_lowercase()
}

/// `path` for a message: on one line, whatever is in it.
pub fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy(), usize::MAX)
}

/// Text from a file for a message: escaped, and at most 64 characters.
pub fn shorten(text: &str) -> String {
    escape(text, 64)
}

fn escape(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == chars_max => {
                out.push('…');
                break;
            }
            c if is_treacherous(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Control characters, and those that turn around, or hide, what follows.
pub(crate) fn is_treacherous(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    hides || c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_cannot_steer_the_terminal() {
        assert_eq!(shorten("a\x1b[31m\nb\u{202e}"), "a\\u{1b}[31m\\nb\\u{202e}");
        assert_eq!(shorten("größe ▁"), "größe ▁");
        assert_eq!(shorten(&"x".repeat(100)), format!("{}…", "x".repeat(64)));
    }
}
