import { expect, test } from "vitest";
import { isText, randomSeed, textKey } from "./texts.ts";

test("texts are found again by their jobs' keys", () => {
  expect(isText({ key: [textKey()] })).toBe(true);
  expect(textKey()).not.toBe(textKey());
  // Jobs of projects, of others, and without a key are none.
  expect(isText({ key: ["project:1:2"] })).toBe(false);
  expect(isText({ key: [] })).toBe(false);
});

test("seeds are numbers that every language reads as they are", () => {
  for (let i = 0; i < 100; i++) expect(randomSeed()).toBeLessThan(2n ** 53n);
});
