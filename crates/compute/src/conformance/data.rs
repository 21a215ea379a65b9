//! Random numbers and random weights.

use half::f16;
use quant::Format;

/// Steele, Lea & Flood 2014: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for every seed and every text.
    pub fn new(seed: u64, text: &str) -> Random {
        let mut random = Random(seed);
        text.bytes().for_each(|b| random.0 = random.0.wrapping_add(u64::from(b)) ^ random.bits());
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 11) as usize % n
    }

    /// A number in `-1.0..1.0`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

/// `n` random weights, packed, whose mean square is about 1: random bits with scales that suit the format.
pub fn weights(format: Format, n: usize, random: &mut Random) -> Vec<u8> {
    let trial = fill(format, 16 * format.block_len(), 1.0, random);
    let mut values = vec![0.0; 16 * format.block_len()];
    format.decode(&trial, &mut values);
    let mean = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    fill(format, n, 1.0 / mean.sqrt(), random)
}

fn fill(format: Format, n: usize, scale: f32, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.row_bytes(n).expect("whole blocks")).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let size = scale * (0.75 + 0.25 * random.unit());
        set_scale(format, block, size, random);
    }
    bytes
}

/// Gives a block of random bits the scale `size`, and a minimum that leaves it about as many weights of either sign.
fn set_scale(format: Format, block: &mut [u8], size: f32, random: &mut Random) {
    let mut half = |at: usize, x: f32| block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
    match format {
        Format::F32 => block.copy_from_slice(&(random.unit() * size).to_le_bytes()),
        Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.unit() * size).to_le_bytes()),
        Format::F16 => half(0, random.unit() * size),
        Format::Q4_1 => (half(0, size), half(2, size * -7.5)).1,
        Format::Q5_1 => (half(0, size), half(2, size * -15.5)).1,
        Format::Q4_K => (half(0, size), half(2, size * 7.5)).1,
        Format::Q5_K => (half(0, size), half(2, size * 15.5)).1,
        Format::Q2_K => (half(80, size), half(82, size * 1.5)).1,
        Format::Q3_K => half(108, size),
        Format::Q6_K => half(208, size),
        Format::TQ1_0 => half(52, size),
        Format::TQ2_0 => half(64, size),
        Format::MXFP4 => block[0] = (127.0 + size.log2().round()) as u8,
        Format::IQ1_M => {
            // The scale's four nibbles are the high ones of four words.
            let bits = f16::from_f32(size).to_bits();
            for i in 0..4 {
                let high = &mut block[49 + 2 * i];
                let low = (bits >> (4 * i)) as u8 & 15;
                *high = (*high & 15) | (low << 4);
            }
        }
        _ => half(0, size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_mean_square_near_one() {
        for &format in quant::FORMATS {
            let n = 16 * 256;
            let mut values = vec![0.0; n];
            format.decode(&weights(format, n, &mut Random::new(1, format.name())), &mut values);
            let mean = values.iter().map(|v| v * v).sum::<f32>() / n as f32;
            assert!((0.2..5.0).contains(&mean), "{format:?}: {mean}");
        }
    }
}
