import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { hex, type modelTypes, optional, tag, unwrap } from "@ohms/client";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, Empty, ErrorNotice, Facts, Id, More, PageHeading, Panel, When } from "../../components/ui.tsx";
import { bytes, count, dateOf, duration } from "../../format.ts";
import { mayVote, useRights } from "../../queries.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { proposalAction, proposalState } from "../../words.ts";

/** What was proposed to the model repository, and how it is decided. */
export function ProposalsPage() {
  const { model } = useCanisters();
  const { principal } = useSignedIn();
  const proposals = useInfiniteQuery({
    queryKey: [principal.toText(), "proposals"],
    initialPageParam: undefined as bigint | undefined,
    queryFn: ({ pageParam }) => model.list_proposals({ before: pageParam === undefined ? [] : [pageParam], limit: 25, open_only: false }),
    getNextPageParam: (page) => optional(page.next),
    refetchInterval: 10_000,
  });
  const governance = useQuery({ queryKey: [principal.toText(), "governance"], queryFn: () => model.governance() });
  return (
    <>
      <PageHeading title="Proposals" lead="What changes the model repository is proposed, and done when enough have approved it." />
      <div className="grid gap-4">
        <Panel title="Rules">
          <Loaded query={governance} lines={2}>
            {({ policy, voters }) => (
              <Facts
                facts={[
                  ["Approvals needed", `${policy.approvals} of ${voters}`],
                  ["A proposal stays open", duration(Number(policy.proposal_ttl_seconds) * 1_000)],
                  ["Signed models only", policy.require_signature ? "yes" : "no"],
                  ["Quota of an uploader", bytes(policy.uploader_quota_bytes)],
                ]}
              />
            )}
          </Loaded>
        </Panel>
        <Loaded query={proposals} lines={5}>
          {({ pages }) => {
            const all = pages.flatMap((page) => page.proposals);
            if (all.length === 0) {
              return (
                <Panel>
                  <Empty title="Nothing was proposed yet">
                    <p>Activating a model or granting a role is a proposal.</p>
                  </Empty>
                </Panel>
              );
            }
            return (
              <>
                <ul className="grid gap-3">
                  {all.map((proposal) => (
                    <ProposalRow key={String(proposal.id)} proposal={proposal} />
                  ))}
                </ul>
                <More shown={all.length} hasMore={proposals.hasNextPage} busy={proposals.isFetchingNextPage} onMore={() => void proposals.fetchNextPage()} />
              </>
            );
          }}
        </Loaded>
      </div>
    </>
  );
}

function ProposalRow({ proposal }: { proposal: modelTypes.Proposal }) {
  const { model } = useCanisters();
  const { principal } = useSignedIn();
  const rights = useRights();
  const queries = useQueryClient();
  const vote = useMutation({
    mutationFn: async (method: "approve" | "reject") => unwrap(await model[method](proposal.id)),
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText()] }),
  });
  const state = proposalState(proposal.state);
  const mine = proposal.proposer.compareTo(principal) === "eq";
  const voted = [...proposal.approvals, ...proposal.rejections].some((voter) => voter.compareTo(principal) === "eq");
  return (
    <li className="grid gap-2 rounded-lg border border-line bg-panel px-4 py-3">
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
        <span className="font-medium">
          {String(proposal.id)}. {proposalAction(proposal.action)}
        </span>
        <Badge tone={state.tone}>{state.words}</Badge>
        <Subject action={proposal.action} />
      </div>
      <p className="flex flex-wrap items-center gap-x-2 text-sm text-ink-2">
        <span>
          by <Id value={proposal.proposer.toText()} label="principal" />
        </span>
        <When date={dateOf(proposal.created_at_ns)} />
        <span>
          {count(proposal.approvals.length, "approval")}, {count(proposal.rejections.length, "rejection")}
        </span>
        {"Failed" in proposal.state && <span className="text-bad">{proposal.state.Failed.reason}</span>}
      </p>
      {"Open" in proposal.state && mayVote(rights.data) && (
        <div className="flex gap-2">
          {!voted && (
            <Button look="primary" busy={vote.isPending} onClick={() => vote.mutate("approve")}>
              Approve
            </Button>
          )}
          <Button busy={vote.isPending} onClick={() => vote.mutate("reject")}>
            {mine ? "Take back" : "Reject"}
          </Button>
        </div>
      )}
      {vote.error && <ErrorNotice error={vote.error} />}
    </li>
  );
}

/** What the proposal is about: the fields of its action. */
function Subject({ action }: { action: modelTypes.ProposalAction }) {
  if ("Activate" in action || "Deprecate" in action) {
    const { model_id: modelId, reason } = "Activate" in action ? { ...action.Activate, reason: "" } : action.Deprecate;
    return (
      <span className="text-sm">
        <Link to="/admin/models/$model" params={{ model: hex(modelId) }} className="font-mono underline underline-offset-2">
          {hex(modelId).slice(0, 10)}…
        </Link>{" "}
        {reason}
      </span>
    );
  }
  if ("GrantRole" in action || "RevokeRole" in action) {
    const grant = "GrantRole" in action ? action.GrantRole : action.RevokeRole;
    return (
      <span className="text-sm">
        {tag(grant.role)} <Id value={grant.principal.toText()} label="principal" />
      </span>
    );
  }
  if ("SetPolicy" in action) return <span className="text-sm">{count(action.SetPolicy.approvals, "approval")} needed</span>;
  const of = "SetQuota" in action ? action.SetQuota.uploader : "AddRepository" in action ? action.AddRepository.canister : action.RemoveRepository.canister;
  return <Id value={of.toText()} label="principal" />;
}
