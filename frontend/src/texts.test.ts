import type { agentTypes } from "@ohms/client";
import { expect, test } from "vitest";
import { chatKey, newThread, nextMessages, randomSeed, threadOf } from "./conversation.ts";

const said = (role: "System" | "User" | "Assistant", content: string): agentTypes.ChatMessage => ({
  role: { [role]: null } as unknown as agentTypes.ChatRole,
  content,
});

test("a job's key names its conversation and turn", () => {
  const thread = newThread();
  expect(threadOf({ key: [chatKey(thread, 12)] })).toEqual({ thread, turn: 12 });
  expect(threadOf({ key: ["demo"] })).toBeUndefined();
  expect(threadOf({ key: [] })).toBeUndefined();
  expect(new TextEncoder().encode(chatKey(thread, 999_999)).length).toBeLessThanOrEqual(64);
});

test("a conversation goes on with what was said", () => {
  const history = [said("User", "Hello"), said("Assistant", "Hi")];
  expect(nextMessages(history, "Who are you?")).toEqual([...history, said("User", "Who are you?")]);
});

test("what does not fit is left out from the beginning, but not the instruction", () => {
  const long = "x".repeat(20_000);
  const history = [said("System", "Be kind"), said("User", long), said("Assistant", long), said("User", long), said("Assistant", "Yes")];
  const messages = nextMessages(history, "And?");
  expect(messages.map((message) => message.content.length)).toEqual([7, 20_000, 3, 4]);
  expect(Object.keys(messages[1]?.role ?? {})).toEqual(["User"]);
  const many = Array.from({ length: 400 }, (_, at) => said(at % 2 ? "Assistant" : "User", String(at)));
  expect(nextMessages(many, "And?").length).toBeLessThanOrEqual(64);
});

test("a seed fits into 53 bits", () => {
  for (let i = 0; i < 100; i++) expect(randomSeed()).toBeLessThan(2n ** 53n);
});
