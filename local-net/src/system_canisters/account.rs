//! Account identifiers of the ICP ledger. Here all ledgers keep their accounts by them.

use candid::Principal;
use icrc_ledger_types::{
    icrc::generic_value::ICRC3Value,
    icrc1::account::{Account, Subaccount},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha224};
use token_ledger::LedgerAccount;

/// The 32 bytes that name an account: the CRC-32 of the rest, then SHA-224 of owner and subaccount (interface of the ICP
/// ledger, `AccountIdentifier`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccountIdentifier([u8; 32]);

impl AccountIdentifier {
    /// The identifier of an account; without subaccount that of the owner's default account.
    pub fn of(owner: Principal, subaccount: Option<Subaccount>) -> Self {
        let hash = Sha224::new()
            .chain_update(b"\x0Aaccount-id")
            .chain_update(owner.as_slice())
            .chain_update(subaccount.unwrap_or_default())
            .finalize();
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&checksum(&hash));
        bytes[4..].copy_from_slice(&hash);
        Self(bytes)
    }

    /// The identifier with these bytes, if the checksum is right.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 32] = bytes.try_into().ok()?;
        (bytes[..4] == checksum(&bytes[4..])).then_some(Self(bytes))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Account> for AccountIdentifier {
    fn from(account: Account) -> Self {
        Self::of(account.owner, account.subaccount)
    }
}

impl LedgerAccount for AccountIdentifier {
    fn value(&self) -> ICRC3Value {
        ICRC3Value::Blob(self.0.to_vec().into())
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// The subaccount that belongs to a principal: its length, its bytes, zeros.
pub fn subaccount_of(principal: Principal) -> Subaccount {
    let mut subaccount = [0; 32];
    let bytes = principal.as_slice();
    subaccount[0] = bytes.len() as u8;
    subaccount[1..=bytes.len()].copy_from_slice(bytes);
    subaccount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_anonymous_account_is_the_known_one() {
        let identifier = AccountIdentifier::of(Principal::anonymous(), None);
        let text = "1c7a48ba6a562aa9eaa2481a9049cdf0433b9738c992d698c31d8abf89cadc79";
        assert_eq!(hex::encode(identifier.as_bytes()), text);
        assert_eq!(AccountIdentifier::from_bytes(identifier.as_bytes()), Some(identifier));
        let mut other = *identifier.as_bytes();
        other[9] ^= 1;
        assert_eq!(AccountIdentifier::from_bytes(&other), None);
        assert_eq!(AccountIdentifier::from_bytes(&other[1..]), None);
    }
}
