//! The Ethereum address of a key on secp256k1.

use num_bigint::BigUint;

/// The prime of the field that secp256k1 is over (SEC 2, 2.4.1): 2^256 - 2^32 - 977.
fn prime() -> BigUint {
    (BigUint::from(1u8) << 256) - (BigUint::from(1u8) << 32) - BigUint::from(977u32)
}

/// The address with the checksum of EIP-55: the last 20 bytes of the Keccak-256 of the point's two coordinates.
///
/// # Errors
/// Says why `public_key` is no point in the compressed form of SEC 1.
pub fn ethereum(public_key: &[u8]) -> Result<String, String> {
    let hash = keccak256(&coordinates(public_key)?);
    let digits = hex(&hash[12..]);
    let checks = hex(&keccak256(digits.as_bytes()));
    let cased = digits
        .chars()
        .zip(checks.chars())
        .map(|(digit, check)| if check >= '8' { digit.to_ascii_uppercase() } else { digit });
    Ok(format!("0x{}", cased.collect::<String>()))
}

/// Both coordinates of a point of y² = x³ + 7, of which the compressed form has x and whether y is odd (SEC 1, 2.3.4). The key is public:
/// it does not matter how long this takes.
fn coordinates(public_key: &[u8]) -> Result<[u8; 64], String> {
    let ([tag @ (2 | 3), x @ ..], 33) = (public_key, public_key.len()) else {
        return Err("it is no compressed point of 33 bytes".to_owned());
    };
    let p = prime();
    let x = BigUint::from_bytes_be(x);
    let square = (x.modpow(&BigUint::from(3u8), &p) + BigUint::from(7u8)) % &p;
    // p is 3 modulo 4, so this is a square root, if there is one.
    let root = square.modpow(&((&p + BigUint::from(1u8)) >> 2), &p);
    if x >= p || (&root * &root) % &p != square {
        return Err("it is not on the curve".to_owned());
    }
    let y = if root.bit(0) == (*tag == 3) { root } else { p - root };
    let mut point = [0; 64];
    for (part, coordinate) in point.chunks_exact_mut(32).zip([x, y]) {
        let bytes = coordinate.to_bytes_be();
        part[32 - bytes.len()..].copy_from_slice(&bytes);
    }
    Ok(point)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Keccak-256 as Ethereum has it: a sponge of rate 136 over Keccak-f\[1600\], padded by 0x01 … 0x80 (SHA-3 pads by 0x06).
fn keccak256(bytes: &[u8]) -> [u8; 32] {
    const RATE: usize = 136;
    let mut padded = bytes.to_vec();
    padded.push(0x01);
    padded.resize(padded.len().next_multiple_of(RATE), 0);
    if let Some(last) = padded.last_mut() {
        *last |= 0x80;
    }
    let mut state = [0u64; 25];
    for block in padded.chunks_exact(RATE) {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in state.iter_mut().zip(words) {
            *lane ^= u64::from_le_bytes(*word);
        }
        keccak::f1600(&mut state);
    }
    let mut hash = [0; 32];
    for (bytes, lane) in hash.chunks_exact_mut(8).zip(state) {
        bytes.copy_from_slice(&lane.to_le_bytes());
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ethereum_s() {
        // The private key 1, whose point is the generator (SEC 2, 2.4.1).
        let x = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let key = |tag: u8| {
            let bytes = (0..32).map(|at| u8::from_str_radix(&x[2 * at..2 * at + 2], 16).unwrap());
            std::iter::once(tag).chain(bytes).collect::<Vec<u8>>()
        };
        assert_eq!(ethereum(&key(2)).unwrap(), "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
        assert_ne!(ethereum(&key(3)).unwrap(), ethereum(&key(2)).unwrap());
        assert!(ethereum(&key(4)).is_err() && ethereum(&[2; 32]).is_err());
        // 5³ + 7 has no square root.
        assert!(ethereum(&[&[2], [0; 31].as_slice(), &[5]].concat()).is_err());
        // The hash of nothing (the specification of Keccak).
        assert_eq!(hex(&keccak256(b"")), "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
    }
}
