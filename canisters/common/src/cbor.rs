//! Records in stable structures as CBOR.

use std::borrow::Cow;

use ic_stable_structures::Storable;
use ic_stable_structures::storable::Bound;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record that a stable structure keeps as CBOR (RFC 8949), fields by name: a newer version of the code may add
/// fields with `#[serde(default)]` and still read what the older one wrote.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cbor<T>(pub T);

impl<T: Serialize + DeserializeOwned> Storable for Cbor<T> {
    const BOUND: Bound = Bound::Unbounded;

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::new();
        ciborium::into_writer(&self.0, &mut bytes).expect("a record of plain data is always encodable");
        Cow::Owned(bytes)
    }

    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }

    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        // Stable memory holds only what `to_bytes` wrote; anything else is corruption, and stopping is all that is left.
        Self(ciborium::from_reader(bytes.as_ref()).expect("stable memory holds a record of another type"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Old {
        cycles: u128,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct New {
        cycles: u128,
        #[serde(default)]
        note: Option<String>,
    }

    #[test]
    fn a_field_may_be_added() {
        let old = Cbor(Old { cycles: u128::from(u64::MAX) + 7 });
        let new = Cbor::<New>::from_bytes(old.to_bytes());
        assert_eq!(new.0, New { cycles: old.0.cycles, note: None });
        assert_eq!(Cbor::<Old>::from_bytes(new.to_bytes()), old);
    }
}
