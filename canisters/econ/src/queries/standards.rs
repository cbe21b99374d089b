//! ICRC-10 (which standards are supported) and ICRC-21 (what a wallet shows before somebody signs a call).

use icrc_ledger_types::icrc21::errors::Icrc21Error;
use icrc_ledger_types::icrc21::requests::ConsentMessageRequest;
use icrc_ledger_types::icrc21::responses::ConsentInfo;
use serde::Deserialize;

use crate::{consent, state};

/// A standard that the canister supports.
#[derive(candid::CandidType, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SupportedStandard {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub url: String,
}

/// The standards that the canister supports.
pub fn supported_standards() -> Vec<SupportedStandard> {
    ["ICRC-10", "ICRC-21"]
        .map(|name| SupportedStandard {
            name: name.to_owned(),
            url: format!("https://github.com/dfinity/ICRC/blob/main/ICRCs/{name}/{name}.md"),
        })
        .into()
}

/// What a wallet shows before somebody signs a call.
///
/// # Errors
/// [`Icrc21Error::UnsupportedCanisterCall`] for methods that cost nothing, [`Icrc21Error::ConsentMessageUnavailable`] for
/// arguments that the method would refuse.
pub fn consent_message(request: &ConsentMessageRequest) -> Result<ConsentInfo, Icrc21Error> {
    let caller = ic_cdk::api::msg_caller();
    state::read(|economy| consent::message(economy, caller, request, ic_cdk::api::time()))
}
