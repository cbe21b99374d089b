//! Records in stable structures as CBOR.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use ciborium::Value;
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

/// A record like [`Cbor`] that keeps the fields it does not know: what a newer version of the code wrote is still there when
/// an older one, to which the canister was rolled back, has changed the record.
#[derive(Clone, Debug)]
pub struct Extensible<T> {
    value: T,
    /// What it was read from.
    read: Option<Vec<u8>>,
}

impl<T> Extensible<T> {
    /// A record that is stored for the first time.
    pub fn new(value: T) -> Self {
        Self { value, read: None }
    }

    /// The record alone.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Extensible<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Extensible<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default> Default for Extensible<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Serialize + DeserializeOwned> Storable for Extensible<T> {
    const BOUND: Bound = Bound::Unbounded;

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let mut value = Value::serialized(&self.value).expect("a record of plain data is always encodable");
        if let Some(read) = &self.read {
            let read_value: Value =
                ciborium::from_reader(read.as_slice()).expect("what was read once is readable");
            // Only what the record as it was read had no place for: a field that has since become absent stays away.
            let known =
                Value::serialized(&Self::decode(read)).expect("a record of plain data is always encodable");
            add_unknown(&mut value, &read_value, &known);
        }
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).expect("a value is always encodable");
        Cow::Owned(bytes)
    }

    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }

    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Self { value: Self::decode(&bytes), read: Some(bytes.into_owned()) }
    }
}

impl<T: DeserializeOwned> Extensible<T> {
    fn decode(bytes: &[u8]) -> T {
        // As for `Cbor`.
        ciborium::from_reader(bytes).expect("stable memory holds a record of another type")
    }
}

/// Adds to `value` the fields of `read` that `known`, which is `read` as this code understands it, lacks. A record inside that is
/// no longer there (another variant of an enum) gets nothing.
fn add_unknown(value: &mut Value, read: &Value, known: &Value) {
    let (Value::Map(fields), Value::Map(read), Value::Map(known)) = (value, read, known) else { return };
    for (name, read) in read {
        let known = known.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let field = fields.iter_mut().find(|(field, _)| field == name).map(|(_, value)| value);
        match (known, field) {
            (Some(known), Some(field)) => add_unknown(field, read, known),
            (None, None) => fields.push((name.clone(), read.clone())),
            (Some(_), None) | (None, Some(_)) => {}
        }
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

    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    enum OldState {
        Waiting { since: u64 },
        Done,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct OldOrder {
        state: OldState,
        count: u64,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    enum NewState {
        Waiting { since: u64, until: u64 },
        Done,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct NewOrder {
        state: NewState,
        count: u64,
        #[serde(default)]
        customer: Option<String>,
    }

    #[test]
    fn fields_of_a_newer_version_survive_an_older_one() {
        let customer = Some("somebody".to_owned());
        let state = NewState::Waiting { since: 1, until: 5 };
        let new = Extensible::new(NewOrder { state, count: 1, customer: customer.clone() });
        let mut old = Extensible::<OldOrder>::from_bytes(new.to_bytes());
        old.count += 1;
        let again = Extensible::<NewOrder>::from_bytes(old.to_bytes()).into_inner();
        let state = NewState::Waiting { since: 1, until: 5 };
        assert_eq!(again, NewOrder { state, count: 2, customer: customer.clone() });
        // What belonged to a variant goes with it.
        old.state = OldState::Done;
        let again = Extensible::<NewOrder>::from_bytes(old.to_bytes()).into_inner();
        assert_eq!(again, NewOrder { state: NewState::Done, count: 2, customer });
    }
}
