// The genesis file: whose hash is the network's id, and which says how everything in the network is checked.

import { compare, hex, unhex, utf8 } from "./bytes.js";
import { canonicalJson, JsonError, parseJson } from "./json.js";
import { Domain, sha256 } from "./signing.js";
import { PARAMS } from "./tables.js";

export class ParameterError extends Error {}

export const COMMITTEE_SIZES = [4, 7, 10, 13, 16, 19, 22, 25, 28, 31];

const FORMAT = 1n;
const BYTES_MAX = 1 << 20;
const ALLOCATION_MAX = 2n ** 62n;
const SETTLING_BLOCK_BYTES_MIN = 172_032n;
const KEYS = ["allocation", "chain_id", "committee", "contracts", "format", "founded_s", "miners", "name", "params"];
const CONTRACTS = ["registry", "evidence", "checkpoints", "escrow", "inbox", "models"];

// A genesis text (untrusted): networkId, domain, chainId, committee, params (BigInt), contracts, foundedS, and whether
// the text is the canonical one. Throws ParameterError.
export function parseGenesis(text) {
  if (text.length > BYTES_MAX) refuse(`a genesis file has at most ${BYTES_MAX} bytes`);
  const file = read(text);
  keys(file, KEYS, "a genesis file");
  if (file.get("format") !== FORMAT) refuse(`genesis format ${file.get("format")}; this verifier reads ${FORMAT}`);
  const name = file.get("name");
  if (typeof name !== "string" || !/^([^\p{C}\p{Z}]| ){1,64}$/u.test(name)) {
    refuse("the network's name has 1 to 64 printable characters");
  }
  const chainId = range(file.get("chain_id"), 0n, 2n ** 63n - 1n, "chain_id");
  const params = checkedParams(file.get("params"));
  const committee = nodes(file.get("committee"), "a member of the committee");
  if (committee.length && !COMMITTEE_SIZES.includes(committee.length)) refuse(`a committee of ${committee.length}`);
  if (distinct(committee) !== committee.length) refuse("the committee names each member once");
  const contracts = checkedContracts(file, chainId, committee, params);
  const foundedS = range(file.get("founded_s"), 0n, 2n ** 40n - 1n, "founded_s");
  checkAllocation(file.get("allocation"));
  rising(nodes(file.get("miners"), "a miner"), "miners");
  const canonical = canonicalJson(file);
  const networkId = sha256(utf8(canonical));
  const domain = new Domain(networkId, chainId);
  return { networkId, domain, chainId, committee, params, contracts, foundedS, canonical: canonical === text };
}

function refuse(why) {
  throw new ParameterError(why);
}

function read(text) {
  try {
    return parseJson(text);
  } catch (error) {
    if (error instanceof JsonError) refuse(`this is no genesis file: ${error.message}`);
    throw error;
  }
}

function keys(object, wanted, what) {
  if (!(object instanceof Map)) refuse(`${what} is an object`);
  const unknown = [...object.keys()].filter((key) => !wanted.includes(key));
  const wrong = [...wanted.filter((key) => !object.has(key)), ...unknown];
  if (wrong.length) refuse(`${what} has each field once; missing or unknown: ${wrong.slice(0, 8).join(", ")}`);
}

function range(value, low, high, what) {
  if (typeof value !== "bigint" || value < low || value > high) {
    refuse(`${what} must be an integer from ${low} to ${high}`);
  }
  return value;
}

function node(text, what) {
  if (typeof text !== "string" || !/^0x[0-9a-f]{40}$/.test(text)) {
    refuse(`${what} is named by 0x and 40 lower-case hexadecimal digits`);
  }
  return unhex(text.slice(2));
}

function nodes(array, what) {
  if (!Array.isArray(array)) refuse(`${what} stands in an array`);
  return array.map((text) => node(text, what));
}

function distinct(addresses) {
  return new Set(addresses.map(hex)).size;
}

function rising(addresses, what) {
  if (addresses.some((address, place) => place && compare(addresses[place - 1], address) >= 0)) {
    refuse(`the ${what} names each address once, in rising order`);
  }
}

function checkAllocation(allocation) {
  if (!(allocation instanceof Map)) refuse("the allocation is an object");
  let total = 0n;
  for (const [account, amount] of allocation) {
    node(account, "an account of the allocation");
    total += range(amount, 1n, ALLOCATION_MAX, "an allocation");
  }
  if (total > ALLOCATION_MAX) refuse(`all allocations together are at most ${ALLOCATION_MAX} wei`);
}

function checkedContracts(file, chainId, committee, params) {
  const content = file.get("contracts");
  if (content === null) return null;
  keys(content, ["start_block", ...CONTRACTS], "contracts");
  const contracts = Object.fromEntries(CONTRACTS.map((name) => [name, node(content.get(name), "a contract")]));
  range(content.get("start_block"), 0n, 2n ** 63n - 1n, "start_block");
  if (distinct(Object.values(contracts)) !== CONTRACTS.length) refuse("no two contracts are at one address");
  if (chainId === 0n) refuse("contracts need the chain_id of their chain");
  const allocation = file.get("allocation");
  if (!committee.length || !(allocation instanceof Map) || allocation.size) {
    refuse("with contracts there is a committee, and no allocation");
  }
  if (params.block_bytes_max < SETTLING_BLOCK_BYTES_MIN) refuse("with contracts blocks are larger");
  return contracts;
}

function checkedParams(content) {
  keys(content, Object.keys(PARAMS), "params");
  const params = {};
  for (const [name, [low, high]] of Object.entries(PARAMS)) {
    params[name] = range(content.get(name), BigInt(low), BigInt(high), name);
  }
  const p = params;
  const gossip = Object.keys(p).filter((name) => name.startsWith("gossip_") && name.endsWith("_per_second"));
  const relations = [
    [p.ack_every_tokens < p.unacked_tokens_max, "ack_every_tokens < unacked_tokens_max"],
    [p.frame_tokens_max <= p.unacked_tokens_max, "frame_tokens_max <= unacked_tokens_max"],
    [p.bids_good <= p.bids_max, "bids_good <= bids_max"],
    [p.bid_window_ms < p.announcement_lifetime_ms, "bid_window_ms < announcement_lifetime_ms"],
    [p.advert_interval_ms * 2n < p.advert_lifetime_ms, "2 × advert_interval_ms < advert_lifetime_ms"],
    [p.delta_ms <= p.resend_interval_ms, "delta_ms <= resend_interval_ms"],
    [p.router_share_bp + p.oracle_share_bp <= 5_000n, "miners keep at least half of their pay"],
    [COMMITTEE_SIZES.includes(Number(p.committee_size_max)), "committee_size_max = 3f+1"],
    [p.checkpoint_ms <= p.checkpoint_idle_ms, "checkpoint_ms <= checkpoint_idle_ms"],
    [gossip.reduce((total, name) => total + p[name], 0n) <= 100n, "the topics' budgets sum up to at most 100/s"],
  ];
  for (const [holds, relation] of relations) {
    if (!holds) refuse(`parameters must satisfy ${relation}`);
  }
  return params;
}
