import { useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
import { Principal } from "@icp-sdk/core/principal";
import { type modelTypes, optional, tag, unwrap } from "@ohms/client";
import { type FormEvent, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, ConfirmButton, ErrorNotice, Field, Id, Input, More, Notice, PageHeading, Panel, Select, Table } from "../../components/ui.tsx";
import { mayVote, useRights } from "../../queries.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";

const ROLES = {
  Uploader: "Uploader: uploads models",
  Auditor: "Auditor: reads pending models, has models validated again",
  Admin: "Admin: proposes and votes",
  Owner: "Owner: votes, and may stop any proposal alone",
};
type RoleName = keyof typeof ROLES;

const roleOf = (name: RoleName) => ({ [name]: null }) as unknown as modelTypes.Role;

/** Who may do what in the model repository. */
export function RolesPage() {
  const { model } = useCanisters();
  const { principal: me } = useSignedIn();
  const rights = useRights();
  const queries = useQueryClient();
  const [who, setWho] = useState("");
  const [role, setRole] = useState<RoleName>("Uploader");
  const refresh = () => queries.invalidateQueries({ queryKey: [me.toText()] });
  const roles = useInfiniteQuery({
    queryKey: [me.toText(), "roles"],
    initialPageParam: undefined as modelTypes.RoleGrant | undefined,
    queryFn: ({ pageParam }) => model.list_roles({ after: pageParam ? [pageParam] : [], limit: 50 }),
    getNextPageParam: (page) => optional(page.next),
  });
  const granting = useMutation({
    mutationFn: async () => {
      let principal: Principal;
      try {
        principal = Principal.fromText(who.trim());
      } catch {
        throw new Error(`“${who.trim()}” is no principal: it looks like aaaaa-aa or longer`);
      }
      return unwrap(await model.propose({ GrantRole: { principal, role: roleOf(role) } }));
    },
    onSuccess: () => setWho(""),
    onSettled: refresh,
  });
  const revoking = useMutation({ mutationFn: async (grant: modelTypes.RoleGrant) => unwrap(await model.propose({ RevokeRole: grant })), onSettled: refresh });
  const admin = mayVote(rights.data);
  const proposed = [granting.data, revoking.data].some((proposal) => proposal && "Open" in proposal.state);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    granting.mutate();
  };
  return (
    <>
      <PageHeading title="Roles" lead="Who may do what in the model repository. Every change is in the audit log." />
      <div className="grid gap-4">
        {proposed && <Notice>Proposed. It is done as soon as enough others approve it, under Proposals.</Notice>}
        {revoking.error && <ErrorNotice error={revoking.error} />}
        <Panel>
          <Loaded query={roles}>
            {({ pages }) => {
              const all = pages.flatMap((page) => page.grants);
              return (
                <>
                  <Table
                    label="Roles"
                    rows={all}
                    keyOf={(grant) => `${grant.principal.toText()} ${tag(grant.role)}`}
                    columns={[
                      {
                        title: "Principal",
                        cell: (grant) => (
                          <span className="inline-flex items-center gap-2">
                            <Id value={grant.principal.toText()} label="principal" />
                            {grant.principal.compareTo(me) === "eq" && <Badge tone="accent">you</Badge>}
                          </span>
                        ),
                      },
                      { title: "Role", cell: (grant) => tag(grant.role) },
                      {
                        title: "",
                        right: true,
                        cell: (grant) =>
                          admin && (
                            <ConfirmButton label="Revoke" title={`Revoke the role ${tag(grant.role)}?`} confirm="Revoke" busy={revoking.isPending} onConfirm={() => revoking.mutate(grant)}>
                              {grant.principal.toText()} loses it at once.
                            </ConfirmButton>
                          ),
                      },
                    ]}
                  />
                  <More shown={all.length} hasMore={roles.hasNextPage} busy={roles.isFetchingNextPage} onMore={() => void roles.fetchNextPage()} />
                </>
              );
            }}
          </Loaded>
        </Panel>
        {admin && (
          <Panel title="Grant a role">
            <form onSubmit={submit} className="grid gap-4">
              <div className="grid gap-4 sm:grid-cols-2">
                <Field label="Principal">
                  {(ids) => <Input {...ids} required autoComplete="off" spellCheck={false} maxLength={63} value={who} onChange={(event) => setWho(event.target.value)} />}
                </Field>
                <Field label="Role">
                  {(ids) => (
                    <Select {...ids} value={role} onChange={(event) => setRole(event.target.value as RoleName)}>
                      {Object.entries(ROLES).map(([name, words]) => (
                        <option key={name} value={name}>
                          {words}
                        </option>
                      ))}
                    </Select>
                  )}
                </Field>
              </div>
              {granting.error && <ErrorNotice error={granting.error} />}
              <div>
                <Button look="primary" type="submit" busy={granting.isPending}>
                  Grant
                </Button>
              </div>
            </form>
          </Panel>
        )}
      </div>
    </>
  );
}
