//! Every kernel against the scalar one, and the scalar ones against `quant`.

use quant::{FORMATS, Format};

use super::{
    Isa, Kernel, LANES, Square, Tile, kernel,
    panel::{COLUMN_PANELS, SIDE},
};
use crate::{
    activation::{Activation, Group},
    memory::Workspace,
};

#[test]
fn every_instruction_set_computes_what_scalar_code_does() {
    for &format in FORMATS {
        for n in lengths(format) {
            let case = Case::new(format, n);
            let expected = (case.kernel(Isa::Scalar).dot)(&case.w, case.row(0));
            for isa in Isa::available() {
                let actual = (case.kernel(isa).dot)(&case.w, case.row(0));
                let error = (actual - expected).abs();
                assert!(error <= 1e-5 * case.magnitude(0), "{format:?} {isa:?} {n}: {actual}, not {expected}");
            }
        }
    }
}

#[test]
fn four_columns_are_four_times_one_column() {
    for &format in FORMATS {
        for n in lengths(format) {
            let case = Case::new(format, n);
            for isa in Isa::available() {
                let Kernel { dot, dot4, .. } = case.kernel(isa);
                let rows = [0, 1, 2, 3].map(|i| case.row(i));
                let one_by_one = rows.map(|x| dot(&case.w, x).to_bits());
                assert_eq!(dot4(&case.w, rows).map(f32::to_bits), one_by_one, "{format:?} {isa:?} {n}");
            }
        }
    }
}

#[test]
fn tiles_are_sixteen_times_one_column() {
    for &format in FORMATS {
        for n in lengths(format) {
            let rows = [0, 1, 2, 3].map(|seed| Case::seeded(format, n, seed));
            for isa in Isa::available() {
                let Kernel { dot, tile: Some(tile), .. } = kernel(format, isa) else { continue };
                let columns = [0, 1, 2, 3].map(|i| rows[0].row(i));
                let unpacked = rows.each_ref().map(|row| unpack(tile, &row.w, n));
                let unpacked = unpacked.each_ref().map(|row| &bytes(row)[..tile.row_bytes(n)]);
                let one_by_one = rows.each_ref().map(|row| columns.map(|x| dot(&row.w, x).to_bits()));
                let tiled = (tile.dot)(unpacked, columns).map(|row| row.map(f32::to_bits));
                assert_eq!(tiled, one_by_one, "{format:?} {isa:?} {n}");
            }
        }
    }
}

#[test]
fn panels_are_many_times_one_column() {
    for &format in FORMATS {
        for n in lengths(format) {
            // The last has several panels of weights, two of columns and one by itself, and ends within panels of both.
            for (n_rows, n_columns) in [(1, 4), (5, 20), (16, 9), (37, 35)] {
                let rows = Rows::new(format, n, n_rows, n_columns);
                Isa::available().for_each(|isa| rows.check(isa));
            }
        }
    }
}

#[test]
fn what_is_infinite_times_nothing_is_no_number_in_panels_either() {
    for &format in FORMATS {
        let n = 2 * format.block_len().max(256);
        let mut rows = Rows::new(format, n, 2, 20);
        let (halves, block) = (halves_of(format), &mut rows.w[0][..format.block_bytes()]);
        halves.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes()));
        let nothing = pack(kernel(format, Isa::Scalar).activation, &vec![0.0; n]);
        rows.columns[8..].fill(nothing);
        for isa in Isa::available() {
            rows.check(isa);
            let product = (kernel(format, isa).dot)(&rows.w[0], bytes(&rows.columns[8]));
            assert!(halves.is_empty() || product.is_nan(), "{format:?} {isa:?}: {product}");
        }
    }
}

#[test]
fn the_largest_sums_overflow_nowhere() {
    for &format in FORMATS {
        let n = 2 * format.block_len().max(256);
        for byte in 0..=255 {
            for scale in scales_beside(format, byte) {
                let case = Case::extreme(format, n, byte, scale);
                let expected = [0, 1, 2, 3].map(|i| (case.kernel(Isa::Scalar).dot)(&case.w, case.row(i)));
                for isa in Isa::available() {
                    let dot = case.kernel(isa).dot;
                    for (i, expected) in expected.iter().enumerate() {
                        let (actual, what) = (dot(&case.w, case.row(i)), (format, isa, byte, scale));
                        let error = (actual - expected).abs();
                        assert!(error <= 1e-5 * case.magnitude(i), "{what:?}: {actual}, not {expected}");
                    }
                    let Case { w, packed, .. } = &case;
                    Rows { format, n, w: vec![w.clone()], columns: packed.clone() }.check(isa);
                }
            }
        }
    }
}

#[test]
fn scalar_code_computes_what_the_format_says() {
    for &format in FORMATS {
        for n in lengths(format) {
            let case = Case::new(format, n);
            for (i, x) in case.x.iter().enumerate() {
                let expected: f64 = case.values.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                let actual = (case.kernel(Isa::Scalar).dot)(&case.w, case.row(i));
                // An activation is off by half a step, and by what its scale lost as f16; f32 sums by less.
                let error = (f64::from(actual) - expected).abs();
                let bound = match case.kernel(Isa::Scalar).activation {
                    Activation::F32 => 1e-5,
                    _ => 0.5 / 127.0 + 1.0 / 1024.0,
                };
                assert!(error <= bound * f64::from(case.magnitude(i)), "{format:?} {n}: {actual}, not {expected}");
            }
        }
    }
}

/// Whole groups, none, and rows that end within one.
fn lengths(format: Format) -> Vec<usize> {
    let blocks: &[usize] = match format.block_len() {
        1 => &[1, 5, 16, 64, 80, 128, 333, 1024],
        2..256 => &[1, 2, 7, 8, 9, 16, 18, 45],
        _ => &[1, 2, 3, 7],
    };
    blocks.iter().map(|n| n * format.block_len()).collect()
}

/// What the bytes that hold scales may be where all levels are `byte`: the same byte, nothing, and the extremes of
/// either sign. Levels at their extreme mean nothing beside scales of 0.
fn scales_beside(format: Format, byte: u8) -> Vec<u8> {
    let mut scales = vec![byte];
    if scales_of(format).next().is_some() {
        scales.extend([0, 0x7f, 0x80, 0xff]);
    }
    scales
}

/// The bytes of a block that hold the scales of its parts, and their minima, or at least some of their bits.
fn scales_of(format: Format) -> impl Iterator<Item = usize> {
    let (bytes, step) = match format {
        Format::Q2_K => (0..16, 1),
        Format::Q3_K => (96..108, 1),
        Format::Q4_K | Format::Q5_K => (4..16, 1),
        Format::Q6_K => (192..208, 1),
        Format::IQ2_XXS => (9..66, 8),
        Format::IQ2_XS => (66..74, 1),
        Format::IQ2_S => (74..82, 1),
        Format::IQ3_XXS => (69..98, 4),
        Format::IQ3_S => (106..110, 1),
        Format::IQ4_XS => (2..8, 1),
        _ => (0..0, 1),
    };
    bytes.step_by(step)
}

/// Rows of weights and of activations, for panels.
struct Rows {
    format: Format,
    n: usize,
    w: Vec<Vec<u8>>,
    columns: Vec<Vec<Group>>, // as the format's kernels want it
}

impl Rows {
    fn new(format: Format, n: usize, n_rows: usize, n_columns: usize) -> Rows {
        let w = (0..n_rows).map(|seed| Case::seeded(format, n, seed as u64).w).collect();
        let columns = (0..n_columns.div_ceil(4)).flat_map(|seed| Case::seeded(format, n, seed as u64).packed);
        Rows { format, n, w, columns: columns.take(n_columns).collect() }
    }

    /// Every product has the bits of [`Kernel::dot`], whether panels of weights are kept or made in passing.
    fn check(&self, isa: Isa) {
        let Kernel { dot, panels: Some(panels), .. } = kernel(self.format, isa) else { return };
        let (w, row_bytes, n) = (self.w.concat(), self.w[0].len(), self.n);
        let columns: Vec<&[Group]> = self.columns.iter().map(|x| &x[..]).collect();
        let mut sums = vec![[Square::ZERO; COLUMN_PANELS * LANES]; self.w.len().div_ceil(SIDE)];
        let unpacked = filled(sums.len() * panels.weight_bytes(n), |out| panels.unpack(n, &w, row_bytes, out));
        let unpacked = &bytes(&unpacked)[..sums.len() * panels.weight_bytes(n)];
        let mut room = Workspace::default();
        for (k, columns) in columns.chunks(COLUMN_PANELS * SIDE).enumerate() {
            let expected: Vec<f32> = columns.iter().flat_map(|x| self.w.iter().map(|w| dot(w, bytes(x)))).collect();
            let x_bytes = columns.len().div_ceil(SIDE) * panels.column_bytes(n);
            let x = filled(x_bytes, |out| {
                let out = out.chunks_exact_mut(panels.column_bytes(n));
                columns.chunks(SIDE).zip(out).for_each(|(columns, out)| panels.gather(columns, out));
            });
            let x = &bytes(&x)[..x_bytes];
            for kept in [true, false] {
                let mut actual = vec![None; expected.len()];
                let emit = |i: usize, j: usize, c: usize, y: &[f32; SIDE]| {
                    let (r, c) = (SIDE * i, SIDE * j + c);
                    let out = actual.chunks_exact_mut(self.w.len()).nth(c).map(|out| &mut out[r..]);
                    out.into_iter().flatten().zip(y).for_each(|(out, &y)| *out = Some(y));
                };
                match kept {
                    true => panels.multiply(n, unpacked, x, &mut sums, &[], emit),
                    false => panels.unpack_and_multiply(n, &w, row_bytes, x, &mut room, &mut sums, &[], emit),
                }
                let wrong = expected.iter().zip(&actual).position(|(e, y)| !y.is_some_and(|y| same(y, *e)));
                let what = (self.format, isa, n, kept);
                if let Some(i) = wrong {
                    let (c, r) = (COLUMN_PANELS * SIDE * k + i / self.w.len(), i % self.w.len());
                    panic!("{what:?}, row {r}, column {c}: {:?}, not {}", actual[i], expected[i]);
                }
            }
        }
    }
}

/// Equal to the bit, where a number is one.
fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}

/// A row of weights and four of activations.
struct Case {
    format: Format,
    w: Vec<u8>,
    values: Vec<f32>,
    x: Vec<Vec<f32>>,
    packed: Vec<Vec<Group>>, // as the format's kernels want it
}

impl Case {
    fn new(format: Format, n: usize) -> Case {
        Case::seeded(format, n, 0)
    }

    fn seeded(format: Format, n: usize, seed: u64) -> Case {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed << 40 ^ (n as u64) << 8 ^ format as u64);
        let mut w: Vec<u8> = (0..n / format.block_len() * format.block_bytes()).map(|_| random.next() as u8).collect();
        w.chunks_exact_mut(format.block_bytes()).for_each(|w| tame(format, w, &mut random));
        let mut values = vec![0.0; n];
        format.decode(&w, &mut values);
        // Columns that are all of one sign are the hardest for sums that subtract an offset.
        let x: Vec<Vec<f32>> = (0..4)
            .map(|i| (0..n).map(|_| if i == 3 { random.unit().abs() } else { random.unit() * 3.0 }).collect())
            .collect();
        let packed = x.iter().map(|x| pack(kernel(format, Isa::Scalar).activation, x)).collect();
        Case { format, w, values, x, packed }
    }

    /// Levels whose bytes are all `byte`, scales whose bytes are all `scale`, and activations as large as they get, of
    /// every sign that makes sums large.
    fn extreme(format: Format, n: usize, byte: u8, scale: u8) -> Case {
        let mut case = Case::new(format, n);
        case.w.fill(byte);
        case.w.chunks_exact_mut(format.block_bytes()).for_each(|w| scales_of(format).for_each(|at| w[at] = scale));
        let mut random = Random(1 + u64::from(byte));
        case.w.chunks_exact_mut(format.block_bytes()).for_each(|w| tame(format, w, &mut random));
        format.decode(&case.w, &mut case.values);
        let signs = case.values.iter().map(|w| 1f32.copysign(*w)).collect::<Vec<f32>>();
        case.x = vec![vec![1.0; n], vec![-1.0; n], signs.clone(), signs.iter().map(|s| -s).collect()];
        case.packed = case.x.iter().map(|x| pack(kernel(format, Isa::Scalar).activation, x)).collect();
        case
    }

    fn kernel(&self, isa: Isa) -> Kernel {
        kernel(self.format, isa)
    }

    fn row(&self, i: usize) -> &[u8] {
        bytes(&self.packed[i])
    }

    /// `sum_j |w[j]| * max|x|`: what rounding errors are in proportion to.
    fn magnitude(&self, i: usize) -> f32 {
        let max = self.x[i].iter().fold(0.0f32, |max, x| max.max(x.abs()));
        self.values.iter().map(|w| w.abs() * max).sum()
    }
}

/// A packed row, on a cache line as groups are.
fn pack(activation: Activation, x: &[f32]) -> Vec<Group> {
    filled(activation.row_bytes(x.len()), |out| activation.pack(x, out))
}

/// An unpacked row of `n` weights, on a cache line.
fn unpack(tile: Tile, w: &[u8], n: usize) -> Vec<Group> {
    filled(tile.row_bytes(n), |out| (tile.unpack)(w, out))
}

/// Groups, of whose bytes the first `n` have been filled.
fn filled(n: usize, fill: impl Fn(&mut [u8])) -> Vec<Group> {
    let mut out = vec![Group::ZERO; n.div_ceil(size_of::<Group>())];
    // SAFETY: a group may be written as bytes.
    fill(unsafe { &mut out.align_to_mut().1[..n] });
    out
}

fn bytes(groups: &[Group]) -> &[u8] {
    // SAFETY: a group is bytes.
    unsafe { groups.align_to().1 }
}

/// Random bytes make infinite scales; these get scales below one.
fn tame(format: Format, w: &mut [u8], random: &mut Random) {
    match format {
        Format::F32 => w.copy_from_slice(&random.unit().to_le_bytes()),
        Format::BF16 => w.copy_from_slice(&half::bf16::from_f32(random.unit()).to_le_bytes()),
        Format::MXFP4 => w[0] = 118 + w[0] % 10,
        Format::IQ1_M => w[55] = w[55] & 15 | 0x30, // the scale's highest bits
        _ => {}
    }
    for &at in halves_of(format) {
        w[at..at + 2].copy_from_slice(&half::f16::from_f32(random.unit()).to_le_bytes());
    }
}

/// Where a block has its scale, and its minimum, as f16.
fn halves_of(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::BF16 | Format::MXFP4 | Format::IQ1_M => &[],
        Format::TQ1_0 => &[52],
        Format::TQ2_0 => &[64],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        _ => &[0],
    }
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 24
    }

    /// In -1.0..1.0.
    fn unit(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / 8_388_608.0 - 1.0
    }
}
