//! The same canisters through the Internet Computer's own interface, with signatures and certificates.

use candid::{Decode, Encode, Principal};
use ic_agent::Agent;
use ic_agent::identity::BasicIdentity;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, admin};
use serde_bytes::ByteBuf;
use shared_types::model::{
    BeginUploadArgs, GetShardArgs, ModelError, ProposalAction, PutShardArgs, PutShardResult, Role, RoleGrant,
    UploadState,
};

async fn client(url: &str, identity: BasicIdentity) -> Agent {
    let agent = Agent::builder().with_url(url).with_identity(identity).build().unwrap();
    agent.fetch_root_key().await.unwrap();
    agent
}

#[test]
fn an_upload_by_ic_agent_is_signed_and_certified() {
    let mut network = Network::new();
    let repository = network.repository();
    let identity = BasicIdentity::from_raw_key(&[5; 32]);
    let me = ic_agent::Identity::sender(&identity).unwrap();
    let grant = RoleGrant { principal: me, role: Role::Uploader };
    repository.propose(admin(), ProposalAction::GrantRole(grant)).unwrap();
    let repository = repository.id;

    let url = network.pic.make_live(None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(upload(url.as_str(), identity, repository));
}

async fn upload(url: &str, identity: BasicIdentity, repository: Principal) {
    let artifact = Artifact::shared();
    let me = client(url, identity).await;
    let args = BeginUploadArgs { manifest: ByteBuf::from(artifact.manifest_bytes.as_slice()) };
    let reply = me.update(&repository, "begin_upload").with_arg(Encode!(&args).unwrap()).await.unwrap();
    let begun = Decode!(&reply, Result<UploadState, ModelError>).unwrap().unwrap();
    assert_eq!(begun.model_id, artifact.id);

    let args =
        PutShardArgs { model_id: artifact.id, index: 0, bytes: ByteBuf::from(artifact.shards[0].as_slice()) };
    let args = Encode!(&args).unwrap();
    let reply = me.update(&repository, "put_shard").with_arg(args.clone()).await.unwrap();
    assert!(Decode!(&reply, Result<PutShardResult, ModelError>).unwrap().unwrap().newly_stored);

    let args_read = Encode!(&GetShardArgs { model_id: artifact.id, index: 0 }).unwrap();
    let reply = me.query(&repository, "get_shard").with_arg(args_read).await.unwrap();
    let shard = Decode!(&reply, Result<ByteBuf, ModelError>).unwrap().unwrap();
    assert_eq!(shard.as_slice(), artifact.shards[0]);

    // Another key is another principal, whatever it claims to upload.
    let other = client(url, BasicIdentity::from_raw_key(&[6; 32])).await;
    let reply = other.update(&repository, "put_shard").with_arg(args).await.unwrap();
    let refused = Decode!(&reply, Result<PutShardResult, ModelError>).unwrap();
    assert_eq!(refused, Err(ModelError::Unauthorized { required: Role::Uploader }));
}
