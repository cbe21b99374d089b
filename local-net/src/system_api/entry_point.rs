//! From where a system call may be made.
//!
//! The letters are those of the interface specification's table "Overview of imports".

/// The kind of function the canister is executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryPoint {
    /// The module's `(start)` function.
    Start,
    /// `canister_init`.
    Init,
    /// `canister_pre_upgrade`.
    PreUpgrade,
    /// `canister_post_upgrade`.
    PostUpgrade,
    /// `canister_update …`.
    Update,
    /// `canister_query …` called as an update.
    ReplicatedQuery,
    /// `canister_query …` called as a query.
    Query,
    /// `canister_query …` as the transform of an HTTP outcall.
    Transform,
    /// `canister_composite_query …`.
    CompositeQuery,
    /// A reply callback.
    Reply,
    /// A reject callback.
    Reject,
    /// A cleanup callback.
    Cleanup,
    /// A reply callback in a composite query.
    CompositeReply,
    /// A reject callback in a composite query.
    CompositeReject,
    /// A cleanup callback in a composite query.
    CompositeCleanup,
    /// `canister_inspect_message`.
    InspectMessage,
    /// `canister_heartbeat`, `canister_global_timer` or `canister_on_low_wasm_memory`.
    SystemTask,
}

/// A set of entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoints(u32);

impl EntryPoints {
    /// Whether `entry` is in the set.
    pub const fn contains(self, entry: EntryPoint) -> bool {
        self.0 & (1 << entry as u32) != 0
    }

    /// The set with these members.
    pub const fn of(entries: &[EntryPoint]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < entries.len() {
            bits |= 1 << entries[i] as u32;
            i += 1;
        }
        Self(bits)
    }

    /// The set with the members of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `*`: everywhere but in `(start)`.
pub const ALL: EntryPoints = EntryPoints(!EntryPoints::of(&[EntryPoint::Start]).0);
/// `* s`: everywhere.
pub const ALL_AND_START: EntryPoints = EntryPoints(!0);
/// `F`.
pub const INSPECT: EntryPoints = EntryPoints::of(&[EntryPoint::InspectMessage]);
/// `Ry Rt`.
pub const CALLBACKS: EntryPoints = EntryPoints::of(&[EntryPoint::Reply, EntryPoint::Reject]);
/// `CRy CRt`.
const COMPOSITE_CALLBACKS: EntryPoints =
    EntryPoints::of(&[EntryPoint::CompositeReply, EntryPoint::CompositeReject]);
/// `U RQ Ry Rt`: where cycles can be accepted.
pub const CYCLES: EntryPoints =
    EntryPoints::of(&[EntryPoint::Update, EntryPoint::ReplicatedQuery]).and(CALLBACKS);
/// `U RQ NRQ TQ CQ Ry Rt CRy CRt`: where a call can be answered.
pub const ANSWER: EntryPoints = CYCLES.and(COMPOSITE_CALLBACKS).and(EntryPoints::of(&[
    EntryPoint::Query,
    EntryPoint::Transform,
    EntryPoint::CompositeQuery,
]));
/// `U CQ Ry Rt CRy CRt T`: where calls can be made.
pub const CALL: EntryPoints =
    EntryPoints::of(&[EntryPoint::Update, EntryPoint::CompositeQuery, EntryPoint::SystemTask])
        .and(CALLBACKS)
        .and(COMPOSITE_CALLBACKS);
/// `U Ry Rt T`: where calls can carry cycles.
pub const CALL_CYCLES: EntryPoints =
    EntryPoints::of(&[EntryPoint::Update, EntryPoint::SystemTask]).and(CALLBACKS);
/// `I U RQ NRQ TQ CQ Ry CRy F`: where there is an argument.
pub const ARGUMENT: EntryPoints = EntryPoints::of(&[
    EntryPoint::Init,
    EntryPoint::PostUpgrade,
    EntryPoint::Update,
    EntryPoint::ReplicatedQuery,
    EntryPoint::Query,
    EntryPoint::Transform,
    EntryPoint::CompositeQuery,
    EntryPoint::Reply,
    EntryPoint::CompositeReply,
    EntryPoint::InspectMessage,
]);
/// `U RQ NRQ CQ Ry Rt CRy CRt C CC F`: where the caller can have sender information.
pub const CALLER_INFO: EntryPoints = CYCLES.and(COMPOSITE_CALLBACKS).and(INSPECT).and(EntryPoints::of(&[
    EntryPoint::Query,
    EntryPoint::CompositeQuery,
    EntryPoint::Cleanup,
    EntryPoint::CompositeCleanup,
]));
/// `Ry Rt CRy CRt C`: where there is a reject code.
pub const REJECT_CODE: EntryPoints =
    CALLBACKS.and(COMPOSITE_CALLBACKS).and(EntryPoints::of(&[EntryPoint::Cleanup]));
/// `Rt CRt`: where there is a reject message.
pub const REJECT_MESSAGE: EntryPoints = EntryPoints::of(&[EntryPoint::Reject, EntryPoint::CompositeReject]);
/// `U RQ NRQ CQ Ry Rt CRy CRt`: where there may be a deadline.
pub const DEADLINE: EntryPoints =
    CYCLES.and(COMPOSITE_CALLBACKS).and(EntryPoints::of(&[EntryPoint::Query, EntryPoint::CompositeQuery]));
/// `I G`: the hooks of installation and upgrade.
const INSTALL: EntryPoints =
    EntryPoints::of(&[EntryPoint::Init, EntryPoint::PreUpgrade, EntryPoint::PostUpgrade]);
/// `I G U Ry Rt T`: where certified data can be set.
pub const CERTIFY: EntryPoints = INSTALL.and(CALL_CYCLES);
/// `I G U Ry Rt C T`: where the global timer can be set.
pub const TIMER: EntryPoints = CERTIFY.and(EntryPoints::of(&[EntryPoint::Cleanup]));
/// `I G U RQ Ry Rt C T`: where cycles can be burned and the root key read.
pub const BURN: EntryPoints = TIMER.and(EntryPoints::of(&[EntryPoint::ReplicatedQuery]));
/// `NRQ CQ`: where a data certificate can be read.
pub const CERTIFICATE: EntryPoints = EntryPoints::of(&[EntryPoint::Query, EntryPoint::CompositeQuery]);

impl EntryPoint {
    /// How error messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Init => "init",
            Self::PreUpgrade => "pre upgrade",
            Self::PostUpgrade => "post upgrade",
            Self::Update => "update",
            Self::ReplicatedQuery => "replicated query",
            Self::Query => "non replicated query",
            Self::Transform => "transform",
            Self::CompositeQuery => "composite query",
            Self::Reply => "reply callback",
            Self::Reject => "reject callback",
            Self::Cleanup => "cleanup",
            Self::CompositeReply => "composite reply callback",
            Self::CompositeReject => "composite reject callback",
            Self::CompositeCleanup => "composite cleanup",
            Self::InspectMessage => "inspect message",
            Self::SystemTask => "system task",
        }
    }

    /// Whether a long execution is cut into slices, which lie in different rounds.
    pub fn is_sliced(self) -> bool {
        self.is_replicated() && self != Self::ReplicatedQuery
    }

    /// Whether all replicas execute it and its changes are kept.
    pub fn is_replicated(self) -> bool {
        !matches!(
            self,
            Self::Query
                | Self::Transform
                | Self::CompositeQuery
                | Self::CompositeReply
                | Self::CompositeReject
                | Self::CompositeCleanup
                | Self::InspectMessage
        )
    }
}
