//! The suite itself: does it pass what is right, and does it notice what is wrong?

use std::sync::Mutex;

use super::*;
use crate::{Attention, Bank, DeviceError, HostBytes, Memory, Rope, Step};

#[test]
fn the_reference_is_right_and_does_not_care_about_cuts() {
    let failures = check(&[&Reference], Promise::Bits, 1);
    assert!(failures.is_empty(), "{}", failures[0]);
}

#[test]
fn a_wrong_device_is_noticed() {
    for (fault, operation) in [
        (Fault::NormWithoutEps, "rms_norm"),
        (Fault::TurnsTheOtherWay, "rope"),
        (Fault::LastKeyUnseen, "attention"),
        (Fault::RoundsWeights, "matmul"),
        (Fault::SecondProductLeftOut, "matmuls"),
        (Fault::SecondProductLeftOut, "gated"),
        (Fault::GateAndUpSwapped, "gated"),
        (Fault::GateUnlimited, "gated"),
        (Fault::LastRowLeftOut, "add"),
        (Fault::PanicsInBatches, "add"),
        (Fault::RecordsPositions, "a step"),
        (Fault::FirstOfMeetingRows, "store"),
        (Fault::TakesAnyShape, "a wrong call"),
    ] {
        let failures = check_only(&|name| name == operation, &[&Wrong::new(fault)], Promise::Bounds, 1);
        assert!(!failures.is_empty(), "{fault:?} was not noticed");
        assert!(failures[0].to_string().starts_with("wrong, seed 1, "), "{}", failures[0]);
    }
}

#[test]
fn to_add_nothing_is_not_to_add_zero() {
    let mut cases = Cases(vec![]);
    experts::moe(&mut cases);
    let case = cases.0.iter().find(|case| case.name.contains("minus zero")).expect("it is listed");
    let n_failures = |dev: &dyn Device| {
        let mut n = 0;
        check_case(case, &[dev], Promise::Bits, 1, &mut |_, _| n += 1);
        n
    };
    assert!(n_failures(&Wrong::new(Fault::AddsZero)) > 0 && n_failures(&Reference) == 0);
}

#[test]
fn a_device_whose_rows_depend_on_the_batch_breaks_a_promise() {
    let check = |promise| check_only(&|name| name == "add", &[&Wrong::new(Fault::LastBitOfBatches)], promise, 1);
    assert!(check(Promise::Bits).iter().any(|f| f.what.contains("other bits")));
}

#[test]
fn a_fused_operation_of_other_bits_than_its_parts_breaks_a_promise() {
    for operation in ["matmuls", "gated"] {
        let check = |promise| check_only(&|name| name == operation, &[&Wrong::new(Fault::LastBitOfFused)], promise, 1);
        assert!(check(Promise::Bits).iter().any(|f| f.what.contains("the bits of its parts")), "{operation}");
        assert!(check(Promise::Bounds).is_empty(), "{operation}");
    }
}

#[test]
fn a_device_unlike_the_first_breaks_a_promise() {
    let failures =
        check_only(&|name| name == "add", &[&Reference, &Wrong::new(Fault::LastBitOfBatches)], Promise::Bits, 1);
    assert!(failures.iter().all(|f| f.device == "wrong") && !failures.is_empty());
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    NormWithoutEps,
    TurnsTheOtherWay,
    LastKeyUnseen,
    RoundsWeights,
    SecondProductLeftOut,
    GateAndUpSwapped,
    GateUnlimited,
    LastBitOfFused,
    LastRowLeftOut,
    PanicsInBatches,
    LastBitOfBatches,
    RecordsPositions,
    FirstOfMeetingRows,
    AddsZero,
    TakesAnyShape,
}

/// The reference with a fault.
struct Wrong(Fault, Mutex<Vec<(Tensor, Step)>>);

impl Wrong {
    fn new(fault: Fault) -> Wrong {
        Wrong(fault, Mutex::default())
    }

    /// The smallest of faults.
    fn move_last_bits(&self, x: &Tensor) {
        let moved = reference::f32s(self, x).iter().map(|v| v.next_up()).collect::<Vec<f32>>();
        reference::put(self, x, &moved);
    }

    /// The step with the positions that its block held when it was first seen.
    fn recorded(&self, step: &Step) -> Step {
        let mut seen = self.1.lock().expect("nothing panics here");
        if let Some((_, first)) = seen.iter().find(|(pos, _)| pos.overlaps(&step.pos)) {
            return first.clone();
        }
        let pos = self.alloc(Kind::I32, &[step.len()]).expect("memory");
        let mut bytes = vec![0; pos.byte_range().len()];
        self.read(&step.pos, &mut bytes).expect("the reference does not fail");
        self.write(&pos, &bytes);
        let first = Step { pos, ..step.clone() };
        seen.push((step.pos.clone(), first.clone()));
        first
    }
}

impl Memory for Wrong {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        Reference.alloc(kind, shape)
    }

    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError> {
        Reference.load(kind, shape, bytes)
    }

    fn write(&self, t: &Tensor, bytes: &[u8]) {
        Reference.write(t, bytes);
    }

    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError> {
        Reference.read(t, out)
    }
}

impl Device for Wrong {
    fn name(&self) -> String {
        "wrong".into()
    }

    fn rms_norm(&self, y: &Tensor, x: &Tensor, w: Option<&Tensor>, eps: f32) {
        let eps = if self.0 == Fault::NormWithoutEps { 0.0 } else { eps };
        reference::rms_norm(self, y, x, w, eps);
    }

    fn store(&self, cache: &Tensor, x: &Tensor, step: &Step) {
        reference::store(self, cache, x, step);
        if self.0 == Fault::FirstOfMeetingRows {
            let column = |c: &Tensor, n: usize| c.slice(0..n);
            let n = step.len().min(cache.shape()[1]);
            let first = Step { id: column(&step.id, n), pos: column(&step.pos, n), slot: column(&step.slot, n) };
            reference::store(self, cache, &x.slice(0..n), &first);
        }
    }

    fn swiglu(&self, y: &Tensor, gate: &Tensor, up: &Tensor, limit: Option<f32>) {
        let n = y.rows();
        let up = if self.0 == Fault::TakesAnyShape { &up.slice(0..n) } else { up };
        reference::swiglu(self, y, gate, up, limit);
    }

    fn rope(&self, x: &Tensor, rope: &Rope, inverse: bool, step: &Step) {
        let step = if self.0 == Fault::RecordsPositions { &self.recorded(step) } else { step };
        reference::rope(self, x, rope, inverse != (self.0 == Fault::TurnsTheOtherWay), step);
    }

    fn matmul_grouped(&self, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
        reference::matmul_grouped(self, y, w, x, n_group);
        if self.0 == Fault::RoundsWeights {
            let rounded = reference::f32s(self, y).iter().map(|v| v * 1.001).collect::<Vec<f32>>();
            reference::put(self, y, &rounded);
        }
    }

    fn matmuls(&self, products: &[(&Tensor, &Tensor)], x: &Tensor) {
        for (i, (y, w)) in products.iter().enumerate() {
            if i != 1 || self.0 != Fault::SecondProductLeftOut {
                self.matmul(y, w, x);
            }
        }
        if self.0 == Fault::LastBitOfFused {
            self.move_last_bits(products[0].0);
        }
    }

    fn gated(&self, y: &Tensor, [gate, up]: [(&Tensor, &Tensor); 2], x: &Tensor, limit: Option<f32>) {
        self.matmuls(&[gate, up], x);
        match self.0 {
            Fault::GateAndUpSwapped => self.swiglu(y, up.0, gate.0, limit),
            Fault::GateUnlimited => self.swiglu(y, gate.0, up.0, None),
            _ => self.swiglu(y, gate.0, up.0, limit),
        }
    }

    fn moe(&self, y: &Tensor, x: &Tensor, bank: &Bank, experts: &Tensor, weights: &Tensor, limit: Option<f32>) {
        reference::moe(self, y, x, bank, experts, weights, limit);
        if self.0 == Fault::AddsZero {
            let sums = reference::f32s(self, y).iter().map(|v| v + 0.0).collect::<Vec<f32>>();
            reference::put(self, y, &sums);
        }
    }

    fn attention(&self, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
        if self.0 == Fault::LastKeyUnseen {
            let row = reference::i32s(self, &step.pos)[0] as usize % k.shape()[1];
            let slot = reference::i32s(self, &step.slot)[0] as usize;
            let last = k.slice(slot..slot + 1).reshape(&k.shape()[1..]).slice(row..row + 1);
            self.write(&last, &vec![0; last.byte_range().len()]);
        }
        reference::attention(self, y, q, k, v, a, step);
    }

    fn add(&self, x: &Tensor, b: &Tensor) {
        let n = x.rows();
        match self.0 {
            Fault::LastRowLeftOut if n > 8 => reference::add(self, &x.slice(0..n - 1), b),
            Fault::PanicsInBatches => assert_eq!(n, 1, "one row only"),
            Fault::LastBitOfBatches if n > 8 => {
                reference::add(self, x, b);
                self.move_last_bits(x);
            }
            _ => reference::add(self, x, b),
        }
    }
}
