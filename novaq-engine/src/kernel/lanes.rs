//! Float kernels, written once for four lanes at a time: whatever a target's lanes are, each does the same IEEE operations
//! in the same order, so the bits agree.

use super::{CACHE_BLOCK, ROUNDING};
use crate::model::Activation;
use std::ops::{ControlFlow, Range};

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
    /// The larger magnitude, `self` having one already; a NaN is larger than all.
    fn or_larger_magnitude(self, other: Self) -> Self;
    /// Whether any lane is at least the same one of `other`.
    fn any_at_least(self, other: Self) -> bool;
    /// The nearest floats.
    fn of_integers(values: &[i32; 4]) -> Self;
    /// Stores the `n` of lanes that are `ROUNDING + n`, those of `other` behind; they must be within 16 bits.
    fn store_rounded(self, other: Self, values: &mut [i16; 8]);
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
    fn or_larger_magnitude(self, other: Self) -> Self {
        // Bits of floats that are not negative are ordered as the floats, with infinity and NaN on top.
        std::array::from_fn(|i| f32::from_bits(self[i].to_bits().max(other[i].to_bits() & 0x7fff_ffff)))
    }

    #[inline(always)]
    fn any_at_least(self, other: Self) -> bool {
        (0..4).any(|i| self[i] >= other[i])
    }

    #[inline(always)]
    fn of_integers(values: &[i32; 4]) -> Self {
        values.map(|value| value as f32)
    }

    #[inline(always)]
    fn store_rounded(self, other: Self, values: &mut [i16; 8]) {
        for (value, lane) in values.iter_mut().zip(self.into_iter().chain(other)) {
            *value = (lane.to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32) as i16;
        }
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

/// See [`super::Backend::quantize`].
#[inline(always)]
pub(super) fn quantize<L: Lanes>(input: &[f32], limit: i16, output: &mut [i16]) -> f32 {
    let (fours, rest) = input.as_chunks::<4>();
    let mut magnitudes = L::splat(0.0).or_larger_magnitude(L::load(&padded(rest, 0.0)));
    for four in fours {
        magnitudes = magnitudes.or_larger_magnitude(L::load(four));
    }
    let mut of_lanes = [0.0; 4];
    magnitudes.store(&mut of_lanes);
    let largest = f32::from_bits(of_lanes.into_iter().fold(0, |largest, x| largest.max(x.to_bits())));
    let limit = f32::from(limit);
    let scale = if largest.is_finite() { largest / limit } else { f32::NAN };
    let inverse = if scale > 0.0 { limit / largest } else { 0.0 };
    if !(inverse.is_finite() && inverse > 0.0) {
        output.fill(0);
        return scale;
    }
    let inverse = L::splat(inverse);
    let rounded = |four: &[f32; 4]| L::load(four).mul(inverse).add(L::splat(ROUNDING));
    let (eights, rest) = output.as_chunks_mut::<8>();
    let (input, input_rest) = input.as_chunks::<8>();
    for (output, input) in eights.iter_mut().zip(input) {
        if let [low, high] = input.as_chunks::<4>().0 {
            rounded(low).store_rounded(rounded(high), output);
        }
    }
    let (low, high) = input_rest.split_at(input_rest.len().min(4));
    let mut eight = [0; 8];
    rounded(&padded(low, 0.0)).store_rounded(rounded(&padded(high, 0.0)), &mut eight);
    rest.copy_from_slice(&eight[..rest.len()]);
    scale
}

/// See [`super::Backend::softmax_numerators`].
#[inline(always)]
pub(super) fn softmax_numerators<L: Lanes>(values: &mut [f32]) -> f32 {
    let (fours, rest) = values.as_chunks_mut::<4>();
    let mut max = L::load(&padded(rest, f32::NEG_INFINITY));
    for four in fours.iter() {
        max = max.or_larger(L::load(four));
    }
    let max = L::splat(largest(max));
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

/// The largest of four lanes; one that is not a number is none.
#[inline(always)]
fn largest<L: Lanes>(lanes: L) -> f32 {
    let mut values = [0.0; 4];
    lanes.store(&mut values);
    values.into_iter().fold(f32::NEG_INFINITY, |a, b| if a < b { b } else { a })
}

/// See [`super::Backend::largest`].
#[inline(always)]
pub(super) fn largest_finite<L: Lanes>(values: &[f32]) -> f32 {
    let (fours, rest) = values.as_chunks::<4>();
    let (mut max, mut zeros) = (L::splat(f32::NEG_INFINITY), L::splat(0.0));
    for four in fours {
        let four = L::load(four);
        max = max.or_larger(four);
        zeros = zeros.add(four.mul(L::splat(0.0)));
    }
    let of_rest = rest.iter().fold(largest(max), |a, &b| if a < b { b } else { a });
    // No times of an infinity or of a NaN are nothing.
    joined(zeros) + rest.iter().map(|x| x * 0.0).sum::<f32>() + of_rest
}

/// See [`super::Backend::for_each_at_least`].
#[inline(always)]
pub(super) fn for_each_at_least<L: Lanes>(
    values: &[f32],
    least: f32,
    mut each: impl FnMut(u32, f32) -> ControlFlow<()>,
) {
    let (fours, rest) = values.as_chunks::<4>();
    let threshold = L::splat(least);
    for (i, four) in (0..).step_by(4).zip(fours) {
        if L::load(four).any_at_least(threshold) {
            for (id, &value) in (i..).zip(four) {
                if value >= least && each(id, value).is_break() {
                    return;
                }
            }
        }
    }
    for (id, &value) in (4 * fours.len() as u32..).zip(rest) {
        if value >= least && each(id, value).is_break() {
            return;
        }
    }
}

/// See [`super::Backend::scale_rows`].
#[inline(always)]
pub(super) fn scale_rows<L: Lanes>(
    sums: &[f32],
    offset: f32,
    factor: f32,
    scales: &[f32],
    output: &mut [f32],
) {
    let (offset_lanes, factor_lanes) = (L::splat(offset), L::splat(factor));
    let (fours, rest) = output.as_chunks_mut::<4>();
    let (sum_fours, scale_fours) = (sums.as_chunks::<4>().0, scales.as_chunks::<4>().0);
    for ((output, sums), scales) in fours.iter_mut().zip(sum_fours).zip(scale_fours) {
        L::load(sums).add(offset_lanes).mul(factor_lanes).mul(L::load(scales)).store(output);
    }
    let done = 4 * fours.len();
    for ((y, sum), scale) in rest.iter_mut().zip(&sums[done..]).zip(&scales[done..]) {
        *y = ((sum + offset) * factor) * scale;
    }
}

/// What attention weights are made of. All slices are `[blocks][CACHE_BLOCK]`.
pub(crate) struct Attention<'a> {
    /// Products of the query with the keys; a block begins every `product_stride` elements, here and in the weights.
    pub products: &'a [i32],
    pub product_stride: usize,
    /// Scales of the keys; a block begins every `stride` elements.
    pub key_scales: &'a [f32],
    /// The same of the values.
    pub value_scales: &'a [f32],
    pub stride: usize,
    /// What products times their key's scale are multiplied by.
    pub scale: f32,
    /// Those that count.
    pub positions: Range<usize>,
}

impl Attention<'_> {
    /// Blocks with positions that count.
    pub(super) fn blocks(&self) -> Range<usize> {
        self.positions.start / CACHE_BLOCK..self.positions.end.div_ceil(CACHE_BLOCK)
    }
}

/// The blocks of `values`, one of which begins every `stride` elements.
#[inline(always)]
fn blocks_of<T>(values: &[T], stride: usize) -> impl Iterator<Item = &[T; CACHE_BLOCK]> {
    values.chunks(stride).filter_map(|block| block.first_chunk())
}

/// Most that the integer weights of values add up to, rounding left out: 32 bits hold so many times 127.
const WEIGHT_SUM: f32 = 16_777_216.0;

/// See [`super::Backend::attention_weights`].
#[inline(always)]
pub(super) fn attention_weights<L: Lanes>(args: &Attention, buffer: &mut [f32], weights: &mut [i16]) -> f32 {
    let Attention { products, product_stride, key_scales, value_scales, stride, ref positions, .. } = *args;
    let scale = L::splat(args.scale);
    let own = args.blocks();
    let products = blocks_of(products, product_stride).skip(own.start);
    let key_scales = blocks_of(key_scales, stride).skip(own.start);
    let buffer = buffer.as_chunks_mut::<CACHE_BLOCK>().0;
    for (out, (products, scales)) in buffer.iter_mut().zip(products.zip(key_scales)) {
        let fours = products.as_chunks::<4>().0.iter().zip(scales.as_chunks::<4>().0);
        for (out, (products, scales)) in out.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
            L::of_integers(products).mul(L::load(scales).mul(scale)).store(out);
        }
    }
    let skipped = own.start * CACHE_BLOCK;
    buffer.as_flattened_mut()[..positions.start - skipped].fill(f32::NEG_INFINITY);
    buffer.as_flattened_mut()[positions.end - skipped..].fill(f32::NEG_INFINITY);
    let mut max = L::splat(f32::NEG_INFINITY);
    for four in buffer.as_flattened().as_chunks::<4>().0 {
        max = max.or_larger(L::load(four));
    }
    let max = L::splat(largest(max));
    let (mut denominators, mut totals, mut largest_weight) = (L::splat(0.0), L::splat(0.0), L::splat(0.0));
    for (out, scales) in buffer.iter_mut().zip(blocks_of(value_scales, stride).skip(own.start)) {
        for (out, scales) in out.as_chunks_mut::<4>().0.iter_mut().zip(scales.as_chunks::<4>().0) {
            let numerator = exp(L::load(out).sub(max));
            denominators = denominators.add(numerator);
            let weight = numerator.mul(L::load(scales));
            totals = totals.add(weight);
            largest_weight = largest_weight.or_larger(weight);
            weight.store(out);
        }
    }
    let (by_largest, by_total) = (f32::from(i16::MAX) / largest(largest_weight), WEIGHT_SUM / joined(totals));
    let factor = if by_total < by_largest { by_total } else { by_largest };
    let denominator = joined(denominators);
    // If not, all values are zero, unless something was not a number; then the denominator isn't one either.
    let is_factor = factor > 0.0 && factor.is_finite();
    let splat = L::splat(factor);
    let rounded = |four: &[f32; 4]| L::load(four).mul(splat).add(L::splat(ROUNDING));
    let weights = weights.chunks_mut(product_stride).filter_map(|block| block.first_chunk_mut());
    for (block, weights) in weights.enumerate() {
        let weights: &mut [i16; CACHE_BLOCK] = weights;
        match buffer.get(block.wrapping_sub(own.start)) {
            Some(values) if is_factor => {
                let eights = values.as_chunks::<8>().0;
                for (weights, eight) in weights.as_chunks_mut::<8>().0.iter_mut().zip(eights) {
                    if let [low, high] = eight.as_chunks::<4>().0 {
                        rounded(low).store_rounded(rounded(high), weights);
                    }
                }
            }
            _ => *weights = [0; CACHE_BLOCK],
        }
    }
    if is_factor { 1.0 / (factor * denominator) } else { 0.0 * denominator }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// See [`super::Backend::gate`].
#[inline(always)]
pub(super) fn gate<L: Lanes>(activation: Activation, gate: &[f32], up: &[f32], output: &mut [f32]) {
    let gated = |gate: L, up: L| {
        let sigmoid_of = match activation {
            Activation::Silu => gate,
            Activation::GeluPytorchTanh => {
                let cube = gate.mul(gate).mul(gate).mul(L::splat(0.044_715));
                gate.add(cube).mul(L::splat(2.0 * SQRT_2_OVER_PI))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As precise as its documentation says, and within its ends what it says beyond them.
    #[test]
    fn exp_is_precise() {
        let ulp = |x: f64| 2f64.powi(x.log2().floor() as i32 - 23);
        for i in 0..=1_750_000 {
            let x = -87.0 + i as f32 * 1e-4;
            let [y, ..] = exp([x; 4]);
            let expected = f64::from(x).exp();
            let off = (f64::from(y) - expected).abs() / ulp(expected);
            assert!(off <= 2.0, "exp({x}) is off by {off} units in the last place");
        }
        assert_eq!(exp([f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY]), exp([-87.0, -87.0, 88.0, 88.0]));
        assert!(exp([f32::NAN; 4]).iter().all(|y| y.is_nan()));
    }
}
