//! Strangers at the web app's host.

use candid::Principal;
use ohms_tests::network::{Network, http_get, stranger};
use ohms_tests::wasm::Canister;
use serde_bytes::ByteBuf;
use shared_types::Digest;
use shared_types::ui::{
    BeginBatchArgs, ChunkKey, CommitBatchArgs, ListFilesArgs, ListPublicationsArgs, ListUiRolesArgs,
    MissingChunksArgs, PutChunkArgs, SiteConfig, UiError, UiRole, UiRoleGrant,
};

use super::{Answer, case, check};

#[test]
fn strangers_are_refused_by_the_site() {
    let network = Network::new();
    let id = network.install(Canister::Ui, crate::site::init_args());
    let chunk = ChunkKey { sha256: Digest::ZERO, index: 0 };
    let batch_id = 0;
    let grant = UiRoleGrant { principal: stranger(), role: UiRole::Admin };
    let cases = |write: Answer, read: Answer| {
        vec![
            case("begin_batch", (BeginBatchArgs { files: Vec::new() },), write),
            case("put_chunk", (PutChunkArgs { batch_id, chunk, bytes: ByteBuf::new() },), write),
            case("propose", (batch_id,), write),
            case("commit", (CommitBatchArgs { batch_id, hash: Digest::ZERO },), write),
            case("discard_batch", (batch_id,), write),
            case("grant_role", (grant,), write),
            case("revoke_role", (grant,), write),
            case("configure", (SiteConfig::default(),), write),
            case("missing_chunks", (MissingChunksArgs { batch_id, after: None, limit: 1 },), read),
            case("list_files", (ListFilesArgs { batch_id: Some(batch_id), after: None, limit: 1 },), read),
            case("list_publications", (ListPublicationsArgs { after: None, limit: 1 },), Answer::Public),
            case("list_roles", (ListUiRolesArgs { after: None, limit: 1 },), Answer::Public),
            case("http_request", (http_get("/"),), Answer::Public),
            case("status", (), Answer::Public),
        ]
    };
    let (unauthorized, anonymous) = (Answer::Refused("Unauthorized"), Answer::Refused("Anonymous"));
    check::<UiError>(&network, id, Canister::Ui, stranger(), &cases(unauthorized, unauthorized));
    check::<UiError>(&network, id, Canister::Ui, Principal::anonymous(), &cases(anonymous, unauthorized));
}
