//! The certified state: the tree of the interface specification, its pruning, and the signatures of subnet and node.
//!
//! The root subnet signs with the root key; the certificates of other subnets carry a delegation of the root subnet.

use crate::{
    network::{IngressState, Network, RequestId, SubnetIndex, SubnetKind},
    reject::Reject,
};
use candid::Principal;
use ed25519_dalek::Signer as _;
use ic_certification::{
    Certificate, Delegation, HashTree, Label,
    hash_tree::{empty, fork, label, leaf, pruned},
};
use ic_verify_bls_signature::PrivateKey;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// A path in the state tree.
pub type Path = Vec<Vec<u8>>;

/// DER prefix of a BLS12-381 public key (interface specification, "Certification").
const BLS_DER_PREFIX: &[u8] = b"\x30\x81\x82\x30\x1d\x06\x0d\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x01\x02\x01\x06\x0c\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x02\x01\x03\x61\x00";
/// DER prefix of an Ed25519 public key (RFC 8410).
pub const ED25519_DER_PREFIX: &[u8] = &[48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0];
/// Domain separator of the state tree's root hash.
const STATE_ROOT_DOMAIN: &[u8] = b"\x0Dic-state-root";

/// The keys of a subnet (certificates) and of its only node (query answers).
#[derive(Deserialize)]
#[serde(from = "SavedSigner")]
pub struct Signer {
    seed: [u8; 32],
    subnet: PrivateKey,
    public_key: Arc<[u8]>,
    /// The root subnet's word for this subnet's key; the root subnet has none.
    delegation: Option<Delegation>,
    node: ed25519_dalek::SigningKey,
    node_key: Vec<u8>,
    node_id: Principal,
}

/// What the keys of a subnet are made from.
#[derive(Serialize, Deserialize)]
struct SavedSigner {
    seed: [u8; 32],
    delegation: Option<Delegation>,
}

impl From<SavedSigner> for Signer {
    fn from(SavedSigner { seed, delegation }: SavedSigner) -> Self {
        Self { delegation, ..Self::root(seed) }
    }
}

impl Serialize for Signer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SavedSigner { seed: self.seed, delegation: self.delegation.clone() }.serialize(serializer)
    }
}

impl Signer {
    /// The keys of the root subnet, made from `seed`.
    pub fn root(seed: [u8; 32]) -> Self {
        let mut scalar = seed;
        // Below the group's order, which begins with 0x73.
        scalar[0] &= 0x3f;
        let subnet = PrivateKey::deserialize(&scalar).expect("a scalar below the group's order is a key");
        let public_key: Arc<[u8]> = [BLS_DER_PREFIX, &subnet.public_key().serialize()].concat().into();
        let node = ed25519_dalek::SigningKey::from_bytes(&seed);
        let node_key = [ED25519_DER_PREFIX, node.verifying_key().as_bytes()].concat();
        let node_id = Principal::self_authenticating(&node_key);
        Self { seed, subnet, public_key, delegation: None, node, node_key, node_id }
    }

    /// The keys of the subnet number `index`, made from `seed`, with a delegation of the root subnet for the canister ids in
    /// `ranges`.
    pub fn delegated(
        seed: [u8; 32],
        index: usize,
        root: &Self,
        kind: SubnetKind,
        ranges: &[(Principal, Principal)],
        time: u64,
    ) -> Self {
        let own_seed = Sha256::new().chain_update(seed).chain_update(index.to_be_bytes()).finalize();
        let mut signer = Self::root(own_seed.into());
        let mut tree = Node::new();
        tree.set(&[b"time"], leb128(time));
        signer.describe(&mut tree, kind, ranges);
        signer.delegation = Some(Delegation {
            subnet_id: signer.subnet_id().as_slice().to_vec(),
            certificate: root.certificate(tree.witness(&[&[]])),
        });
        signer
    }

    /// The subnet's id, which follows from its key.
    pub fn subnet_id(&self) -> Principal {
        Principal::self_authenticating(&*self.public_key)
    }

    /// The subnet's DER-encoded key.
    pub fn public_key(&self) -> &Arc<[u8]> {
        &self.public_key
    }

    /// The node's id.
    pub fn node_id(&self) -> Principal {
        self.node_id
    }

    /// The node's signature of `message`.
    pub fn sign_as_node(&self, message: &[u8]) -> Vec<u8> {
        self.node.sign(message).to_bytes().to_vec()
    }

    fn certificate(&self, tree: HashTree) -> Vec<u8> {
        let message = [STATE_ROOT_DOMAIN, &tree.digest()].concat();
        let signature = self.subnet.sign(&message).serialize().to_vec();
        cbor(&Certificate { tree, signature, delegation: self.delegation.clone() })
    }

    /// Puts what everybody may know about the subnet into a state tree.
    fn describe(&self, tree: &mut Node, kind: SubnetKind, ranges: &[(Principal, Principal)]) {
        let id = self.subnet_id();
        let id = id.as_slice();
        let first = ranges.first().map(|(first, _)| first.as_slice()).unwrap_or_default();
        let all = cbor(&ranges);
        tree.set(&[b"canister_ranges", id, first], all.clone());
        tree.set(&[b"subnet", id, b"canister_ranges"], all);
        tree.set(&[b"subnet", id, b"public_key"], self.public_key.to_vec());
        tree.set(&[b"subnet", id, b"type"], subnet_type(kind).into());
        tree.set(&[b"subnet", id, b"node", self.node_id.as_slice(), b"public_key"], self.node_key.clone());
    }
}

/// The registry's name for a kind of subnet.
fn subnet_type(kind: SubnetKind) -> &'static str {
    match kind {
        SubnetKind::NNS | SubnetKind::II | SubnetKind::Bitcoin | SubnetKind::System => "system",
        SubnetKind::VerifiedApplication => "verified_application",
        SubnetKind::CloudEngine => "cloud_engine",
        _ => "application",
    }
}

/// CBOR with the self-describing tag, as the HTTP interface uses it.
pub fn cbor(value: &impl Serialize) -> Vec<u8> {
    let mut serializer = serde_cbor::Serializer::new(Vec::new());
    let written = serializer.self_describe().and_then(|()| value.serialize(&mut serializer));
    written.expect("writing CBOR to memory does not fail");
    serializer.into_inner()
}

fn leb128(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    leb128::write::unsigned(&mut bytes, value).expect("writing to memory does not fail");
    bytes
}

/// The certificate of a canister's data. It is signed when it is first read: signing takes longer than most queries.
pub struct DataCertificate {
    tree: HashTree,
    signer: Arc<Signer>,
    bytes: OnceLock<Vec<u8>>,
}

impl DataCertificate {
    /// The certificate in CBOR.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get_or_init(|| self.signer.certificate(self.tree.clone()))
    }
}

impl std::fmt::Debug for DataCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataCertificate").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// A node of the state tree.
enum Node {
    Leaf(Vec<u8>),
    Tree(BTreeMap<Vec<u8>, Node>),
}

impl Node {
    fn new() -> Self {
        Self::Tree(BTreeMap::new())
    }

    /// Puts `value` at `path`; what stood in the way is replaced.
    fn set(&mut self, path: &[&[u8]], value: Vec<u8>) {
        let Some((first, rest)) = path.split_first() else {
            *self = Self::Leaf(value);
            return;
        };
        if let Self::Leaf(_) = self {
            *self = Self::new();
        }
        if let Self::Tree(children) = self {
            children.entry(first.to_vec()).or_insert_with(Self::new).set(rest, value);
        }
    }

    /// The hash tree, with everything pruned that is on none of `paths`.
    fn witness(&self, paths: &[&[Vec<u8>]]) -> HashTree {
        let children = match self {
            Self::Leaf(value) => return leaf(value.clone()),
            Self::Tree(children) => children,
        };
        let whole = paths.iter().any(|path| path.is_empty());
        // The neighbours of a missing label stay visible as labels: they prove its absence.
        let neighbours: Vec<&Vec<u8>> = paths
            .iter()
            .filter_map(|path| path.first())
            .flat_map(|l| [children.range(..=l.clone()).next_back(), children.range(l.clone()..).next()])
            .flatten()
            .map(|(label, _)| label)
            .collect();
        let parts = children.iter().map(|(name, child)| {
            let below: Vec<&[Vec<u8>]> =
                paths.iter().filter(|p| p.first() == Some(name)).map(|p| &p[1..]).collect();
            let labelled = |tree| label(Label::from_bytes(name), tree);
            if whole {
                labelled(child.witness(&[&[]]))
            } else if !below.is_empty() {
                labelled(child.witness(&below))
            } else if neighbours.contains(&name) {
                labelled(pruned(child.witness(&[&[]]).digest()))
            } else {
                pruned(labelled(child.witness(&[&[]])).digest())
            }
        });
        balance(parts.collect())
    }
}

fn balance(mut trees: Vec<HashTree>) -> HashTree {
    if trees.len() > 1 {
        let right = trees.split_off(trees.len() / 2);
        return fork(balance(trees), balance(right));
    }
    trees.pop().unwrap_or_else(empty)
}

impl Network {
    /// A certificate of `subnet` for `paths` of its state tree, and the time.
    pub fn certify(&self, subnet: SubnetIndex, paths: Vec<Path>) -> Vec<u8> {
        self.subnets()[subnet].signer.certificate(self.witness(subnet, paths))
    }

    /// A certificate for the state of a finished request; `None` when it is not finished.
    pub fn certify_request(&self, id: &RequestId) -> Option<Vec<u8>> {
        let request = self.ingress_request(id).filter(|request| request.is_done())?;
        Some(self.certify(request.subnet, vec![vec![b"request_status".to_vec(), id.to_vec()]]))
    }

    /// The certificate that a canister reads with `data_certificate_copy`; `None` when there is no such canister.
    pub(crate) fn certify_data(&self, id: Principal) -> Option<Arc<DataCertificate>> {
        let subnet = self.canister(id).ok()?.subnet;
        let path = vec![b"canister".to_vec(), id.as_slice().to_vec(), b"certified_data".to_vec()];
        let tree = self.witness(subnet, vec![path]);
        let signer = self.subnets()[subnet].signer.clone();
        Some(Arc::new(DataCertificate { tree, signer, bytes: OnceLock::new() }))
    }

    /// The state tree of `subnet` with everything pruned that is not on one of `paths`; the time is always there.
    fn witness(&self, subnet: SubnetIndex, mut paths: Vec<Path>) -> HashTree {
        let tree = self.state_tree(subnet, &paths);
        paths.push(vec![b"time".to_vec()]);
        let paths: Vec<&[Vec<u8>]> = paths.iter().map(Vec::as_slice).collect();
        tree.witness(&paths)
    }

    /// The state tree of `subnet`, as far as `paths` need it.
    fn state_tree(&self, subnet: SubnetIndex, paths: &[Path]) -> Node {
        let mut tree = Node::new();
        tree.set(&[b"time"], leb128(self.time()));
        for subnet in self.subnets() {
            let ranges: Vec<_> = subnet.canister_ranges().collect();
            subnet.signer.describe(&mut tree, subnet.kind, &ranges);
        }
        for path in paths {
            match path.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
                [b"canister", id, ..] => self.add_canister_state(&mut tree, subnet, id),
                [b"request_status", id, ..] => self.add_request_state(&mut tree, subnet, id),
                _ => {}
            }
        }
        tree
    }

    fn add_canister_state(&self, tree: &mut Node, subnet: SubnetIndex, id: &[u8]) {
        let canister = Principal::try_from_slice(id).ok().and_then(|id| self.canisters.get(&id));
        let Some(canister) = canister.filter(|canister| canister.subnet == subnet) else { return };
        let mut set =
            |path: &[&[u8]], value| tree.set(&[&[b"canister".as_slice(), id], path].concat(), value);
        set(&[b"certified_data"], canister.certified_data.clone());
        set(&[b"controllers"], cbor(&canister.settings.controllers.as_ref()));
        if let Some(code) = &canister.code {
            set(&[b"module_hash"], code.module.hash.to_vec());
            for (name, metadata) in &code.module.metadata {
                set(&[b"metadata", name.as_bytes()], metadata.content.clone());
            }
        }
    }

    fn add_request_state(&self, tree: &mut Node, subnet: SubnetIndex, id: &[u8]) {
        let request = RequestId::try_from(id).ok().and_then(|id| self.ingress_request(&id));
        let Some(request) = request.filter(|request| request.subnet == subnet) else { return };
        let mut set = |name: &[u8], value: &[u8]| tree.set(&[b"request_status", id, name], value.to_vec());
        match &request.state {
            IngressState::Processing => set(b"status", b"processing"),
            IngressState::Done(Ok(reply)) => {
                set(b"status", b"replied");
                set(b"reply", reply);
            }
            IngressState::Done(Err(Reject { code, message })) => {
                set(b"status", b"rejected");
                set(b"reject_code", &leb128(code.reject_code() as u64));
                set(b"reject_message", message.as_bytes());
                set(b"error_code", code.to_string().as_bytes());
            }
        }
    }
}
