// The auction of a session, computed again: who was drawn, how good each bid was, who was picked, who stands by.
//
// Integers only. Products of a score stay below 2^53 but for prices and lotteries, which are BigInt.

import { compare, concat, hex, same, toBigInt, utf8 } from "./bytes.js";
import { decodeMessage, DecodeError } from "./codec.js";
import { payloadDigest, recover, sha256, SignatureError } from "./signing.js";

// part: assignment, bid set, announcement, measurements, bid or receipt.
export class AuctionError extends Error {
  constructor(part, why, expected = "", actual = "") {
    super(`${part}: ${why}`);
    this.expected = expected;
    this.actual = actual;
  }
}

const EVERYONE_FACTOR = 4n;
const WIDENING_MAX = 32;
const DRAW_RANGE = 1n << 64n;
const ONE_BP = 10_000n;
const NEUTRAL_BP = 5_000n;
const MEASUREMENT_WEIGHT_BP_MAX = 3_000n;
const [SPEED_HALF, FIRST_TOKEN_HALF_MS, TASKS_HALF] = [40n, 500n, 4n];
const [PRICE_WEIGHT, SPEED_WEIGHT, LOAD_WEIGHT, FIRST_WEIGHT, REPUTATION_WEIGHT] = [3500n, 2000n, 2000n, 1500n, 1000n];
const NOBODY = "00".repeat(20);
const NO_GENERATION = "00".repeat(24);

// What follows from a bid set (untrusted) of a router, whoever was assigned then: the prices of usable bids by miner
// (hex), and the order in which leases are asked for. Throws AuctionError.
export function recomputeAuction(genesis, session, opening, router, envelope) {
  const { domain, params } = genesis;
  const content = openBidSet(domain, session, router, envelope);
  const announcement = openAnnouncement(domain, session, opening, router, content.announcement);
  const round = payloadDigest(domain, "Announcement", content.announcement.payload);
  const bids = content.bids.map((entry, position) => {
    const bid = openBid(domain, session, router, position, entry, round);
    if (!isDrawn(params, announcement, bid)) {
      throw new AuctionError("bid", `at position ${position} is of a miner that was not drawn`, "", hex(bid.miner));
    }
    return bid;
  });
  const usable = selectUsable(session, opening, bids);
  const order = rankBids(params, session, opening, usable, content.measurements);
  return { prices: new Map([...usable].map(([miner, bid]) => [miner, bid.price_wei])), order };
}

// Whether an assignment (untrusted) gives the session's lanes to miners, looking at nothing but the session. Throws
// AuctionError.
export function checkAssigned(session, opening, assignment) {
  const fail = (why, expected, actual) => {
    throw new AuctionError("assignment", why, expected, actual);
  };
  if (!same(assignment.session, session)) fail("of another session", hex(session), hex(assignment.session));
  if (!opening.routers.some((router) => same(router, assignment.router))) {
    fail("of a router that the client did not name", opening.routers.map(hex).join(" "), hex(assignment.router));
  }
  const { miners, generations } = assignment;
  if (miners.length !== opening.lanes || generations.length !== opening.lanes) {
    fail("not one miner and one lease for each lane", `${opening.lanes}`, `${miners.length} and ${generations.length}`);
  }
  const all = miners.map((miner, lane) => [hex(miner), hex(generations[lane])]);
  const held = all.filter(([miner, generation]) => miner !== NOBODY || generation !== NO_GENERATION);
  if (all[0][0] === NOBODY || held.some(([miner, generation]) => miner === NOBODY || generation === NO_GENERATION)) {
    fail("a lane has a miner and a lease, or neither; lane 0 has both");
  }
  for (const part of [0, 1]) {
    if (new Set(held.map((lease) => lease[part])).size !== held.length) fail("one lease or miner serves two lanes");
  }
}

// What is in an envelope; signer null stands for the miner that a bid names itself.
function unseal(domain, envelope, name, signer, part, where) {
  try {
    const content = decodeMessage(name, envelope.payload);
    const found = recover(payloadDigest(domain, name, envelope.payload), envelope.signature);
    const expected = signer ?? content.miner;
    if (!same(found, expected)) throw new AuctionError(part, `${where}signed by another`, hex(expected), hex(found));
    return content;
  } catch (error) {
    if (error instanceof DecodeError || error instanceof SignatureError) {
      throw new AuctionError(part, where + error.message);
    }
    throw error;
  }
}

function openBidSet(domain, session, router, envelope) {
  const content = unseal(domain, envelope, "BidSet", router, "bid set", "");
  if (!same(content.session, session)) {
    throw new AuctionError("bid set", "of another session", hex(session), hex(content.session));
  }
  const measured = new Set(content.measurements.map((measurement) => hex(measurement.miner)));
  if (measured.size !== content.measurements.length) throw new AuctionError("measurements", "two of one miner");
  return content;
}

function openAnnouncement(domain, session, opening, router, envelope) {
  const content = unseal(domain, envelope, "Announcement", router, "announcement", "");
  const asks = same(content.session, session) && same(content.model, opening.model) && same(content.router, router);
  if (!asks || content.lanes !== opening.lanes || content.price_cap_wei !== opening.price_cap_wei) {
    throw new AuctionError("announcement", "asks for something else than the client's session");
  }
  return content;
}

function openBid(domain, session, router, position, entry, round) {
  const where = `at position ${position} `;
  const bid = unseal(domain, entry.bid, "Bid", null, "bid", where);
  const receipt = unseal(domain, entry.receipt, "BidReceipt", router, "receipt", where);
  const digest = payloadDigest(domain, "Bid", entry.bid.payload);
  if (!same(receipt.session, session) || !same(receipt.bid, digest)) {
    throw new AuctionError("receipt", `${where}is of another bid`, hex(digest), hex(receipt.bid));
  }
  if (!same(receipt.announcement, round)) {
    throw new AuctionError("receipt", `${where}is of another round`, hex(round), hex(receipt.announcement));
  }
  if (receipt.position !== position) {
    throw new AuctionError("receipt", `${where}says another`, `${position}`, `${receipt.position}`);
  }
  return bid;
}

// The lottery

export function draw(session, node) {
  return toBigInt(sha256(concat(utf8("p2pnode/lottery/1"), session, node)).subarray(0, 8));
}

export function threshold(params, pool, widening) {
  if (BigInt(pool) <= EVERYONE_FACTOR * params.bid_target) return DRAW_RANGE;
  const winners = params.bid_target << BigInt(Math.min(widening, WIDENING_MAX));
  const limit = (winners * DRAW_RANGE + BigInt(pool) - 1n) / BigInt(pool);
  return limit < DRAW_RANGE ? limit : DRAW_RANGE;
}

function isDrawn(params, announcement, bid) {
  return draw(bid.session, bid.miner) < threshold(params, announcement.pool, announcement.widening);
}

// Scores

// The usable bids by miner (hex), of each the one with the lowest position.
function selectUsable(session, opening, bids) {
  const usable = new Map();
  for (const bid of bids) {
    const fits = same(bid.session, session) && same(bid.model, opening.model) && bid.price_wei <= opening.price_cap_wei;
    const free = bid.context_tokens !== 0 && bid.slots_free > 0 && bid.slots_free <= bid.slots_total;
    const miner = hex(bid.miner);
    if (fits && free && !usable.has(miner)) usable.set(miner, bid);
  }
  return usable;
}

export function publicScore(cap, bid, reputation = NEUTRAL_BP) {
  const weighted =
    PRICE_WEIGHT * priceScore(bid.price_wei, cap) +
    SPEED_WEIGHT * rising(bid.tokens_per_second, SPEED_HALF) +
    LOAD_WEIGHT * freeShare(bid.slots_free, bid.slots_total) +
    FIRST_WEIGHT * falling(bid.first_token_ms, FIRST_TOKEN_HALF_MS) +
    REPUTATION_WEIGHT * clipped(reputation);
  return weighted / ONE_BP;
}

export function measuredScore(measurement) {
  if (measurement === undefined) return NEUTRAL_BP;
  const seen =
    (5_000n * clipped(BigInt(measurement.success_bp)) +
      3_000n * rising(measurement.tokens_per_second, SPEED_HALF) +
      2_000n * falling(measurement.first_token_ms, FIRST_TOKEN_HALF_MS)) /
    ONE_BP;
  const tasks = BigInt(measurement.tasks);
  return (tasks * seen + TASKS_HALF * NEUTRAL_BP) / (tasks + TASKS_HALF);
}

function priceScore(price, cap) {
  if (cap === 0n) return ONE_BP;
  return (ONE_BP * (cap > price ? cap - price : 0n)) / cap;
}

function rising(value, half) {
  return (ONE_BP * BigInt(value)) / (BigInt(value) + half);
}

function falling(value, half) {
  return value ? (ONE_BP * half) / (half + BigInt(value)) : 0n;
}

function freeShare(free, total) {
  return (ONE_BP * BigInt(Math.min(free, total))) / BigInt(Math.max(total, 1));
}

function clipped(value) {
  return value > ONE_BP ? ONE_BP : value;
}

function rankBids(params, session, opening, usable, measurements) {
  const measured = new Map(measurements.map((measurement) => [hex(measurement.miner), measurement]));
  const weight =
    params.measurement_weight_bp < MEASUREMENT_WEIGHT_BP_MAX ? params.measurement_weight_bp : MEASUREMENT_WEIGHT_BP_MAX;
  const scored = [...usable].map(([name, bid]) => {
    const public_ = publicScore(opening.price_cap_wei, bid);
    const score = ((ONE_BP - weight) * public_ + weight * measuredScore(measured.get(name))) / ONE_BP;
    return { name, score, miner: bid.miner, tie: sha256(concat(utf8("p2pnode/tie/1"), session, bid.miner)) };
  });
  const picks = pick(session, opening.lanes, scored);
  const standbys = ranked(scored).filter((entry) => !picks.includes(entry));
  return [...picks, ...standbys].map((entry) => entry.name);
}

// Best first.
function ranked(scored) {
  return [...scored].sort((one, other) =>
    one.score !== other.score ? (one.score < other.score ? 1 : -1) : compare(one.tie, other.tie),
  );
}

// Of two miners drawn by the session's hash the better one, for each lane.
function pick(session, lanes, scored) {
  const left = [...scored].sort((one, other) => compare(one.miner, other.miner));
  const picked = [];
  for (let lane = 0; lane < lanes && left.length; lane++) {
    const drawn = left.length > 1 ? drawTwo(session, lane, left.length) : [0];
    const better = ranked(drawn.map((place) => left[place]))[0];
    picked.push(better);
    left.splice(left.indexOf(better), 1);
  }
  return picked;
}

function drawTwo(session, lane, count) {
  const digest = sha256(concat(utf8("p2pnode/pick/1"), session, Uint8Array.of(lane)));
  const first = Number(toBigInt(digest.subarray(0, 8)) % BigInt(count));
  const second = Number(toBigInt(digest.subarray(8, 16)) % BigInt(count - 1));
  return [first, second + (second >= first ? 1 : 0)];
}
