//! The ways in which checkpoints store numbers, and what they stand for.
//!
//! The blocks are those of ggml (`ggml-common.h`, `ggml-quants.c` of <https://github.com/ggml-org/ggml>): so many
//! neighbouring values of a row, quantized together.

use half::{bf16, f16};

/// How the values of a tensor are stored; numbers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// Blocks of 32: `d` f16, 32 codes i8; the value is d·q.
    Q8_0,
    /// Blocks of 32: `d` f16, 16 bytes of 4-bit codes, the first 16 in the low halves; the value is d·(q − 8).
    Q4_0,
    /// Blocks of 32: `d` and `m` f16, 4-bit codes as `Q4_0` has them; the value is d·q + m.
    Q4_1,
    /// Blocks of 32: `d` f16, 32 fifth bits, the low 4 bits as `Q4_0` has them; the value is d·(q − 16).
    Q5_0,
    /// Blocks of 32: `d` and `m` f16, then codes as `Q5_0` has them; the value is d·q + m.
    Q5_1,
    /// Blocks of 256, in 8 groups of 32: `d` and `dmin` f16, 12 bytes of 6-bit scales s and minima m, 128 bytes of 4-bit
    /// codes; the value is d·s·q − dmin·m.
    Q4K,
    /// Blocks of 256, in 16 groups of 16: 128 bytes of the codes' low 4 bits, 64 of their high 2, 16 scales s i8, `d`
    /// f16; the value is d·s·(q − 32).
    Q6K,
}

impl Storage {
    /// Values and bytes of a block.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// The values that whole blocks in `bytes` stand for.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
            Self::Q8_0 => bytes.as_chunks().0.iter().flat_map(q8_0).collect(),
            Self::Q4_0 => bytes.as_chunks().0.iter().flat_map(q4_0).collect(),
            Self::Q4_1 => bytes.as_chunks().0.iter().flat_map(q4_1).collect(),
            Self::Q5_0 => bytes.as_chunks().0.iter().flat_map(q5_0).collect(),
            Self::Q5_1 => bytes.as_chunks().0.iter().flat_map(q5_1).collect(),
            Self::Q4K => bytes.as_chunks().0.iter().flat_map(q4_k).collect(),
            Self::Q6K => bytes.as_chunks().0.iter().flat_map(q6_k).collect(),
        }
    }
}

/// The 16-bit float at `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * f32::from(block[2 + i].cast_signed()))
}

/// The `i`-th of 32 codes of 4 bits in 16 bytes.
fn nibble(codes: &[u8], i: usize) -> u8 {
    let byte = codes[i % 16];
    if i < 16 { byte & 0xf } else { byte >> 4 }
}

/// The `i`-th of 32 codes of 5 bits: the fifth bits in 4 bytes, then the others.
fn five_bits(codes: &[u8], i: usize) -> u8 {
    let fifth = (codes[i / 8] >> (i % 8)) & 1;
    nibble(&codes[4..], i) | (fifth << 4)
}

fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * (f32::from(nibble(&block[2..], i)) - 8.0))
}

fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| d * f32::from(nibble(&block[4..], i)) + m)
}

fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * (f32::from(five_bits(&block[2..], i)) - 16.0))
}

fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| d * f32::from(five_bits(&block[4..], i)) + m)
}

fn q4_k(block: &[u8; 144]) -> [f32; 256] {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, codes) = (&block[4..16], &block[16..]);
    // Groups 0 to 3 have 6 bits in a byte of their own; the rest of those bytes are the high bits of groups 4 to 7.
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for group in 0..8 {
        let (scale, minimum) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let low = packed[group + 4];
            ((low & 0xf) | ((packed[group - 4] >> 6) << 4), (low >> 4) | ((packed[group] >> 6) << 4))
        };
        scales[group] = d * f32::from(scale);
        minima[group] = dmin * f32::from(minimum);
    }
    std::array::from_fn(|i| {
        // Two groups share 32 bytes: one has the low halves, the next the high ones.
        let group = i / 32;
        let byte = codes[group / 2 * 32 + i % 32];
        let code = if group % 2 == 0 { byte & 0xf } else { byte >> 4 };
        scales[group] * f32::from(code) - minima[group]
    })
}

fn q6_k(block: &[u8; 210]) -> [f32; 256] {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    std::array::from_fn(|i| {
        // Each half of 128 values has 64 bytes of low bits, two values in each, and 32 of high bits, four in each.
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[half * 64 + quarter % 2 * 32 + lane];
        let low = if quarter < 2 { byte & 0xf } else { byte >> 4 };
        let high = (high[half * 32 + lane] >> (2 * quarter)) & 3;
        d * f32::from(scales[i / 16].cast_signed()) * (f32::from(low | (high << 4)) - 32.0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Scales that a 16-bit float holds.
    fn scale() -> impl Strategy<Value = f32> {
        (-2048..2048i16).prop_map(|n| f32::from(n) / 1024.0)
    }

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    fn codes(len: usize, most: u8) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..=most, len)
    }

    // Each test writes blocks as `ggml-quants.c` does when it quantizes: from codes, scales and minima to bytes.
    proptest! {
        #[test]
        fn blocks_of_8_bits(d in scale(), codes in codes(64, 255)) {
            let bytes: Vec<u8> = codes.chunks(32).flat_map(|q| [&half(d)[..], q].concat()).collect();
            let expected: Vec<f32> = codes.iter().map(|&q| d * f32::from(q.cast_signed())).collect();
            prop_assert_eq!(Storage::Q8_0.decode(&bytes), expected);
        }

        #[test]
        fn blocks_of_4_bits(d in scale(), codes in codes(64, 15)) {
            let mut bytes = Vec::new();
            for block in codes.chunks(32) {
                bytes.extend(half(d));
                bytes.extend((0..16).map(|j| block[j] | (block[j + 16] << 4)));
            }
            let expected: Vec<f32> = codes.iter().map(|&q| d * (f32::from(q) - 8.0)).collect();
            prop_assert_eq!(Storage::Q4_0.decode(&bytes), expected);
        }

        #[test]
        fn blocks_of_4_bits_with_a_minimum(d in scale(), m in scale(), codes in codes(64, 15)) {
            let mut bytes = Vec::new();
            for block in codes.chunks(32) {
                bytes.extend([half(d), half(m)].concat());
                bytes.extend((0..16).map(|j| block[j] | (block[j + 16] << 4)));
            }
            let expected: Vec<f32> = codes.iter().map(|&q| d * f32::from(q) + m).collect();
            prop_assert_eq!(Storage::Q4_1.decode(&bytes), expected);
        }

        #[test]
        fn blocks_of_5_bits(d in scale(), m in scale(), codes in codes(64, 31)) {
            let (mut centred, mut offset) = (Vec::new(), Vec::new());
            for block in codes.chunks(32) {
                let fifth = block.iter().rev().fold(0u32, |bits, &q| (bits << 1) | u32::from(q >> 4));
                let mut packed = fifth.to_le_bytes().to_vec();
                packed.extend((0..16).map(|j| (block[j] & 0xf) | ((block[j + 16] & 0xf) << 4)));
                centred.extend([&half(d)[..], &packed].concat());
                offset.extend([&half(d)[..], &half(m), &packed].concat());
            }
            let expected: Vec<f32> = codes.iter().map(|&q| d * (f32::from(q) - 16.0)).collect();
            prop_assert_eq!(Storage::Q5_0.decode(&centred), expected);
            let expected: Vec<f32> = codes.iter().map(|&q| d * f32::from(q) + m).collect();
            prop_assert_eq!(Storage::Q5_1.decode(&offset), expected);
        }

        #[test]
        fn blocks_of_4_bits_with_minima(
            d in scale(),
            dmin in scale(),
            scales in codes(8, 63),
            minima in codes(8, 63),
            codes in codes(256, 15),
        ) {
            let mut packed = [0u8; 12];
            for j in 0..8 {
                let (scale, minimum) = (scales[j], minima[j]);
                if j < 4 {
                    packed[j] = scale;
                    packed[j + 4] = minimum;
                } else {
                    packed[j + 4] = (scale & 0xf) | ((minimum & 0xf) << 4);
                    packed[j - 4] |= (scale >> 4) << 6;
                    packed[j] |= (minimum >> 4) << 6;
                }
            }
            let mut bytes = [half(d), half(dmin)].concat();
            bytes.extend(packed);
            for chunk in codes.chunks(64) {
                bytes.extend((0..32).map(|l| chunk[l] | (chunk[l + 32] << 4)));
            }
            let expected: Vec<f32> = codes
                .iter()
                .enumerate()
                .map(|(i, &q)| {
                    d * f32::from(scales[i / 32]) * f32::from(q) - dmin * f32::from(minima[i / 32])
                })
                .collect();
            prop_assert_eq!(Storage::Q4K.decode(&bytes), expected);
        }

        #[test]
        fn blocks_of_6_bits(d in scale(), scales in codes(16, 255), codes in codes(256, 63)) {
            let (mut low, mut high) = (Vec::new(), Vec::new());
            for chunk in codes.chunks(128) {
                for at in [0, 32] {
                    low.extend((at..at + 32).map(|l| (chunk[l] & 0xf) | ((chunk[l + 64] & 0xf) << 4)));
                }
                high.extend((0..32).map(|l| {
                    (chunk[l] >> 4)
                        | ((chunk[l + 32] >> 4) << 2)
                        | ((chunk[l + 64] >> 4) << 4)
                        | ((chunk[l + 96] >> 4) << 6)
                }));
            }
            let bytes = [&low[..], &high, &scales, &half(d)].concat();
            let expected: Vec<f32> = codes
                .iter()
                .enumerate()
                .map(|(i, &q)| d * f32::from(scales[i / 16].cast_signed()) * (f32::from(q) - 32.0))
                .collect();
            prop_assert_eq!(Storage::Q6K.decode(&bytes), expected);
        }
    }

    #[test]
    fn sizes_are_those_of_the_blocks() {
        use Storage::{Bf16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q6K, Q8_0};
        for storage in [F32, F16, Bf16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q6K] {
            let (values, bytes) = storage.block();
            assert_eq!(storage.decode(&vec![0; 3 * bytes]).len(), 3 * values, "{storage:?}");
        }
    }
}
