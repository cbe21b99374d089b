//! SHA-256 digests as a type, so that a hostile length is refused while Candid is decoded.

use std::fmt;
use std::str::FromStr;

use candid::CandidType;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::ByteArray;
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest. In Candid a `blob` of exactly 32 bytes; printed, parsed and written to JSON as 64 hexadecimal digits.
#[derive(CandidType, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(ByteArray<32>);

/// The identity of a model: the SHA-256 of its canonical manifest without the signature.
pub type ModelId = Digest;

impl Digest {
    /// The digest whose bytes are all zero: the predecessor of the first entry of a hash chain.
    pub const ZERO: Self = Self(ByteArray::new([0; 32]));

    /// Takes 32 bytes that are a digest already.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(ByteArray::new(bytes))
    }

    /// Computes the SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            ByteArray::deserialize(deserializer).map(Self)
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a SHA-256 digest: expected 64 hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseDigestError(text.to_owned()))?;
        Ok(Self::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candid::{Decode, Encode};
    use serde_bytes::ByteBuf;

    #[test]
    fn text_and_candid_round_trip() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(Decode!(&Encode!(&digest).unwrap(), Digest).unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!("ba78".parse::<Digest>().is_err());
        for length in [0, 31, 33] {
            let bytes = Encode!(&ByteBuf::from(vec![7; length])).unwrap();
            assert!(Decode!(&bytes, Digest).is_err(), "{length} bytes");
        }
    }
}
