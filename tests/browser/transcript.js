// The bound chain of a lane, and what its result comes to.

import { concat, number, utf8, ZERO_32 } from "./bytes.js";
import { pack } from "./codec.js";
import { keccak, sha256, typedDigest } from "./signing.js";

export function promptCommitment(prompt) {
  return sha256(concat(utf8("p2pnode/prompt/1"), pack("Prompt", prompt)));
}

export function samplingDigest(sampling) {
  return sha256(concat(utf8("p2pnode/sampling/1"), pack("SamplingParams", sampling)));
}

// The chain after the token that makes the lane `index` tokens long.
export function advance(chain, index, token, text) {
  const data = new Uint8Array(49 + text.length);
  const view = new DataView(data.buffer);
  data[0] = 1;
  data.set(chain, 1);
  view.setBigUint64(33, BigInt(index));
  view.setUint32(41, token);
  view.setUint32(45, text.length);
  data.set(text, 49);
  return sha256(data);
}

// The chain after the end record.
export function closeChain(chain, end) {
  const counts = [end.prompt_tokens, end.completion_tokens, end.cached_tokens].map((count) => number(count, 4));
  return sha256(concat(Uint8Array.of(2), chain, Uint8Array.of(end.reason), ...counts));
}

// The running digest of segments, each named by its head's digest.
export function chainHeads(heads) {
  return heads.reduce((running, head) => keccak(concat(running, head)), ZERO_32);
}

// What a lane came to, in one digest.
export function resultRoot(domain, order, model, segments, chain, count) {
  const named = typedDigest(domain, "TaskOrder", order);
  return typedDigest(domain, "LaneResult", { order: named, prompt: order.prompt, model, segments, chain, count });
}

// What a miner commits to before it opens it.
export function commitment(domain, reveal) {
  const { session, task, lane, generation, miner, root, salt } = reveal;
  const place = concat(session, number(task, 4), number(lane, 1), generation, miner);
  return keccak(concat(utf8("p2pnode/commitment/1"), domain.separator, place, root, salt));
}

// An outcome as a leaf of the results tree.
export function outcomeLeaf(outcome) {
  const { session, task, lane, verdict, root, count, home_epoch, paid_wei } = outcome;
  const place = concat(Uint8Array.of(0), session, number(task, 4), number(lane, 1), number(verdict, 1), root);
  return keccak(concat(place, number(count, 8), number(home_epoch, 8), number(paid_wei, 8)));
}

// The root of the tree of as many leaves as the proof says that has a leaf at its place; null for no such tree. A
// Merkle mountain range: one perfect tree for each bit of the count, the highest first.
export function provedRoot(leaf, proof) {
  const { index, count, path } = proof;
  const others = [...proof.peaks];
  if (index >= count) return null;
  const peaks = [];
  let start = 0n;
  for (let level = 63n; level >= 0n; level--) {
    if (((count >> level) & 1n) === 0n) continue;
    const end = start + (1n << level);
    if (index < start || index >= end) {
      if (!others.length) return null;
      peaks.push(others.shift());
    } else {
      if (BigInt(path.length) !== level) return null;
      peaks.push(climb(leaf, index, path));
    }
    start = end;
  }
  return others.length ? null : keccak(concat(Uint8Array.of(2), number(count, 8), ...peaks));
}

function climb(leaf, index, path) {
  return path.reduce((node, beside, low) => {
    const right = (index >> BigInt(low)) & 1n;
    return keccak(concat(Uint8Array.of(1), right ? beside : node, right ? node : beside));
  }, leaf);
}
