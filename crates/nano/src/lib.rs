//! Nano: the small model that the program carries, so that it answers before anything is downloaded.
//!
//! A DeepSeek V4 in every part of its structure, trained for this project; the folder `nano` at the root of the
//! repository has the training, what it was trained on, and how good it is.

#![forbid(unsafe_code)]

/// The model. It is called what its file would be.
pub const NANO: gguf::Inside = gguf::Inside { name: "nano", bytes: &ALIGNED.bytes };

/// Tensors lie at multiples of the file's alignment, so the file has to begin at one.
#[repr(C, align(64))]
struct Aligned<B: ?Sized> {
    bytes: B,
}

static ALIGNED: &Aligned<[u8]> = &Aligned { bytes: *include_bytes!("../nano.gguf") };
