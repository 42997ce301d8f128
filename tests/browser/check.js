// The verifier on a terminal, and for tests.
//
//   node check.js RECEIPT [--trust STRING]... [--network ID] [--now-ms MS] [--json]
//   node check.js --lines      one JSON a line in, one verdict a line out
//
// Ends with 0 if the receipt is verified to the level that it claims, 3 if the reader's trust does not reach so far, 1
// if it is invalid, 2 if there is nothing to verify. A line of `--lines` has the receipt in base64 as `receipt` (or
// takes that of the line before), the reader as `trust`, `network`, `now_ms` and `accepted` (what the chain has), and
// may say `flip`, a bit to turn over, or `times`, to measure.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { CommitteeError } from "./committee.js";
import { forgetSigners } from "./signing.js";
import { MalformedTrust, verifyReceipt } from "./verify.js";

const STATUS = { verified: 0, "not enough trust": 3, invalid: 1 };
const SIGNS = { holds: "✓", failed: "✗", untrusted: "?", skipped: "-" };

function show(verdict) {
  for (const { link, mark, why } of verdict.links) console.log(`${SIGNS[mark]} ${link.padEnd(13)}${why}`);
  if (verdict.verdict === "invalid") {
    console.log(`invalid at ${verdict.link}: ${verdict.why}`);
    if (verdict.expected || verdict.actual) console.log(`  expected ${verdict.expected}\n  actual   ${verdict.actual}`);
  } else console.log(`${verdict.verdict}: ${verdict.level}` + (verdict.why ? `; ${verdict.link}: ${verdict.why}` : ""));
}

async function answerLines() {
  let receipt = null;
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    if (asked.receipt !== undefined) receipt = Buffer.from(asked.receipt, "base64");
    const data = Uint8Array.from(receipt);
    if (asked.flip !== undefined) data[asked.flip >> 3] ^= 1 << (asked.flip & 7);
    const accepted = asked.accepted ? (digest) => asked.accepted.includes(digest) : null;
    const reader = { trust: asked.trust ?? [], network: asked.network ?? null, nowMs: asked.now_ms ?? null, accepted };
    const verdict = verifyReceipt(data, reader);
    if (asked.times !== undefined) verdict.ms = Array.from({ length: asked.times }, () => timed(data, reader));
    process.stdout.write(JSON.stringify(verdict) + "\n");
  }
}

// Milliseconds to verify, every signature anew.
function timed(data, reader) {
  forgetSigners();
  const before = performance.now();
  verifyReceipt(data, reader);
  return performance.now() - before;
}

function checkOne(path, { trust, network, "now-ms": now, json }) {
  const nowMs = now === undefined ? Date.now() : Number(now);
  const verdict = verifyReceipt(readFileSync(path), { trust: trust ?? [], network: network ?? null, nowMs });
  if (json) console.log(JSON.stringify(verdict, null, 1));
  else show(verdict);
  process.exitCode = STATUS[verdict.verdict];
}

// The question cannot be answered as it stands.
function refuse(why) {
  console.error(why);
  process.exitCode = 2;
}

const options = {
  trust: { type: "string", multiple: true },
  network: { type: "string" },
  "now-ms": { type: "string" },
  json: { type: "boolean" },
  lines: { type: "boolean" },
};

// Null for a command line that cannot be understood.
function asked() {
  try {
    return parseArgs({ options, allowPositionals: true });
  } catch {
    return null;
  }
}

const { values, positionals } = asked() ?? { values: {}, positionals: [] };
if (values.lines) await answerLines();
else if (positionals.length !== 1) {
  refuse("usage: node check.js RECEIPT [--trust STRING]... [--network ID] [--now-ms MS] [--json]");
} else {
  try {
    checkOne(positionals[0], values);
  } catch (error) {
    const told = error instanceof MalformedTrust || error instanceof CommitteeError || error.syscall !== undefined;
    if (!told) throw error;
    refuse(error.message);
  }
}
