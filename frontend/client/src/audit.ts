import type { Principal } from "@icp-sdk/core/principal";
import type { AuditEntry, AuditEvent, Policy, ProposalAction, RoleGrant } from "./generated/model.did.ts";
import { concat, equal, hex, sha256 } from "./hash.ts";
import { tag } from "./results.ts";

/** Result of checking a chain of audit entries. */
export interface ChainCheck {
  /** Entries that were checked. */
  entries: number;
  /** The first entry that is not what it claims to be, or does not follow the one before. */
  broken?: bigint;
}

const utf8 = (text: string) => new TextEncoder().encode(text);
const counted = (text: string) => `${utf8(text).length}:${text}`;
const grant = (name: string, it: RoleGrant) => `${name}\n${it.principal.toText()}\n${tag(it.role)}\n`;

function policy(it: Policy): string {
  const values = [it.approvals, it.proposal_ttl_seconds, it.require_signature, it.uploader_quota_bytes, it.abandoned_after_seconds];
  return values.map((value) => `${value}\n`).join("");
}

/** Rust's way to write an optional number. */
const some = (value: [] | [bigint]) => (value.length === 0 ? "None" : `Some(${value[0]})`);

function canonicalAction(action: ProposalAction): string {
  if ("Activate" in action) return `activate\n${hex(action.Activate.model_id)}\n`;
  if ("Deprecate" in action) return `deprecate\n${hex(action.Deprecate.model_id)}\n${counted(action.Deprecate.reason)}\n`;
  if ("GrantRole" in action) return grant("grant_role", action.GrantRole);
  if ("RevokeRole" in action) return grant("revoke_role", action.RevokeRole);
  if ("SetPolicy" in action) return `set_policy\n${policy(action.SetPolicy)}`;
  if ("SetQuota" in action) return `set_quota\n${action.SetQuota.uploader.toText()}\n${some(action.SetQuota.bytes)}\n`;
  if ("AddRepository" in action) return `add_repository\n${action.AddRepository.canister.toText()}\n`;
  return `remove_repository\n${action.RemoveRepository.canister.toText()}\n`;
}

/** The text that an entry's hash covers; `AuditEvent::canonical` in `shared-types/src/model/audit.rs`. */
function canonical(event: AuditEvent): string {
  const model = (name: string, it: { model_id: Uint8Array | number[] }) => `${name}\n${hex(it.model_id)}\n`;
  const proposal = (end: string, it: { id: bigint }) => `proposal_${end}\n${it.id}\n`;
  if ("Installed" in event) {
    return `installed\n${event.Installed.admins.map((admin: Principal) => `${admin.toText()}\n`).join("")}`;
  }
  if ("Upgraded" in event) return `upgraded\n${counted(event.Upgraded.version)}\n`;
  if ("RoleGranted" in event) return grant("role_granted", event.RoleGranted);
  if ("RoleRevoked" in event) return grant("role_revoked", event.RoleRevoked);
  if ("UploadBegun" in event) return model("upload_begun", event.UploadBegun);
  if ("ShardStored" in event) return `${model("shard_stored", event.ShardStored)}${event.ShardStored.index}\n`;
  if ("UploadFinished" in event) return model("upload_finished", event.UploadFinished);
  if ("UploadDiscarded" in event) return model("upload_discarded", event.UploadDiscarded);
  if ("Activated" in event) return model("activated", event.Activated);
  if ("Deprecated" in event) return `${model("deprecated", event.Deprecated)}${counted(event.Deprecated.reason)}\n`;
  if ("Validated" in event) {
    const { passed, report } = event.Validated;
    return `${model("validated", event.Validated)}${passed}\n${hex(report)}\n`;
  }
  if ("UploadCollected" in event) return model("upload_collected", event.UploadCollected);
  if ("ProposalMade" in event) return `${proposal("made", event.ProposalMade)}${canonicalAction(event.ProposalMade.action)}`;
  if ("ProposalApproved" in event) return proposal("approved", event.ProposalApproved);
  if ("ProposalOpposed" in event) return proposal("opposed", event.ProposalOpposed);
  if ("ProposalExecuted" in event) return proposal("executed", event.ProposalExecuted);
  if ("ProposalFailed" in event) return `${proposal("failed", event.ProposalFailed)}${counted(event.ProposalFailed.reason)}\n`;
  if ("ProposalRejected" in event) return proposal("rejected", event.ProposalRejected);
  if ("ProposalExpired" in event) return proposal("expired", event.ProposalExpired);
  if ("PolicySet" in event) return `policy_set\n${policy(event.PolicySet)}`;
  if ("QuotaSet" in event) return `quota_set\n${event.QuotaSet.uploader.toText()}\n${some(event.QuotaSet.bytes)}\n`;
  if ("KeyRegistered" in event) return `key_registered\n${event.KeyRegistered.public_key}\n`;
  if ("KeyRevoked" in event) return `key_revoked\n${event.KeyRevoked.uploader.toText()}\n${event.KeyRevoked.public_key}\n`;
  if ("RepositoryAdded" in event) return `repository_added\n${event.RepositoryAdded.canister.toText()}\n`;
  if ("RepositoryRemoved" in event) return `repository_removed\n${event.RepositoryRemoved.canister.toText()}\n`;
  return event.Unknown.canonical;
}

function littleEndian(number: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, number, true);
  return new Uint8Array(view.buffer);
}

/** The hash that an entry of the audit log must have. */
export function auditHash(entry: AuditEntry): Uint8Array {
  return sha256(
    concat([
      utf8("ohms-audit-1"),
      Uint8Array.from(entry.previous),
      littleEndian(entry.index),
      littleEndian(entry.time_ns),
      utf8(`${entry.actor.toText()}\n${canonical(entry.event)}`),
    ]),
  );
}

/** Checks a whole audit log: every entry is what it claims to be and follows the one before, and the last one is `head`. */
export function checkAuditChain(entries: AuditEntry[], head: Uint8Array | number[]): ChainCheck {
  let previous: Uint8Array | number[] = new Uint8Array(32);
  let index = 0n;
  for (const entry of entries) {
    const sound = entry.index === index && equal(entry.previous, previous) && equal(entry.hash, auditHash(entry));
    if (!sound) return { entries: entries.length, broken: index };
    previous = entry.hash;
    index += 1n;
  }
  return equal(previous, head) ? { entries: entries.length } : { entries: entries.length, broken: index };
}
