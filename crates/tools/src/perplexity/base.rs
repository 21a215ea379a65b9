//! Files of what a model made of a text, word by word and position by position, for others to be compared with.
//! `docs/formats/base.md` draws them.
//!
//! ```text
//! | head: sizes, model, tokens | checksum |, then for each position | likeliest word | nll | a code per word | checksum |
//! ```
//!
//! A code is the square root of `-ln p`, in steps of one part in 65,534 of the root of 40. So `ln p` is known to 1e-5 where
//! `p = 0.99`, to 1e-4 at `e^-1` and to 4e-4 at `e^-16`, where llama.cpp's equal steps end and are 1.2e-4 throughout: what is
//! likely counts most. The divergence of a model from its own file is below 1e-7.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::Path,
};

use tokenizer::TokenId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{foreign, n_scored, row::Row};

/// The format that is written, and the only one of ours that is read.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"LOGPROBS";
const SIZES_BYTES: usize = 28;
const SUM_BYTES: usize = 8;

/// Bytes of a position before its codes.
const TOP_BYTES: usize = 8;

/// What is less likely is written as this likely.
const NLL_MAX: f32 = 40.0;

/// The largest code of a word that can be, and the one of a word that cannot.
const CODE_MAX: u16 = u16::MAX - 1;
const NEVER: u16 = u16::MAX;

/// Why a file cannot be compared with.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// It cannot be read.
    #[error("{}", .0.to_string().to_lowercase())]
    Io(#[from] io::Error),
    /// It is too short, or begins with something else.
    #[error("is no file of log-probabilities")]
    Other,
    /// Another version wrote it.
    #[error("has format {found}, and {VERSION} is known")]
    Version {
        /// Its format.
        found: u32,
    },
    /// It is shorter or longer than its head says.
    #[error("has {found} bytes, and should have {expected}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes by its head.
        expected: u64,
    },
    /// The file is torn, or bits have flipped.
    #[error("has a wrong checksum of its {part}")]
    Checksum {
        /// The part that is damaged.
        part: &'static str,
    },
    /// A field holds what it cannot.
    #[error("has an impossible {field}")]
    Field {
        /// The field.
        field: &'static str,
    },
}

/// What a base is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The model, for people; empty where nobody has said.
    pub model: String,
    /// Words of its vocabulary.
    pub n_vocab: usize,
    /// Tokens of a chunk.
    pub n_ctx: usize,
    /// The text's tokens, whole chunks.
    pub tokens: Vec<TokenId>,
}

impl Head {
    /// Chunks of the text.
    pub fn n_chunks(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Bytes of a file with this head.
    pub fn file_bytes(&self) -> u64 {
        let n_rows = (self.n_chunks() * n_scored(self.n_ctx)) as u64;
        (self.to_bytes().len() + SUM_BYTES) as u64 + n_rows * row_bytes(self.n_vocab) as u64
    }

    fn to_bytes(&self) -> Vec<u8> {
        let sizes = [self.n_vocab, self.n_ctx, self.n_chunks(), self.model.len()];
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        sizes.iter().for_each(|&n| out.extend((n as u32).to_le_bytes()));
        out.extend(self.model.as_bytes());
        self.tokens.iter().for_each(|id| out.extend(id.to_le_bytes()));
        out
    }
}

fn row_bytes(n_vocab: usize) -> usize {
    TOP_BYTES + 2 * n_vocab + SUM_BYTES
}

/// A base that is being written.
pub struct Writer<W> {
    out: W,
    n_rows: u64,
    bytes: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn create(mut out: W, head: &Head) -> io::Result<Writer<W>> {
        let bytes = head.to_bytes();
        out.write_all(&bytes)?;
        out.write_all(&xxh3_64(&bytes).to_le_bytes())?;
        Ok(Writer { out, n_rows: 0, bytes })
    }

    /// Appends a position, behind which the text goes on with `next`.
    pub(crate) fn write(&mut self, row: &Row, next: TokenId) -> io::Result<()> {
        self.bytes.clear();
        self.bytes.extend(row.top().to_le_bytes());
        self.bytes.extend((row.nll(next) as f32).to_le_bytes());
        let first = self.bytes.len();
        self.bytes.resize(first + 2 * row.n_vocab(), 0);
        row.of_each(self.bytes[first..].as_chunks_mut().0, |nll| code(nll).to_le_bytes());
        self.out.write_all(&self.bytes)?;
        self.out.write_all(&xxh3_64_with_seed(&self.bytes, self.n_rows).to_le_bytes())?;
        self.n_rows += 1;
        Ok(())
    }

    /// Gives back where it was written.
    pub fn into_inner(self) -> W {
        self.out
    }
}

/// The code of a word.
#[inline(always)]
fn code(nll: f32) -> u16 {
    /// A number whose last digit is 1, so that adding it rounds to whole ones, which are then its lowest bits.
    const ROUNDING: f32 = 8_388_608.0;
    let least = if nll > 0.0 { nll } else { 0.0 };
    let bounded = if least < NLL_MAX { least } else { NLL_MAX };
    let root = bounded.sqrt() * (f32::from(CODE_MAX) / NLL_MAX.sqrt());
    let code = (root + ROUNDING).to_bits() as u16;
    if nll == f32::INFINITY { NEVER } else { code }
}

/// `ln p` of a code.
#[inline(always)]
fn ln_p(code: u16) -> f32 {
    let root = f32::from(code) * (NLL_MAX.sqrt() / f32::from(CODE_MAX));
    if code == NEVER { f32::NEG_INFINITY } else { -(root * root) }
}

/// What a base says of a position.
pub(crate) struct Expected<'a> {
    /// `ln p` of every word, each up to a common summand.
    pub(crate) ln_p: &'a [f32],
    /// `-ln p` of the word that follows in the text.
    pub(crate) nll: f64,
    /// The likeliest word.
    pub(crate) top: TokenId,
}

/// A base that is read, from its first position to its last: one of ours, or one that llama.cpp's `llama-perplexity` has written.
pub struct Reader {
    input: BufReader<File>,
    head: Head,
    is_foreign: bool,
    n_rows: u64,
    bytes: Vec<u8>,
    ln_p: Vec<f32>,
}

impl Reader {
    /// Opens a file and reads its head.
    ///
    /// # Errors
    /// Why it cannot be compared with.
    pub fn open(path: &Path) -> Result<Reader, BaseError> {
        // Whoever opened a pipe would wait for somebody to fill it.
        if !fs::metadata(path)?.is_file() {
            return Err(BaseError::Other);
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        let magic: [u8; 8] = first_bytes(&mut input)?;
        let is_foreign = magic == foreign::MAGIC;
        let (head, row_bytes) = match magic {
            MAGIC => (read_head(&mut input, len)?, row_bytes as fn(usize) -> usize),
            foreign::MAGIC => (foreign::read_head(&mut input, len)?, foreign::row_bytes as fn(usize) -> usize),
            _ => return Err(BaseError::Other),
        };
        let (bytes, ln_p) = (vec![0; row_bytes(head.n_vocab)], vec![0.0; head.n_vocab]);
        Ok(Reader { input, head, is_foreign, n_rows: 0, bytes, ln_p })
    }

    /// What it is about.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next position, behind which the text goes on with `next`.
    pub(crate) fn read(&mut self, next: TokenId) -> Result<Expected<'_>, BaseError> {
        self.input.read_exact(&mut self.bytes)?;
        let row = self.n_rows;
        self.n_rows += 1;
        let (nll, top) = match self.is_foreign {
            true => foreign::read_row(&self.bytes, next, &mut self.ln_p)?,
            false => read_row(&self.bytes, row, &mut self.ln_p)?,
        };
        Ok(Expected { ln_p: &self.ln_p, nll, top })
    }
}

/// The bytes that a head begins with.
pub(super) fn first_bytes<const N: usize>(input: &mut impl Read) -> Result<[u8; N], BaseError> {
    let mut bytes = [0; N];
    match input.read_exact(&mut bytes) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(BaseError::Other),
        other => Ok(other.map(|()| bytes)?),
    }
}

/// Numbers of 32 bits, one behind the other.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word))
}

/// Checks sizes before anything is allocated by them: a file that has `beside` bytes beside tokens and rows, and `len` in all.
pub(super) fn check_sizes(
    [n_vocab, n_ctx, n_chunks]: [usize; 3],
    row_bytes: fn(usize) -> usize,
    beside: usize,
    len: u64,
) -> Result<(), BaseError> {
    let fields =
        [("vocabulary", n_vocab > 0), ("context", n_ctx >= super::N_CTX_MIN), ("number of chunks", n_chunks > 0)];
    if let Some(&(field, _)) = fields.iter().find(|(_, possible)| !possible) {
        return Err(BaseError::Field { field });
    }
    // Each of them has 32 bits.
    let chunk_bytes = 4 * n_ctx as u128 + n_scored(n_ctx) as u128 * row_bytes(n_vocab) as u128;
    let expected = u64::try_from(beside as u128 + n_chunks as u128 * chunk_bytes);
    let expected = expected.map_err(|_| BaseError::Field { field: "size" })?;
    match expected == len {
        true => Ok(()),
        false => Err(BaseError::Length { found: len, expected }),
    }
}

fn read_head(input: &mut impl Read, len: u64) -> Result<Head, BaseError> {
    let sizes: [u8; SIZES_BYTES - MAGIC.len()] = first_bytes(input)?;
    let mut fields = words(&sizes);
    let found = fields.next().unwrap_or_default();
    if found != VERSION {
        return Err(BaseError::Version { found });
    }
    let [n_vocab, n_ctx, n_chunks, n_model] = std::array::from_fn(|_| fields.next().unwrap_or_default() as usize);
    check_sizes([n_vocab, n_ctx, n_chunks], row_bytes, SIZES_BYTES + n_model + SUM_BYTES, len)?;
    let mut bytes = vec![0; SIZES_BYTES + n_model + 4 * n_ctx * n_chunks + SUM_BYTES];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..SIZES_BYTES].copy_from_slice(&sizes);
    input.read_exact(&mut bytes[SIZES_BYTES..])?;
    let bytes = checked(&bytes, xxh3_64, "head")?;
    let (model, tokens) = bytes[SIZES_BYTES..].split_at(n_model);
    let model = String::from_utf8_lossy(model).into_owned();
    let tokens = words(tokens).collect();
    Ok(Head { model, n_vocab, n_ctx, tokens })
}

fn read_row(bytes: &[u8], row: u64, out: &mut [f32]) -> Result<(f64, TokenId), BaseError> {
    let bytes = checked(bytes, |bytes| xxh3_64_with_seed(bytes, row), "positions")?;
    let (first, codes) = bytes.split_at(TOP_BYTES);
    let mut first = words(first);
    let [top, nll] = std::array::from_fn(|_| first.next().unwrap_or_default());
    if top as usize >= out.len() {
        return Err(BaseError::Field { field: "word" });
    }
    let codes = codes.as_chunks().0.iter().map(|code| u16::from_le_bytes(*code));
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = ln_p(code));
    Ok((f64::from(f32::from_bits(nll)), top))
}

/// The bytes before a checksum that is right.
fn checked<'a>(bytes: &'a [u8], sum: impl Fn(&[u8]) -> u64, part: &'static str) -> Result<&'a [u8], BaseError> {
    let (bytes, expected) = bytes.split_at(bytes.len() - SUM_BYTES);
    match sum(bytes).to_le_bytes() == expected {
        true => Ok(bytes),
        false => Err(BaseError::Checksum { part }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: [TokenId; 8] = [0, 1, 2, 3, 4, 3, 2, 1];

    fn logits(seed: usize) -> [f32; 5] {
        std::array::from_fn(|i| ((i * 7 + seed * 3) % 11) as f32 - 3.0)
    }

    /// Two chunks of four tokens: one position each.
    fn example() -> Vec<u8> {
        let head = Head { model: "a model".into(), n_vocab: 5, n_ctx: 4, tokens: TEXT.into() };
        let mut writer = Writer::create(Vec::new(), &head).unwrap();
        for (seed, next) in [(0, 3), (1, 1)] {
            writer.write(&Row::new(&logits(seed)), next).unwrap();
        }
        let bytes = writer.into_inner();
        assert_eq!(bytes.len() as u64, head.file_bytes());
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Reader, BaseError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        Reader::open(file.path())
    }

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(open(bytes).err().unwrap().to_string(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut reader = open(&example()).unwrap();
        assert_eq!((reader.head().model.as_str(), reader.head().n_chunks()), ("a model", 2));
        assert_eq!(reader.head().tokens, TEXT);
        for (seed, next) in [(0, 3), (1, 1)] {
            let logits = logits(seed);
            let row = Row::new(&logits);
            let found = reader.read(next).unwrap();
            assert_eq!((found.top, found.nll as f32), (row.top(), row.nll(next) as f32));
            let near = |id: usize| (found.ln_p[id] + row.nll(id as u32) as f32).abs() < 4e-4;
            assert!((0..5).all(near));
            assert!(row.divergence_from(found.ln_p) < 1e-7);
        }
        assert!(reader.read(0).is_err(), "there are two");
    }

    #[test]
    fn codes_are_as_exact_as_they_should_be() {
        for (p, error) in [(0.99f64, 2e-5), (0.37, 1e-4), (1e-7, 4e-4), (1e-17, 7e-4)] {
            let nll = -p.ln() as f32;
            assert!((ln_p(code(nll)) + nll).abs() < error, "{p}");
        }
        assert_eq!([0.0, -1e-7, 39.9999, 40.0, 1e9, f32::INFINITY].map(code), [0, 0, 65534, 65534, 65534, 65535]);
        assert_eq!(ln_p(NEVER), f32::NEG_INFINITY);
        assert!((0..=CODE_MAX).all(|c| code(-ln_p(c)) == c));
    }

    #[test]
    fn files_that_are_not_what_they_were_are_refused() {
        let bytes = example();
        check(b"", "is no file of log-probabilities");
        check(&bytes[..20], "is no file of log-probabilities");
        check(&[&b"GGUF"[..], &bytes[4..]].concat(), "is no file of log-probabilities");
        check(&bytes[..bytes.len() - 1], "has 126 bytes, and should have 127");
        check(&[&bytes[..], b"x"].concat(), "has 128 bytes, and should have 127");
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            bytes
        };
        check(&with(8, 2), "has format 2, and 1 is known");
        check(&with(12, 0), "has an impossible vocabulary");
        check(&with(16, 1), "has an impossible context");
        check(&with(20, 0), "has an impossible number of chunks");
        check(&with(15, 0xff), "has 127 bytes, and should have 17112760447");
        check(&with(30, b'M'), "has a wrong checksum of its head");
        check(&with(36, 9), "has a wrong checksum of its head");
        let mut torn = open(&with(bytes.len() - 20, 1)).unwrap();
        assert!(torn.read(3).is_ok());
        assert_eq!(torn.read(1).err().unwrap().to_string(), "has a wrong checksum of its positions");
    }

    #[test]
    fn sizes_that_no_file_has_take_no_memory() {
        let mut bytes = example();
        bytes[12..28].fill(0xff);
        check(&bytes, "has an impossible size");
    }
}
