//! Panels with matrix registers (AMX): a block of 16 rows and 16 columns is one product.
//!
//! Rows of a [`WeightBlock`] and quads of a [`ColumnBlock`] are what the registers want as they are: of 16 rows of 32
//! signed bytes and 8 rows of 16 columns of 4 bytes, `tdpbssd` makes 16 x 16 sums. These go through memory, as nothing
//! else leads from matrix to vector registers, and are scaled there; that costs more than the product.

use std::{
    arch::{asm, x86_64::*},
    cell::UnsafeCell,
    sync::OnceLock,
};

use super::{
    BY_16, load_i32, panel,
    panel::{finish, store},
};
use crate::dot::{
    Square,
    panel::{ColumnBlock, Panels, SIDE, WeightBlock},
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

/// Panels whose products are made here, given what unpacks weights.
pub(super) fn panels<const FORM: u8>(unpack: fn(&[u8], usize, &mut [WeightBlock])) -> Panels {
    Panels {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { panel::gather::<0>(x, out) },
        // SAFETY: as above; `enter` comes first.
        chain: |w, x, out| unsafe { chain::<FORM>(w, x, out) },
        // SAFETY: as above.
        sum: |lanes, out| unsafe { panel::sum(lanes, out) },
        enter: enter::<FORM>,
        leave,
        from: 5,
    }
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

/// Registers 0 and 1: sums. 2 and 3: rows of levels, 4 and 5: quads of columns; if [`BY_16`], of half a block.
fn enter<const FORM: u8>() {
    let n_halves = if FORM == BY_16 { 2 } else { 1 };
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..6].copy_from_slice(&[64, 64, 32 / n_halves, 32 / n_halves, 64, 64]);
    config.rows[..6].copy_from_slice(&[16, 16, 16, 16, 8 / n_halves as u8, 8 / n_halves as u8]);
    // SAFETY: a valid description; nothing else on this thread uses these registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
}

fn leave() {
    // SAFETY: frees the registers, so that switches of threads need not save them.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Sums on their way from matrix to vector registers.
#[repr(C, align(64))]
struct Sums([[i32; SIDE]; SIDE]);

/// See [`Panels::chain`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn chain<const FORM: u8>(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square) {
    // Two, so that one is written while the other is read.
    let products = UnsafeCell::new([const { [const { Sums([[0; SIDE]; SIDE]) }; 2] }; 2]);
    let mut sums = [_mm512_setzero_ps(); SIDE];
    let n = w.len().min(x.len());
    for g in 0..=n {
        if g < n {
            // SAFETY: nothing refers to the sums now.
            multiply::<FORM>(&w[g], &x[g], unsafe { &mut (*products.get())[g % 2] });
        }
        if g > 0 {
            // SAFETY: as above.
            let products = unsafe { &(*products.get())[(g - 1) % 2] };
            for r in 0..SIDE {
                let products = products.each_ref().map(|p| load_i32(&p.0[r]));
                sums[r] = finish::<FORM>(sums[r], products, &w[g - 1], r, &x[g - 1]);
            }
        }
    }
    for r in 0..SIDE {
        store(&mut out.0[r], sums[r]);
    }
}

/// The products of a block; those of the second halves are apart if [`BY_16`].
#[inline]
fn multiply<const FORM: u8>(w: &WeightBlock, x: &ColumnBlock, out: &mut [Sums; 2]) {
    let [first, second] = out;
    // SAFETY: `enter` gave the registers their shapes, so that 16 rows of 32 (or 16) bytes, 32 apart, and 8 (or 4) rows of
    // 64 are read, 16 of 64 written. Compilers do not use these registers.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm2, [{w} + {stride_w}]",
            "tileloadd tmm4, [{x} + {stride}]",
            "tdpbssd tmm0, tmm2, tmm4",
            "tilestored [{out} + {stride}], tmm0",
            w = in(reg) &w.q, stride_w = in(reg) 32usize, x = in(reg) &x.x, stride = in(reg) 64usize,
            out = in(reg) first, out("tmm0") _, out("tmm2") _, out("tmm4") _, options(nostack),
        );
        if FORM == BY_16 {
            asm!(
                "tilezero tmm1",
                "tileloadd tmm3, [{w} + {stride_w}]",
                "tileloadd tmm5, [{x} + {stride}]",
                "tdpbssd tmm1, tmm3, tmm5",
                "tilestored [{out} + {stride}], tmm1",
                w = in(reg) w.q.as_ptr().cast::<u8>().add(16), stride_w = in(reg) 32usize, x = in(reg) &x.x[4],
                stride = in(reg) 64usize, out = in(reg) second, out("tmm1") _, out("tmm3") _, out("tmm5") _,
                options(nostack),
            );
        }
    }
}
