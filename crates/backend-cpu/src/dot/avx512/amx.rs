//! Panels with matrix registers (AMX): a block of 16 rows and 16 columns is one product.
//!
//! Rows of a [`WeightBlock`] and quads of a [`ColumnBlock`] are what the registers want as they are: of 16 rows of 32
//! signed bytes and 8 rows of 16 columns of 4 bytes, `tdpbssd` makes 16 x 16 sums. These go through memory, as nothing
//! else leads from matrix to vector registers, and are scaled there; that costs more than the product.

use std::{
    arch::{asm, x86_64::*},
    mem::MaybeUninit,
    sync::OnceLock,
};

use super::{
    BY_16, load_i32, panel,
    panel::{finish, store},
};
use crate::dot::{
    Square,
    panel::{ColumnBlock, Lanes, Panels, SIDE, WeightBlock},
};

/// Whether this machine has matrix registers of bytes, and the system lets this process use them.
pub(in crate::dot) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_bytes() && is_permitted())
}

/// Leaf 7: bit 24 says that there are matrix registers, bit 25 that they multiply bytes.
fn has_bytes() -> bool {
    let leaf = __cpuid_count(7, 0);
    __cpuid(0).eax >= 7 && leaf.edx >> 24 & 3 == 3
}

/// Linux gives the registers, 8 KiB that every switch of threads has to save, to processes that ask.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: a request that changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Panels whose products are made here, given what unpacks weights. Their levels have one factor per block of 32: a
/// matrix register adds up the whole block.
pub(super) fn panels<const FORM: u8>(unpack: fn(&[u8], usize, &mut [WeightBlock])) -> Panels {
    const { assert!(FORM != BY_16, "halves of blocks have one sum") };
    Panels::Lanes(Lanes {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { panel::gather::<0>(x, out) },
        // SAFETY: as above; a thread runs `enter` before its first product.
        chain: |w, x, out| unsafe { chain::<FORM>(w, x, out) },
        // SAFETY: as above.
        chain2: |w, x, out| x.into_iter().zip(out).for_each(|(x, out)| unsafe { chain::<FORM>(w, x, out) }),
        // SAFETY: as above.
        sum: |lanes| unsafe { panel::sum(lanes) },
        enter: || enter([32, 64], [16, 8]),
        leave,
        from: 5,
    })
}

/// What `ldtilecfg` reads: which matrix register has how many rows of how many bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Gives the registers their shapes. 0 to 3: sums. 4 and 5: rows of levels, 6 and 7: quads of columns.
pub(super) fn enter(row_bytes: [u16; 2], rows: [u8; 2]) {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].copy_from_slice(&[64, 64, 64, 64, row_bytes[0], row_bytes[0], row_bytes[1], row_bytes[1]]);
    config.rows[..8].copy_from_slice(&[16, 16, 16, 16, rows[0], rows[0], rows[1], rows[1]]);
    // SAFETY: a valid description; nothing else on this thread uses these registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
}

/// Frees the registers, so that switches of threads need not save them.
pub(super) fn leave() {
    // SAFETY: nothing uses the registers now.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Integers on their way from matrix to vector registers: of 16 rows, their products with 16 columns.
#[repr(C, align(64))]
pub(super) struct Products(pub(super) [[i32; SIDE]; SIDE]);

/// Blocks under way: a block's sums are stored long before they are read, as all of loading, multiplying and storing
/// takes more than a hundred cycles.
const AHEAD: usize = 4;

/// See [`Lanes::chain`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn chain<const FORM: u8>(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square) {
    let mut products = [const { MaybeUninit::<Products>::uninit() }; AHEAD];
    let mut sums = [_mm512_setzero_ps(); SIDE];
    let n = w.len().min(x.len());
    for g in 0..n + AHEAD - 1 {
        if g < n {
            let out = &mut products[g % AHEAD];
            match g % 2 {
                0 => multiply_block::<0>(&w[g], &x[g], out),
                _ => multiply_block::<1>(&w[g], &x[g], out),
            }
        }
        if let Some(g) = g.checked_sub(AHEAD - 1) {
            // SAFETY: written when `g` was multiplied.
            let products = unsafe { products[g % AHEAD].assume_init_ref() };
            for r in 0..SIDE {
                sums[r] = finish::<FORM>(sums[r], [load_i32(&products.0[r]); 2], &w[g], r, &x[g]);
            }
        }
    }
    for r in 0..SIDE {
        store(&mut out.0[r], sums[r]);
    }
}

/// Matrix registers to zeros.
macro_rules! zero {
    ($($register:tt),+) => {
        $(std::arch::asm!(concat!("tilezero ", $register), out($register) _, options(nostack, nomem)));+
    };
}

/// A matrix register from memory, rows of 64 bytes, or of as many as `$stride` says.
macro_rules! load {
    ($register:tt, $from:expr) => {
        $crate::dot::avx512::amx::load!($register, $from, 64)
    };
    ($register:tt, $from:expr, $stride:literal) => {
        std::arch::asm!(
            concat!("tileloadd ", $register, ", [{from} + {stride}]"),
            from = in(reg) $from, stride = in(reg) $stride as usize,
            out($register) _, options(nostack, readonly),
        )
    };
}

/// Adds the product of rows of levels and quads of columns.
macro_rules! multiply {
    ($sums:tt, $rows:tt, $columns:tt) => {
        std::arch::asm!(
            concat!("tdpbssd ", $sums, ", ", $rows, ", ", $columns),
            out($sums) _, options(nostack, nomem),
        )
    };
}

/// A matrix register to a `MaybeUninit`, rows of 64 bytes.
macro_rules! store_tile {
    ($register:tt, $to:expr) => {
        std::arch::asm!(
            concat!("tilestored [{to} + {stride}], ", $register),
            to = in(reg) $to.as_mut_ptr(), stride = in(reg) 64usize, options(nostack),
        )
    };
}

pub(super) use {load, multiply, store_tile, zero};

/// The products of a block. `TURN` takes other registers, so that two are under way.
#[inline]
fn multiply_block<const TURN: u8>(w: &WeightBlock, x: &ColumnBlock, out: &mut MaybeUninit<Products>) {
    macro_rules! product {
        ($sums:tt, $rows:tt, $columns:tt) => {
            zero!($sums);
            load!($rows, &w.q, 32);
            load!($columns, &x.x);
            multiply!($sums, $rows, $columns);
            store_tile!($sums, out);
        };
    }
    // SAFETY: `enter([32, 64], [16, 8])` ran on this thread, as `Lanes::enter` of `panels`, so that 16 rows of 32 bytes
    // and 8 of 64 are read, which `q` and `x` are, and 16 of 64 written, which `out` is. Compilers do not use these
    // registers.
    unsafe {
        match TURN {
            0 => {
                product!("tmm0", "tmm4", "tmm6");
            }
            _ => {
                product!("tmm1", "tmm5", "tmm7");
            }
        }
    }
}
