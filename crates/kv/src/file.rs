//! Files of pieces: how they are written, and what is refused. `docs/formats/kv.md` draws them.
//!
//! ```text
//! | head, 208 bytes, with a checksum of its own | ids | table of blobs | bytes of blobs |
//!                                               | ------ checksum in the head ------- |
//! ```
//!
//! A reader trusts nothing: lengths are compared with the file's before they are used, a name with the tokens that it is the
//! hash of, and no byte is handed on whose checksum is wrong.

use std::{mem, ops::Range};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{
    BLOCK, Kind, Name, Piece,
    piece::{BLOBS_MAX, LABEL_BYTES, Slot, fits},
};

/// The format that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"KVPIECE\0";
const HEAD_BYTES: usize = 208;
const SLOT_BYTES: usize = LABEL_BYTES + 16;
const MODEL_BYTES: usize = 56;
const FLAG_LOGITS: u8 = 1;

/// Where in the head the checksum of the head is: of all bytes before.
const HEAD_SUM: usize = HEAD_BYTES - 8;

/// Bytes at the beginning of a file that hold all but the blobs.
pub(crate) const INTRO_BYTES: usize = HEAD_BYTES + 4 * BLOCK;

/// Why a file is no piece that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is too short, or begins with something else.
    #[error("is no piece")]
    Other,
    /// Another program wrote it, which is none of our business.
    #[error("has format {found}, and {VERSION} is known")]
    Version {
        /// Its format.
        found: u32,
    },
    /// The file is shorter or longer than its head says.
    #[error("has {found} bytes, and should have {expected}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes by its head.
        expected: u64,
    },
    /// A checksum is wrong: the file is torn, or bits have flipped.
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
    /// The file is not called as its tokens are.
    #[error("belongs to other tokens than its name says")]
    Name,
}

/// What a file says of itself before its blobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) has_logits: bool,
    pub(crate) n_tokens: u32,
    pub(crate) created_ms: u64,
    pub(crate) root: Name,
    pub(crate) parent: Name,
    pub(crate) model: String,
    pub(crate) ids: Vec<u32>,
    n_blobs: usize,
    data_bytes: u64,
    body_sum: u64,
}

/// Bytes of a piece's file.
pub(crate) fn file_bytes(piece: &Piece) -> u64 {
    (HEAD_BYTES + 4 * piece.ids.len() + SLOT_BYTES * piece.table.len() + piece.data().len()) as u64
}

/// What stands in a piece's file before the bytes of its blobs.
pub(crate) fn intro(piece: &Piece, root: &Name, model: &str, created_ms: u64) -> Vec<u8> {
    let body = body(piece);
    let mut sum = Xxh3::new();
    sum.update(&body);
    sum.update(piece.data());
    let kind = match piece.kind {
        Kind::Rows => 0,
        Kind::Tail => 1,
    };
    let n_blobs = u16::try_from(piece.table.len()).expect("a piece takes no more blobs than that");
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([kind, if piece.has_logits { FLAG_LOGITS } else { 0 }]);
    out.extend(n_blobs.to_le_bytes());
    out.extend(piece.n_tokens.to_le_bytes());
    out.extend((piece.ids.len() as u32).to_le_bytes());
    out.extend((piece.data().len() as u64).to_le_bytes());
    out.extend(created_ms.to_le_bytes());
    [root, &piece.parent, &piece.name()].iter().for_each(|name| out.extend(name.0));
    out.extend(padded_model(model));
    out.extend(sum.digest().to_le_bytes());
    out.extend(xxh3_64(&out).to_le_bytes());
    out.extend(body);
    out
}

/// The ids and the table.
fn body(piece: &Piece) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * piece.ids.len() + SLOT_BYTES * piece.table.len());
    piece.ids.iter().for_each(|id| out.extend(id.to_le_bytes()));
    for slot in &piece.table {
        out.extend(slot.label);
        out.extend([slot.rows, slot.cols].map(u32::to_le_bytes).concat());
        out.extend((slot.range.len() as u64).to_le_bytes());
    }
    out
}

fn padded_model(model: &str) -> [u8; MODEL_BYTES] {
    let mut padded = [0; MODEL_BYTES];
    let text = &model[..model.floor_char_boundary(MODEL_BYTES)];
    padded[..text.len()].copy_from_slice(text.as_bytes());
    padded
}

/// Reads fields of a head, which is long enough for them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("all callers have compared the length");
        self.0 = rest;
        *field
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

impl Head {
    /// What the beginning of a file says that has `file_bytes` and the name `name`: at least its first [`INTRO_BYTES`], or
    /// all of it.
    ///
    /// # Errors
    /// [`Refused`], where nothing of it can be used.
    pub(crate) fn read(intro: &[u8], file_bytes: u64, name: &Name) -> Result<Head, Refused> {
        if intro.len() < 12 || !intro.starts_with(&MAGIC) {
            return Err(Refused::Other);
        }
        let mut fields = Fields(&intro[MAGIC.len()..]);
        match fields.u32() {
            VERSION => {}
            found => return Err(Refused::Version { found }),
        }
        if intro.len() < HEAD_BYTES {
            return Err(Refused::Other);
        }
        if xxh3_64(&intro[..HEAD_SUM]).to_le_bytes() != intro[HEAD_SUM..HEAD_BYTES] {
            return Err(Refused::Checksum { part: "head" });
        }
        let kind = match fields.u8() {
            0 => Kind::Rows,
            1 => Kind::Tail,
            _ => return Err(Refused::Field { field: "kind" }),
        };
        let flags = fields.u8();
        let n_blobs = usize::from(u16::from_le_bytes(fields.take()));
        let (n_tokens, n_ids) = (fields.u32(), fields.u32() as usize);
        let (data_bytes, created_ms) = (fields.u64(), fields.u64());
        let [root, parent, named] = [(); 3].map(|()| Name(fields.take()));
        let model = String::from_utf8_lossy(&fields.take::<MODEL_BYTES>()).trim_end_matches('\0').to_owned();
        let body_sum = fields.u64();
        if flags & !FLAG_LOGITS != 0 {
            return Err(Refused::Field { field: "flag" });
        }
        if n_blobs > BLOBS_MAX || !fits(kind, n_tokens, n_ids) {
            return Err(Refused::Field { field: "length" });
        }
        let fixed = (HEAD_BYTES + 4 * n_ids + SLOT_BYTES * n_blobs) as u64;
        let expected = fixed.saturating_add(data_bytes);
        if file_bytes != expected || intro.len() < HEAD_BYTES + 4 * n_ids {
            return Err(Refused::Length { found: file_bytes, expected });
        }
        let ids = intro[HEAD_BYTES..][..4 * n_ids].chunks_exact(4).map(|id| Fields(id).u32()).collect::<Vec<_>>();
        if named != *name || Name::of(kind, &parent, &ids) != *name {
            return Err(Refused::Name);
        }
        let has_logits = flags & FLAG_LOGITS != 0;
        Ok(Head { kind, has_logits, n_tokens, created_ms, root, parent, model, ids, n_blobs, data_bytes, body_sum })
    }

    fn body(&self) -> usize {
        HEAD_BYTES + 4 * self.ids.len()
    }

    /// Where the blobs are in the file `bytes`, of the length that the head says.
    fn table(&self, bytes: &[u8]) -> Result<Vec<Slot>, Refused> {
        let (table, data) = bytes[self.body()..].split_at(SLOT_BYTES * self.n_blobs);
        let (mut start, mut rest) = (bytes.len() - data.len(), self.data_bytes);
        let slots = table.chunks_exact(SLOT_BYTES).map(|slot| {
            let mut fields = Fields(slot);
            let (label, rows, cols, n_bytes) = (fields.take(), fields.u32(), fields.u32(), fields.u64());
            rest = rest.checked_sub(n_bytes).ok_or(Refused::Field { field: "blob" })?;
            let range: Range<usize> = start..start + n_bytes as usize;
            start = range.end;
            match is_label(&label) {
                true => Ok(Slot { label, rows, cols, range }),
                false => Err(Refused::Field { field: "label" }),
            }
        });
        let slots = slots.collect::<Result<_, _>>()?;
        if rest > 0 { Err(Refused::Field { field: "blob" }) } else { Ok(slots) }
    }
}

/// Whether it is text, and after its first zero nothing but zeros.
fn is_label(label: &[u8; LABEL_BYTES]) -> bool {
    let mut parts = label.splitn(2, |&c| c == 0);
    parts.next().is_some_and(|text| str::from_utf8(text).is_ok()) && parts.flatten().all(|&c| c == 0)
}

/// The piece in a whole file of that name, and its head.
///
/// # Errors
/// [`Refused`], if any byte is not as it was written.
pub(crate) fn read(bytes: Vec<u8>, name: &Name) -> Result<(Head, Piece), Refused> {
    let mut head = Head::read(&bytes, bytes.len() as u64, name)?;
    if xxh3_64(&bytes[HEAD_BYTES..]) != head.body_sum {
        return Err(Refused::Checksum { part: "contents" });
    }
    let table = head.table(&bytes)?;
    let ids = mem::take(&mut head.ids);
    let Head { kind, parent, n_tokens, has_logits, .. } = head;
    Ok((head, Piece { kind, parent, n_tokens, ids, has_logits, table, bytes }))
}

/// Makes the checksums of a file's bytes what they should be.
#[cfg(test)]
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = xxh3_64(&bytes[HEAD_BYTES..]);
    bytes[HEAD_SUM - 8..HEAD_SUM].copy_from_slice(&sum.to_le_bytes());
    let sum = xxh3_64(&bytes[..HEAD_SUM]);
    bytes[HEAD_SUM..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    fn root() -> Name {
        Name::root(b"model", b"1")
    }

    fn small() -> (Name, Vec<u8>) {
        let mut piece = Piece::tail(root(), 2, &[7, 8]).with_logits();
        piece.push("f16", 1, 2, &[1, 2, 3, 4]);
        piece.push("f32", 1, 1, &[5, 6, 7, 8]);
        (piece.name(), whole(&piece))
    }

    fn whole(piece: &Piece) -> Vec<u8> {
        let bytes = [&intro(piece, &root(), "a model", 1000), piece.data()].concat();
        assert_eq!(bytes.len() as u64, file_bytes(piece));
        bytes
    }

    /// The file with other bytes at a place of its head, and the head's checksum as it should be.
    fn forged(at: usize, with: &[u8]) -> Refused {
        let (name, mut bytes) = small();
        bytes[at..at + with.len()].copy_from_slice(with);
        seal(&mut bytes);
        read(bytes, &name).expect_err("forged")
    }

    #[test]
    fn pieces_come_back_as_they_were_written() {
        let ids: Vec<u32> = (0..256).collect();
        let mut rows = Piece::rows(root(), 256, &ids);
        rows.push("fp8", 3, 1, &[1, 2, 3]);
        rows.push("nothing", 0, 0, &[]);
        for piece in [rows, Piece::tail(root().then(&ids), 256, &[])] {
            let (head, read) = read(whole(&piece), &piece.name()).unwrap_or_else(|e| panic!("{e}"));
            assert!(read.blobs().eq(piece.blobs()) && read.data() == piece.data());
            let told = |p: &Piece| (p.kind, p.parent, p.n_tokens, p.ids.clone(), p.has_logits);
            assert_eq!(told(&read), told(&piece));
            assert_eq!((head.root, head.model.as_str(), head.created_ms), (root(), "a model", 1000));
            assert_eq!(whole(&read), whole(&piece), "what was read can be written again");
        }
    }

    #[test]
    fn the_format_is_the_drawn_one() {
        let (_, bytes) = small();
        let line = |range: Range<usize>| bytes[range].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        expect!["4b 56 50 49 45 43 45 00 01 00 00 00 01 01 02 00 02 00 00 00 02 00 00 00 08 00 00 00 00 00 00 00 e8 03 00 00 00 00 00 00"]
            .assert_eq(&line(0..40));
        expect!["07 00 00 00 08 00 00 00 66 31 36 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 02 00 00 00 04 00 00 00 00 00 00 00 66 33 32 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00 00 04 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08"]
            .assert_eq(&line(208..288));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let (name, bytes) = small();
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(bytes, &name).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn any_other_length_is_refused() {
        let (name, bytes) = small();
        for n in 0..bytes.len() {
            assert!(read(bytes[..n].to_vec(), &name).is_err(), "{n} bytes");
        }
        assert_eq!(read([bytes, vec![0]].concat(), &name), Err(Refused::Length { found: 289, expected: 288 }));
    }

    #[test]
    fn a_file_under_another_name_is_refused() {
        let (name, bytes) = small();
        assert_eq!(read(bytes, &name.tail(&[])), Err(Refused::Name));
    }

    #[test]
    fn fields_that_cannot_be_are_refused_whatever_the_checksum_says() {
        assert_eq!(forged(8, &2u32.to_le_bytes()), Refused::Version { found: 2 });
        assert_eq!(forged(12, &[2]), Refused::Field { field: "kind" });
        assert_eq!(forged(12, &[0]), Refused::Field { field: "length" });
        assert_eq!(forged(13, &[3]), Refused::Field { field: "flag" });
        assert_eq!(forged(14, &[255, 255]), Refused::Field { field: "length" });
        assert_eq!(forged(16, &[3]), Refused::Field { field: "length" });
        assert_eq!(forged(20, &[255; 4]), Refused::Field { field: "length" });
        assert_eq!(forged(24, &[255; 8]), Refused::Length { found: 288, expected: u64::MAX });
        assert_eq!(forged(72, &[0]), Refused::Name);
        assert_eq!(forged(104, &[0]), Refused::Name);
        assert_eq!(forged(208, &[6]), Refused::Name);
        assert_eq!(forged(216, &[255]), Refused::Field { field: "label" });
        assert_eq!(forged(220, b"x"), Refused::Field { field: "label" });
        assert_eq!(forged(240, &[5]), Refused::Field { field: "blob" });
        assert_eq!(forged(240, &[255; 8]), Refused::Field { field: "blob" });
        assert_eq!(forged(240, &[3]), Refused::Field { field: "blob" });
    }

    #[test]
    fn names_of_models_are_cut_between_characters() {
        let long = format!("{}ä", "m".repeat(55));
        assert_eq!(padded_model(&long), *format!("{}\0", "m".repeat(55)).as_bytes());
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), with_head in 0_usize..208) {
            let (name, whole) = small();
            let mut bytes = bytes;
            bytes.splice(..0, whole[..with_head].iter().copied());
            prop_assert!(read(bytes, &name).is_err());
        }
    }
}
