//! What packing costs is what each format's file says.

use proptest::prelude::*;
use quant::{FORMATS, Format};

/// Room for the roundings of f32 that the stated errors leave out.
const SLACK: f64 = 1.001;

/// 256 values of one size, as far as scales are within f16, some of them much smaller or 0.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let value = (-1f32..=1.0, 0..4i32).prop_map(|(v, power)| if power == 3 { 0.0 } else { v.powi(2 * power + 1) });
    (prop::collection::vec(value, 256), -150..16i32).prop_map(|(values, exponent)| {
        values.into_iter().map(|v| (f64::from(v) * 2f64.powi(exponent)) as f32).collect()
    })
}

fn packed(format: Format, x: &[f32]) -> Option<Vec<f32>> {
    let mut bytes = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    format.encoder()?(x, None, &mut bytes);
    let mut y = vec![0.0; x.len()];
    format.decode(&bytes, &mut y);
    Some(y)
}

proptest! {
    #[test]
    fn packing_stays_within_the_stated_error(x in values()) {
        for &format in FORMATS {
            let Some(y) = packed(format, &x) else { continue };
            for (x, y) in x.chunks(format.block_len()).zip(y.chunks(format.block_len())) {
                let error_max = format.error_max(x).expect("formats with an encoder state their error");
                for (x, y) in x.iter().zip(y) {
                    let error = (f64::from(*x) - f64::from(*y)).abs();
                    prop_assert!(error <= SLACK * f64::from(error_max), "{format:?}: {x} became {y}");
                }
            }
        }
    }

    #[test]
    fn any_number_can_be_packed(x in prop::collection::vec(prop::num::f32::ANY, 256)) {
        for &format in FORMATS {
            packed(format, &x);
        }
    }

    #[test]
    fn any_bytes_can_be_unpacked(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for &format in FORMATS {
            let blocks = bytes.len() / format.block_bytes();
            format.decode(&bytes[..blocks * format.block_bytes()], &mut vec![0.0; blocks * format.block_len()]);
        }
    }
}
