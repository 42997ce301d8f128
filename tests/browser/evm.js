// What an EVM chain holds, without asking it: RLP and Merkle-Patricia tries, from a block's hash down to a word.

import { concat, hex, number, same, toBigInt } from "./bytes.js";
import { keccak, typedDigest } from "./signing.js";

// part: block, account, storage or word.
export class EvmError extends Error {
  constructor(part, why, expected = "", actual = "") {
    super(`${part}: ${why}`);
    this.expected = expected;
    this.actual = actual;
  }
}

const ACCEPTED_SLOT = 3;
const HEADER_BYTES_MAX = 1024;
const [HEADER_ITEMS_MIN, HEADER_ITEMS_MAX] = [15, 32];
const [STATE_ROOT, NUMBER, TIMESTAMP] = [3, 8, 11];
const [ACCOUNT_ITEMS, STORAGE_ROOT] = [4, 2];
const [BRANCH_ITEMS, PATH_ITEMS] = [17, 2];
const LONG_FROM = 55; // lengths above are written out
const WORD = (1n << 64n) - 1n;

// That the contract had accepted a header by the EVM block that another header anchors; when it did. Throws EvmError.
export function checkSettled(domain, checkpoints, header, anchored, evm) {
  const block = anchoredBlock(anchored, evm.block);
  const account = readList("account", trieValue("account", block.stateRoot, checkpoints, evm.account), ACCOUNT_ITEMS);
  if (account.length !== ACCOUNT_ITEMS) throw new EvmError("account", `an account has ${ACCOUNT_ITEMS} fields`);
  const root = hashOf("account", account[STORAGE_ROOT]);
  const slot = keccak(concat(number(ACCEPTED_SLOT, 32), typedDigest(domain, "Header", header)));
  const word = readNumber("storage", readItem("storage", trieValue("storage", root, slot, evm.storage)), 32);
  const [epoch, height, sequence] = [(word >> 64n) & WORD, (word >> 128n) & WORD, word >> 192n];
  if (epoch !== header.epoch || height !== header.height || sequence === 0n) {
    const [expected, actual] = [header, { epoch, height }].map((at) => `epoch ${at.epoch} height ${at.height}`);
    throw new EvmError("word", "the contract keeps another place of the header", expected, actual);
  }
  return word & WORD;
}

// The EVM block, given as RLP, at which a final header anchors the ledger. Throws EvmError.
export function anchoredBlock(header, block) {
  const found = keccak(block);
  if (!same(found, header.anchor_hash)) {
    throw new EvmError("block", "it is not the block that the header anchors", hex(header.anchor_hash), hex(found));
  }
  const read = readBlock(block);
  if (read.number !== header.anchor_number) {
    throw new EvmError("block", "the header anchors another number", `${header.anchor_number}`, `${read.number}`);
  }
  return read;
}

// Number, time and state root of an EVM block's header in RLP, of any fork. Throws EvmError.
export function readBlock(block) {
  if (block.length > HEADER_BYTES_MAX) throw new EvmError("block", `a header of more than ${HEADER_BYTES_MAX} bytes`);
  const items = readList("block", block, HEADER_ITEMS_MAX);
  if (items.length < HEADER_ITEMS_MIN) throw new EvmError("block", `a header of ${items.length} fields`);
  return {
    number: readNumber("block", items[NUMBER], 8),
    timeS: readNumber("block", items[TIMESTAMP], 8),
    stateRoot: hashOf("block", items[STATE_ROOT]),
  };
}

function hashOf(part, item) {
  if (item.isList || item.payload.length !== 32) throw new EvmError(part, "a hash of 32 bytes is due");
  return item.payload;
}

// RLP: only the shortest encoding of anything is one.

function readList(part, data, itemsMax) {
  const whole = readItem(part, data);
  if (!whole.isList) throw new EvmError(part, "it is not one RLP list");
  const found = [];
  let at = 0;
  while (at < whole.payload.length) {
    if (found.length === itemsMax) throw new EvmError(part, `an RLP list of more than ${itemsMax} items`);
    const item = itemAt(part, whole.payload, at);
    found.push(item);
    at += item.raw.length;
  }
  return found;
}

function readItem(part, data) {
  const item = itemAt(part, data, 0);
  if (item.raw.length !== data.length) throw new EvmError(part, "something follows its RLP");
  return item;
}

function itemAt(part, data, start) {
  if (start >= data.length) throw new EvmError(part, "its RLP is cut off");
  const first = data[start];
  if (first < 0x80) {
    const byte = data.subarray(start, start + 1);
    return { isList: false, payload: byte, raw: byte };
  }
  const isList = first >= 0xc0;
  let size = first - (isList ? 0xc0 : 0x80);
  let begin = start + 1;
  if (size > LONG_FROM) {
    const width = size - LONG_FROM;
    const written = data.subarray(begin, begin + width);
    // Lengths of more than six bytes are cut off anyway, and are no exact numbers.
    if (written.length !== width || written[0] === 0 || width > 6) {
      throw new EvmError(part, "its RLP writes a length otherwise than the shortest way, or is cut off");
    }
    size = Number(toBigInt(written));
    begin += width;
    if (size <= LONG_FROM) throw new EvmError(part, "its RLP writes a length otherwise than the shortest way");
  }
  const end = begin + size;
  if (end > data.length) throw new EvmError(part, "its RLP is cut off");
  if (!isList && size === 1 && data[begin] < 0x80) throw new EvmError(part, "a byte otherwise than the shortest way");
  return { isList, payload: data.subarray(begin, end), raw: data.subarray(start, end) };
}

function readNumber(part, item, bytesMax) {
  if (item.isList || item.payload.length > bytesMax || item.payload[0] === 0) {
    throw new EvmError(part, `an RLP number of at most ${bytesMax} bytes is due`);
  }
  return toBigInt(item.payload);
}

// What the trie of a root holds under keccak(key), by the nodes on the way there: all of them, and no others.
function trieValue(part, root, key, nodes) {
  const walk = { part, rest: hex(keccak(key)), wants: root, value: null };
  nodes.forEach((node, used) => {
    if (walk.wants === null) throw new EvmError(part, `only the first ${used} nodes are on the way to the key`);
    const found = keccak(node);
    if (!same(found, walk.wants)) {
      throw new EvmError(part, `node ${used} is not the one that is named`, hex(walk.wants), hex(found));
    }
    walk.wants = null;
    for (let inside = node; inside !== null; ) inside = step(walk, inside);
  });
  if (walk.wants !== null) throw new EvmError(part, "a node is missing, or more");
  if (walk.value === null) throw new EvmError(part, "the trie does not hold the key");
  return walk.value;
}

// One node; the next one if that stands inside it.
function step(walk, node) {
  const items = readList(walk.part, node, BRANCH_ITEMS);
  if (items.length === BRANCH_ITEMS) {
    if (!walk.rest) throw new EvmError(walk.part, "a branch lies deeper than any key leads");
    const nibble = parseInt(walk.rest[0], 16);
    walk.rest = walk.rest.slice(1);
    return child(walk, items[nibble]);
  }
  if (items.length !== PATH_ITEMS) throw new EvmError(walk.part, `a trie's node with ${items.length} items`);
  const { leaf, path } = pathOf(walk.part, items[0]);
  if (leaf) {
    if (items[1].isList) throw new EvmError(walk.part, "a leaf holds a list");
    walk.value = path === walk.rest ? items[1].payload : null;
    return null;
  }
  if (!path) throw new EvmError(walk.part, "an extension that leads nowhere");
  if (!walk.rest.startsWith(path)) return null;
  walk.rest = walk.rest.slice(path.length);
  return child(walk, items[1]);
}

function child(walk, item) {
  if (item.isList) {
    if (item.raw.length >= 32) throw new EvmError(walk.part, "a node inside another one that its hash would name");
    return item.raw;
  }
  if (item.payload.length) {
    if (item.payload.length !== 32) throw new EvmError(walk.part, "a node is named by 32 bytes");
    walk.wants = item.payload;
  }
  return null;
}

function pathOf(part, item) {
  const written = hex(item.payload);
  if (item.isList || !written || item.payload.length > 33) throw new EvmError(part, "a node without a path");
  const flag = parseInt(written[0], 16);
  const odd = flag & 1;
  if (flag > 3 || (!odd && written[1] !== "0")) throw new EvmError(part, "a path begins with what is no mark of one");
  return { leaf: Boolean(flag & 2), path: written.slice(2 - odd) };
}
