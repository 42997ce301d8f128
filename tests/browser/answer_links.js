// The links from the client's wish to the answer's signed end: all of them can be checked without trusting anybody.

import { AuctionError, checkAssigned, recomputeAuction } from "./auction.js";
import { hex, same, ZERO_32 } from "./bytes.js";
import { payloadDigest, recover, SignatureError, typedDigest } from "./signing.js";
import { advance, closeChain, promptCommitment, samplingDigest } from "./transcript.js";
import { expect, LinkBroken, LinkSkipped } from "./verdict.js";

// The client signed the SessionOpen, whose digest is the session's id.
export function checkSession(at) {
  const { opening, signature } = at.receipt.session;
  at.signed(at.session, signature, opening.client, "the session");
}

// The client signed the order, which names the session.
export function checkOrder(at) {
  const { order, order_signature, session } = at.receipt;
  expect("the order names another session", at.session, order.session);
  at.signed(at.order, order_signature, session.opening.client, "the order");
}

// The prompt and its sampling are those of the order.
export function checkPrompt(at) {
  const { prompt, order } = at.receipt;
  if (prompt === null) throw new LinkSkipped("redacted: the prompt is not shown");
  expect("the prompt has another commitment", order.prompt, promptCommitment(prompt));
  expect("the sampling has another digest", order.sampling, samplingDigest(prompt.sampling));
}

// Each bid set is of a router of the session; its auction is computed again.
export function checkBids(at) {
  const { opening } = at.receipt.session;
  for (const envelope of at.receipt.bid_sets) {
    const digest = payloadDigest(at.domain, "BidSet", envelope.payload);
    const router = auctioneer(digest, envelope.signature);
    if (!opening.routers.some((named) => same(named, router))) {
      throw new LinkBroken("the bid set is signed by no router of the session", opening.routers, router);
    }
    if (at.auctions.has(hex(digest))) throw new LinkBroken("one bid set twice", "each once", digest);
    at.auctions.set(hex(digest), { digest, router, auction: recomputed(at, opening, router, envelope) });
  }
  const bids = [...at.auctions.values()].reduce((total, { auction }) => total + auction.prices.size, 0);
  return `${bids} usable bids, every signature checked, the ranking computed again`;
}

function auctioneer(digest, signature) {
  try {
    return recover(digest, signature);
  } catch (error) {
    if (error instanceof SignatureError) throw new LinkBroken(`the bid set: ${error.message}`);
    throw error;
  }
}

function recomputed(at, opening, router, envelope) {
  try {
    return recomputeAuction(at.genesis, at.session, opening, router, envelope);
  } catch (error) {
    if (error instanceof AuctionError) throw new LinkBroken(error.message, error.expected, error.actual);
    throw error;
  }
}

// A router of the session signed each assignment, their numbers rise, and each gives lane 0 to a miner of the bid set
// that it names.
export function checkAssignment(at) {
  const { opening } = at.receipt.session;
  let number = -1;
  const named = new Map();
  for (const { assignment, signature } of at.receipt.assignments) {
    checkLanes(at, opening, assignment);
    at.signed(typedDigest(at.domain, "Assignment", assignment), signature, assignment.router, "the assignment");
    if (assignment.number <= number) {
      throw new LinkBroken("the numbers of assignments rise", `more than ${number}`, assignment.number);
    }
    number = assignment.number;
    const found = at.auctions.get(hex(assignment.bid_set));
    if (found === undefined) {
      const known = [...at.auctions.values()].map((each) => each.digest);
      throw new LinkBroken("the assignment names a bid set that is not here", known, assignment.bid_set);
    }
    expect("the bid set is signed by another router", assignment.router, found.router);
    if (!found.auction.prices.has(hex(assignment.miners[0]))) {
      throw new LinkBroken("lane 0 goes to a miner without a usable bid", "", assignment.miners[0]);
    }
    named.set(hex(assignment.bid_set), true);
  }
  const why = "the bid sets are those that the assignments name, in their order";
  expect(why, [...named.keys()], [...at.auctions.keys()]);
  const last = at.receipt.assignments.at(-1).assignment;
  const rank = at.auctions.get(hex(last.bid_set)).auction.order.indexOf(hex(last.miners[0])) + 1;
  return `miner ${short(last.miners[0])}, number ${rank} of the ranking, by router ${short(last.router)}`;
}

function short(value) {
  return `0x${hex(value.subarray(0, 4))}…`;
}

function checkLanes(at, opening, assignment) {
  try {
    checkAssigned(at.session, opening, assignment);
  } catch (error) {
    if (error instanceof AuctionError) throw new LinkBroken(error.message, error.expected, error.actual);
    throw error;
  }
}

// Each head binds what was ordered and assigned, and follows on the segment before.
export function checkSegments(at) {
  const { segments, assignments } = at.receipt;
  expect("there is one assignment for each segment", segments.length, assignments.length);
  let [index, chain] = [0n, ZERO_32];
  const leases = new Set();
  segments.forEach((segment, place) => {
    checkHead(at, segment.head, assignments[place].assignment, index, chain);
    const lease = hex(segment.head.generation);
    if (leases.has(lease)) throw new LinkBroken("one lease has two segments", "each its own", segment.head.generation);
    leases.add(lease);
    const least = place < segments.length - 1 ? index + 1n : index;
    if (segment.index < least) {
      throw new LinkBroken("a segment ends before it starts, or is empty", `${least} or more`, segment.index);
    }
    [index, chain] = [segment.index, segment.chain];
  });
}

function checkHead(at, head, assignment, index, chain) {
  const { order, session } = at.receipt;
  const miner = assignment.miners[0];
  const expected = {
    session: at.session,
    task: order.task,
    lane: 0,
    order: at.order,
    prompt: order.prompt,
    model: session.opening.model,
    sampling: order.sampling,
    generation: assignment.generations[0],
    miner,
    router: assignment.router,
    price_wei: at.auctions.get(hex(assignment.bid_set)).auction.prices.get(hex(miner)),
    start_index: index,
    previous_head: chain,
  };
  for (const [name, value] of Object.entries(expected)) {
    expect(`the segment's head has another ${name}`, value, head[name]);
  }
}

// Token by token the chain leads from each segment's head to its last frame.
export function checkTokens(at) {
  const { tokens, segments } = at.receipt;
  if (tokens === null) throw new LinkSkipped("redacted: the tokens are not shown");
  expect("as many tokens as the last frame signs", segments.at(-1).index, tokens.ids.length);
  expect("as many texts as tokens", tokens.ids.length, tokens.texts.length);
  segments.forEach((segment, place) => {
    let chain = at.segments[place];
    for (let index = Number(segment.head.start_index); index < Number(segment.index); index++) {
      chain = advance(chain, index + 1, tokens.ids[index], tokens.texts[index]);
      at.chains.set(index + 1, chain);
    }
    expect("the tokens lead to another chain", place === segments.length - 1 ? at.receipt.chain : segment.chain, chain);
  });
}

// Each segment's miner signed its last frame, and with it all before.
export function checkFrames(at) {
  const { segments } = at.receipt;
  segments.forEach(({ head, index, chain, signature }, place) => {
    const frame = { segment: at.segments[place], index, chain, end: place === segments.length - 1 };
    const what = `the frame of segment ${place} that ends with token ${index}`;
    at.signed(typedDigest(at.domain, "Frame", frame), signature, head.miner, what);
  });
}

// The last frame signs this end record, with this usage.
export function checkEnd(at) {
  const { end, segments, chain, order } = at.receipt;
  const last = segments.at(-1);
  expect("the last frame signs another end", closeChain(chain, end), last.chain);
  expect("the end record counts other tokens", last.index, end.completion_tokens);
  expect("the end record counts other prompt tokens", last.head.prompt_token_count, end.prompt_tokens);
  const limits = [
    ["more cached prompt tokens than prompt tokens", end.prompt_tokens, end.cached_tokens],
    ["more tokens than were ordered", order.max_tokens, end.completion_tokens],
  ];
  for (const [why, most, count] of limits) {
    if (count > most) throw new LinkBroken(why, `at most ${most}`, count);
  }
}

// The client signed the acks, of tokens and chains of their segments.
export function checkAcks(at) {
  const { segments, order, session } = at.receipt;
  segments.forEach((segment, place) => {
    const { head, ack } = segment;
    if (ack === null) return;
    if (ack.index < head.start_index || ack.index > segment.index) {
      const among = `${head.start_index} to ${segment.index}`;
      throw new LinkBroken("an ack of a token that is not in its segment", among, ack.index);
    }
    const known = chainAt(at, place, ack.index);
    if (known !== undefined) expect("an ack of another chain", known, ack.chain);
    const { index, chain } = ack;
    const word = { session: order.session, task: order.task, lane: 0, generation: head.generation, index, chain };
    const digest = typedDigest(at.domain, "Ack", { ...word, segment: at.segments[place] });
    at.signed(digest, ack.signature, session.opening.client, "the ack");
  });
  if (segments.every((segment) => segment.ack === null)) {
    throw new LinkSkipped("the client signed no ack that is kept here");
  }
}

// The chain value after a token of a segment, as far as it can be told without the tokens.
function chainAt(at, place, index) {
  const { segments, chain } = at.receipt;
  const segment = segments[place];
  if (index === segment.head.start_index) return at.segments[place];
  if (index === segment.index) return place === segments.length - 1 ? chain : segment.chain;
  return at.chains.get(Number(index));
}
