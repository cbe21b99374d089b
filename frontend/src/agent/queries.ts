import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { allPages, type agentTypes as types, optional, tag, unwrap } from "@ohms/client";
import { balanceOf } from "../economy/ledger.ts";
import { useCanisters, useSession } from "../session.tsx";

/** Items of a page. */
const PAGE = 25;
/** Turns of a conversation that are read at a time. */
const TURNS = 20;
/** Most conversations of an agent (`MAX_CONVERSATIONS` in `shared-types/src/agent/memory.rs`). */
const MOST_CONVERSATIONS = 1_000;

function useMe(): string {
  return useSession().principal?.toText() ?? "anonymous";
}

/** Does something to an agent, and reads again what is known of it. */
export function useAgentAction<T = void, R = unknown>(canister: string, action: (agent: types._SERVICE, argument: T) => Promise<R>) {
  const canisters = useCanisters();
  const queries = useQueryClient();
  return useMutation({
    mutationFn: (argument: T) => action(canisters.agent(canister), argument),
    onSettled: () => queries.invalidateQueries({ predicate: ({ queryKey }) => queryKey.includes(canister) }),
  });
}

/** What the agent is for. */
export function useProfile(canister: string) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "profile", canister],
    queryFn: async () => unwrap(await canisters.agent(canister).get_profile()),
  });
}

/** Conversations that the agent remembers, ordered by name. */
export function useConversations(canister: string) {
  const canisters = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "conversations", canister],
    initialPageParam: undefined as string | undefined,
    queryFn: async ({ pageParam }) =>
      unwrap(await canisters.agent(canister).list_conversations({ after: pageParam === undefined ? [] : [pageParam], limit: PAGE })),
    getNextPageParam: (page) => optional(page.next),
  });
}

/** Names of all conversations, the one that began last first. */
export function useConversationNames(canister: string) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "conversation-names", canister],
    queryFn: async () => {
      const all = await allPages(async (after: [] | [string]) => {
        const page = unwrap(await canisters.agent(canister).list_conversations({ after, limit: 100 }));
        return { items: page.conversations, next: page.next };
      }, MOST_CONVERSATIONS);
      return all.sort((a, b) => Number(b.begun_at_ns - a.begun_at_ns)).map(({ name }) => name);
    },
  });
}

/** Whether the answer to a turn is still to come. */
export const isOpenTurn = (turn: types.Turn) => turn.answer.length === 0 && !turn.failed;

/** A conversation with its turns, from the newest page on; pages are oldest turn first. */
export function useTurns(canister: string, name: string | undefined) {
  const canisters = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "turns", canister, name],
    enabled: name !== undefined,
    initialPageParam: undefined as number | undefined,
    queryFn: async ({ pageParam }) => {
      const agent = canisters.agent(canister);
      const read = async (after: [] | [number], limit: number) => unwrap(await agent.get_conversation({ name: name ?? "", after, limit }));
      const end = pageParam ?? (await read([], 1)).conversation.turns;
      const page = await read(end > TURNS ? [end - TURNS - 1] : [], TURNS);
      const turns = page.turns.filter((turn) => turn.index < end);
      const first = turns[0]?.index;
      return { conversation: page.conversation, turns, before: first === undefined || first === 0 ? undefined : first };
    },
    getNextPageParam: (page) => page.before,
    refetchInterval: ({ state }) => {
      const newest = state.data?.pages[0];
      const moves = newest && (newest.conversation.summary_job.length > 0 || newest.turns.some(isOpenTurn));
      return moves ? 1_500 : 30_000;
    },
  });
}

/** What the agent remembers, oldest first. */
export function useFacts(canister: string) {
  const canisters = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "facts", canister],
    initialPageParam: undefined as bigint | undefined,
    queryFn: async ({ pageParam }) =>
      unwrap(await canisters.agent(canister).list_facts({ after: pageParam === undefined ? [] : [pageParam], limit: PAGE })),
    getNextPageParam: (page) => optional(page.next),
  });
}

/** Facts that fit a text; none for an empty one. */
export function useFoundFacts(canister: string, text: string) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "found-facts", canister, text],
    enabled: text !== "",
    queryFn: async () => unwrap(await canisters.agent(canister).search_facts({ text, limit: PAGE, vector: [], encoder: [] })),
  });
}

/** Everything that an agent remembers, as lines of JSON. `onPage` hears how many lines there are so far. */
export async function exportMemory(read: (args: types.ExportMemoryArgs) => ReturnType<types._SERVICE["export_memory"]>, onPage: (lines: number) => void = () => undefined): Promise<string> {
  let text = "";
  let lines = 0;
  for (let after: [] | [types.ExportCursor] = []; ; ) {
    const page: types.ExportedMemory = unwrap(await read({ after }));
    text += page.lines;
    lines += page.lines.split("\n").length - 1;
    onPage(lines);
    if (page.next.length === 0) return text;
    after = page.next;
  }
}

/** The agent's account, address and ledgers. */
export function useWallet(canister: string) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "wallet", canister],
    staleTime: 0,
    queryFn: async () => unwrap(await canisters.agent(canister).wallet()),
    refetchInterval: ({ state }) => (state.data && state.data.open_payments > 0n ? 2_000 : 10_000),
  });
}

/** What an account has at a ledger, in the token's smallest unit. */
export function useBalance(ledger: string, owner: string) {
  const { agent } = useSession();
  return useQuery({
    queryKey: [useMe(), "balance", owner, ledger],
    queryFn: () => balanceOf(agent, ledger, owner),
    refetchInterval: 15_000,
  });
}

/** Whether a payment has come to its end. */
export const hasEnded = (payment: types.PaymentRecord) => !["AwaitingApproval", "Ready", "Submitted"].includes(tag(payment.state));

/** Payments that the agent keeps, newest first: at most 1,000 that have ended. */
export function usePayments(canister: string) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "payments", canister],
    staleTime: 0,
    queryFn: async () => {
      const payments = await allPages(async (after: [] | [bigint]) => {
        const page = unwrap(await canisters.agent(canister).list_payments({ after, limit: 100 }));
        return { items: page.payments, next: page.next };
      });
      return payments.reverse();
    },
    refetchInterval: ({ state }) => (state.data?.some((payment) => !hasEnded(payment)) ? 2_000 : 10_000),
  });
}
