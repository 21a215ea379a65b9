//! What llama.cpp's `llama-perplexity --kl-divergence-base` writes.
//!
//! ```text
//! "_logits_" | u32 n_ctx | i32 n_vocab | i32 n_chunk | i32 tokens, n_ctx n_chunk of them
//! then for each position  f32 scale | f32 least | u16 codes, n_vocab and one more if that is odd
//! ln p = scale * code + least; the least is 16 below the largest, or the least there is
//! ```
//!
//! There are no checksums, but the words of a position are all there is: their probabilities add up to 1, as damage may well change.
//! What is not above -16 counts as nothing, as it does there.
//! Source: `perplexity.cpp` of build 11434.

use std::io::Read;

use tokenizer::TokenId;

use super::base::{BaseError, Head, check_sizes, first_bytes, words};

pub(super) const MAGIC: [u8; 8] = *b"_logits_";
const SIZES_BYTES: usize = 12;
const SCALE_BYTES: usize = 8;

/// What is no likelier counts as nothing.
const LN_P_MIN: f32 = -16.0;

/// By how much the sum of all probabilities may miss 1: codes are rounded, and what counts as nothing is missing.
const MISSING: f32 = 0.05;

pub(super) fn row_bytes(n_vocab: usize) -> usize {
    SCALE_BYTES + 2 * n_vocab.next_multiple_of(2)
}

pub(super) fn read_head(input: &mut impl Read, len: u64) -> Result<Head, BaseError> {
    let sizes: [u8; SIZES_BYTES] = first_bytes(input)?;
    let mut sizes = words(&sizes);
    let [n_ctx, n_vocab, n_chunks] = std::array::from_fn(|_| sizes.next().unwrap_or_default() as usize);
    check_sizes([n_vocab, n_ctx, n_chunks], row_bytes, MAGIC.len() + SIZES_BYTES, len)?;
    let mut tokens = vec![0; 4 * n_ctx * n_chunks];
    input.read_exact(&mut tokens)?;
    let tokens: Vec<_> = words(&tokens).collect();
    match tokens.iter().all(|&id| (id as usize) < n_vocab) {
        true => Ok(Head { model: String::new(), n_vocab, n_ctx, tokens }),
        false => Err(BaseError::Field { field: "token" }),
    }
}

/// Decodes a position: `ln p` of every word into `out`, `-ln p` of `next`, and the likeliest word.
pub(super) fn read_row(bytes: &[u8], next: TokenId, out: &mut [f32]) -> Result<(f64, TokenId), BaseError> {
    let (first, codes) = bytes.split_at(SCALE_BYTES);
    let mut first = words(first);
    let [scale, least] = std::array::from_fn(|_| f32::from_bits(first.next().unwrap_or_default()));
    if !scale.is_finite() || !least.is_finite() || scale < 0.0 {
        return Err(BaseError::Field { field: "scale" });
    }
    let codes = codes.as_chunks().0;
    let code = |i: usize| u16::from_le_bytes(codes[i]);
    let ln_p = |code: u16| scale * f32::from(code) + least;
    for (out, code) in out.iter_mut().zip(codes) {
        let ln_p = ln_p(u16::from_le_bytes(*code));
        *out = if ln_p > LN_P_MIN { ln_p } else { f32::NEG_INFINITY };
    }
    let sum: f32 = out.iter().map(|ln_p| ln_p.exp()).sum();
    let is_all = (sum - 1.0).abs() < MISSING;
    if !is_all {
        return Err(BaseError::Field { field: "sum of probabilities" });
    }
    let top = (0..out.len()).fold(0, |top, i| if code(i) > code(top) { i } else { top });
    Ok((-f64::from(ln_p(code(next as usize))), top as TokenId))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::base::Reader, *};

    /// One chunk of four tokens of a vocabulary of three.
    fn example(scale: f32) -> Vec<u8> {
        example_from(scale, -16.5)
    }

    fn example_from(scale: f32, least: f32) -> Vec<u8> {
        let sizes = [4u32, 3, 1, 0, 1, 2, 0];
        let mut bytes = MAGIC.to_vec();
        sizes.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        [scale, least].iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        [0u16, 62_269, 64_000, 0].iter().for_each(|code| bytes.extend(code.to_le_bytes()));
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Reader, BaseError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        Reader::open(file.path())
    }

    #[test]
    fn positions_are_decoded() {
        let mut reader = open(&example(0.00025)).unwrap();
        assert_eq!(reader.head(), &Head { model: "".into(), n_vocab: 3, n_ctx: 4, tokens: vec![0, 1, 2, 0] });
        let found = reader.read(1).unwrap();
        assert_eq!((found.top, found.ln_p[0]), (2, f32::NEG_INFINITY));
        let (one, two) = (-0.93275, -0.5);
        assert!((found.ln_p[1] - one).abs() < 1e-5 && (found.ln_p[2] - two).abs() < 1e-5);
        assert!((found.nll + f64::from(one)).abs() < 1e-5);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |bytes: &[u8], expected: &str| {
            let error = open(bytes).and_then(|mut reader| reader.read(1).map(|_| ())).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let bytes = example(0.00025);
        check(&example(f32::NAN), "has an impossible scale");
        for (scale, least) in [(0.00025, -32.5), (0.0, -16.5), (0.00025, -15.0), (1e35, -16.5), (0.0, 0.0)] {
            check(&example_from(scale, least), "has an impossible sum of probabilities");
        }
        check(&bytes[..bytes.len() - 2], "has 50 bytes, and should have 52");
        let mut wrong = bytes.clone();
        wrong[20] = 3;
        check(&wrong, "has an impossible token");
    }
}
