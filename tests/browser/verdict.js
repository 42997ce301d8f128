// The links of a receipt, by name and in order, and what comes out of checking them.

import { hex, same } from "./bytes.js";

export const LINKS = [
  "format", "network", "session", "order", "prompt", "bids", "assignment", "segments", "tokens", "frames", "end",
  "acks", "commit", "reveal", "handover", "observations", "certificate", "outcome", "checkpoint",
];

export const LEVELS = ["streamed", "committed", "certified", "finalized", "settled"];
export const [STREAMED, COMMITTED, CERTIFIED, FINALIZED, SETTLED] = [0, 1, 2, 3, 4];

// A link does not hold; expected and actual are for people, empty where there is nothing to compare.
export class LinkBroken extends Error {
  constructor(why, expected = "", actual = "") {
    super(why);
    this.expected = shown(expected);
    this.actual = shown(actual);
  }
}

// The receipt has nothing for a link.
export class LinkSkipped extends Error {}

// A link rests on what the reader has no reason to believe: `level` cannot be shown.
export class LinkUntrusted extends Error {
  constructor(why, level) {
    super(why);
    this.level = level;
  }
}

export function shown(value) {
  if (value instanceof Uint8Array) return "0x" + hex(value);
  return Array.isArray(value) ? value.map(shown).join(" ") : `${value}`;
}

// Throws LinkBroken unless both are the same.
export function expect(why, expected, actual) {
  if (!alike(expected, actual)) throw new LinkBroken(why, expected, actual);
}

function alike(one, other) {
  if (one instanceof Uint8Array) return same(one, other);
  if (Array.isArray(one)) return one.length === other.length && one.every((item, place) => alike(item, other[place]));
  if (typeof one === "bigint" || typeof other === "bigint") return BigInt(one) === BigInt(other);
  return one === other;
}
