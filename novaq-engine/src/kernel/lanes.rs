//! Float kernels, written once for four lanes at a time: whatever a target's lanes are, each does the same IEEE operations
//! in the same order, so the bits agree.

use super::ROUNDING;
use crate::model::Activation;

/// Four 32-bit floats.
pub(super) trait Lanes: Copy {
    fn splat(value: f32) -> Self;
    fn load(values: &[f32; 4]) -> Self;
    fn store(self, values: &mut [f32; 4]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `other` where it is larger, else `self`; a NaN in `self` stays.
    fn or_larger(self, other: Self) -> Self;
    /// `other` where it is smaller, else `self`; a NaN in `self` stays.
    fn or_smaller(self, other: Self) -> Self;
    /// `2ⁿ` of a lane that is `ROUNDING + n`, `n` in -126..=127.
    fn power_of_two(self) -> Self;
}

/// The lanes of targets without vectors of their own.
impl Lanes for [f32; 4] {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 4]
    }

    #[inline(always)]
    fn load(values: &[f32; 4]) -> Self {
        *values
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; 4]) {
        *values = self;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] / other[i])
    }

    #[inline(always)]
    fn or_larger(self, other: Self) -> Self {
        std::array::from_fn(|i| if self[i] < other[i] { other[i] } else { self[i] })
    }

    #[inline(always)]
    fn or_smaller(self, other: Self) -> Self {
        std::array::from_fn(|i| if other[i] < self[i] { other[i] } else { self[i] })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        self.map(|lane| f32::from_bits(lane.to_bits().wrapping_add(127) << 23))
    }
}

/// `eˣ`, within 2 units in the last place, for x from -87 to 88; beyond, that of the nearer end. A NaN stays one.
///
/// Cody and Waite's reduction with the polynomial of Cephes' `expf` (S. L. Moshier).
#[inline(always)]
fn exp<L: Lanes>(x: L) -> L {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 5] = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let x = x.or_larger(L::splat(-87.0)).or_smaller(L::splat(88.0));
    let shifted = x.mul(L::splat(std::f32::consts::LOG2_E)).add(L::splat(ROUNDING));
    let n = shifted.sub(L::splat(ROUNDING));
    let r = x.sub(n.mul(L::splat(LN2_HIGH))).sub(n.mul(L::splat(LN2_LOW)));
    let mut y = L::splat(1.987_569_1e-4);
    for coefficient in POLYNOMIAL {
        y = y.mul(r).add(L::splat(coefficient));
    }
    y.mul(r.mul(r)).add(r).add(L::splat(1.0)).mul(shifted.power_of_two())
}

/// The sum of four lanes.
#[inline(always)]
fn joined<L: Lanes>(lanes: L) -> f32 {
    let mut sums = [0.0; 4];
    lanes.store(&mut sums);
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

/// The values that are left over when the others went by in fours, and `fill` in the lanes that have none.
#[inline(always)]
fn padded(rest: &[f32], fill: f32) -> [f32; 4] {
    let mut four = [fill; 4];
    four[..rest.len()].copy_from_slice(rest);
    four
}

/// See [`super::Backend::dot_f32`].
#[inline(always)]
pub(super) fn dot<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [L::splat(0.0); 2];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for ((lanes, a), b) in lanes.iter_mut().zip(a.as_chunks().0).zip(b.as_chunks().0) {
            *lanes = lanes.add(L::load(a).mul(L::load(b)));
        }
    }
    for ((lanes, a), b) in lanes.iter_mut().zip(a_rest.chunks(4)).zip(b_rest.chunks(4)) {
        // Adding zero changes nothing: no sum that began with zero is a negative zero.
        *lanes = lanes.add(L::load(&padded(a, 0.0)).mul(L::load(&padded(b, 0.0))));
    }
    joined(lanes[0].add(lanes[1]))
}

/// See [`super::Backend::softmax_numerators`].
#[inline(always)]
pub(super) fn softmax_numerators<L: Lanes>(values: &mut [f32]) -> f32 {
    let (fours, rest) = values.as_chunks_mut::<4>();
    let mut largest = L::load(&padded(rest, f32::NEG_INFINITY));
    for four in fours.iter() {
        largest = largest.or_larger(L::load(four));
    }
    let mut lanes = [0.0; 4];
    largest.store(&mut lanes);
    let max = L::splat(lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if a < b { b } else { a }));
    let mut sums = L::splat(0.0);
    for four in fours {
        let e = exp(L::load(four).sub(max));
        e.store(four);
        sums = sums.add(e);
    }
    let mut four = [0.0; 4];
    exp(L::load(&padded(rest, 0.0)).sub(max)).store(&mut four);
    rest.copy_from_slice(&four[..rest.len()]);
    joined(sums.add(L::load(&padded(rest, 0.0))))
}

/// See [`super::Backend::gate`].
#[inline(always)]
pub(super) fn gate<L: Lanes>(activation: Activation, gate: &[f32], up: &[f32], output: &mut [f32]) {
    let gated = |gate: L, up: L| {
        let sigmoid_of = match activation {
            Activation::Silu => gate,
            Activation::GeluPytorchTanh => {
                // 2 · √(2/π)
                let cube = gate.mul(gate).mul(gate).mul(L::splat(0.044_715));
                gate.add(cube).mul(L::splat(1.595_769_1))
            }
        };
        let e = exp(L::splat(0.0).sub(sigmoid_of));
        gate.div(e.add(L::splat(1.0))).mul(up)
    };
    let (fours, rest) = output.as_chunks_mut::<4>();
    let (gates, gate_rest) = gate.as_chunks::<4>();
    let (ups, up_rest) = up.as_chunks::<4>();
    for ((gate, up), output) in gates.iter().zip(ups).zip(fours) {
        gated(L::load(gate), L::load(up)).store(output);
    }
    let mut four = [0.0; 4];
    gated(L::load(&padded(gate_rest, 0.0)), L::load(&padded(up_rest, 0.0))).store(&mut four);
    rest.copy_from_slice(&four[..rest.len()]);
}
