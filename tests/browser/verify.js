// Checks a receipt link by link, and says what it proves to its reader.
//
//   import { verifyReceipt } from "./verify.js";
//   const verdict = verifyReceipt(bytes, { trust: ["P2PNODE-TRUST:1:..."], nowMs: Date.now() });
//
// A verdict is one of
//   { verdict: "verified", level, links }
//   { verdict: "not enough trust", level, link, why, links }
//   { verdict: "invalid", link, why, expected, actual, links }
// where links are { link, mark, why }, mark one of holds, failed, untrusted and skipped.

import * as answer from "./answer_links.js";
import { hex, same } from "./bytes.js";
import { DecodeError, unpack } from "./codec.js";
import { CommitteeError } from "./committee.js";
import * as committee from "./committee_links.js";
import { EvmError } from "./evm.js";
import { ParameterError, parseGenesis } from "./genesis.js";
import { recover, SignatureError, typedDigest } from "./signing.js";
import { chainHeads, closeChain, resultRoot } from "./transcript.js";
import { HeaderTrust, MalformedTrust, parseTrust } from "./trust.js";
import {
  CERTIFIED, COMMITTED, expect, FINALIZED, LEVELS, LinkBroken, LINKS, LinkSkipped, LinkUntrusted, SETTLED, shown,
  STREAMED,
} from "./verdict.js";

export { MalformedTrust };

const FORMAT = 1;
const RECEIPT_BYTES_MAX = 2 ** 20 - 1024;

const CHECKS = {
  session: answer.checkSession,
  order: answer.checkOrder,
  prompt: answer.checkPrompt,
  bids: answer.checkBids,
  assignment: answer.checkAssignment,
  segments: answer.checkSegments,
  tokens: answer.checkTokens,
  frames: answer.checkFrames,
  end: answer.checkEnd,
  acks: answer.checkAcks,
  commit: committee.checkCommit,
  reveal: committee.checkReveal,
  handover: committee.checkHandOvers,
  observations: committee.checkObservations,
  certificate: committee.checkCertificate,
  outcome: committee.checkOutcome,
  checkpoint: committee.checkCheckpoint,
};

// A receipt file (untrusted). Throws LinkBroken.
export function readReceipt(data) {
  let receipt;
  try {
    receipt = unpack("Receipt", data, RECEIPT_BYTES_MAX);
  } catch (error) {
    if (error instanceof DecodeError) throw new LinkBroken(`these bytes are no receipt: ${error.message}`);
    throw error;
  }
  expect("a receipt of another format", FORMAT, receipt.format);
  if ((receipt.prompt === null) !== (receipt.tokens === null)) {
    throw new LinkBroken("of prompt and tokens either both are shown or none");
  }
  if (receipt.settled !== null && receipt.final === null) throw new LinkBroken("a settlement is of an outcome");
  return receipt;
}

// What a receipt (untrusted bytes) proves to a reader.
//
// trust: trust strings that the reader believes; they say as well which network is meant. network: its id in
// hexadecimal, for a reader that believes its genesis. Without either nobody's committee is believed. nowMs: the
// reader's clock, against committees that are too old. accepted: asks the chain for a header by its digest in
// hexadecimal, whether the contract has accepted it as of a final block. Throws MalformedTrust, CommitteeError for
// trust strings that make no sense.
export function verifyReceipt(data, { trust = [], network = null, nowMs = null, accepted = null } = {}) {
  const points = trust.map(parseTrust);
  const meant = network ?? (points.length ? hex(points[0].networkId) : null);
  const links = [];
  let link = "format";
  try {
    const receipt = readReceipt(data);
    links.push({ link, mark: "holds", why: "" });
    link = "network";
    const genesis = checkNetwork(receipt, meant);
    links.push({ link, mark: "holds", why: "" });
    const nowS = nowMs === null ? null : BigInt(Math.floor(nowMs / 1000));
    const believed = meant === null ? null : new HeaderTrust(genesis, points, nowS);
    const at = new Reading(receipt, genesis, new Reader(believed), accepted);
    for (link of LINKS.slice(2)) links.push({ link, ...checked(CHECKS[link], at) });
    return verdictOf(Math.max(STREAMED, ...at.reached), claimedLevel(receipt), links);
  } catch (error) {
    if (!(error instanceof LinkBroken)) throw error;
    links.push({ link, mark: "failed", why: error.message });
    const why = `${link} does not hold`;
    links.push(...LINKS.slice(links.length).map((rest) => ({ link: rest, mark: "skipped", why })));
    return { verdict: "invalid", link, why: error.message, expected: error.expected, actual: error.actual, links };
  }
}

function checked(check, at) {
  try {
    return { mark: "holds", why: check(at) ?? "" };
  } catch (error) {
    if (error instanceof LinkSkipped) return { mark: "skipped", why: error.message };
    if (error instanceof LinkUntrusted) return { mark: "untrusted", why: error.message, level: error.level };
    throw error;
  }
}

function verdictOf(reached, claimed, links) {
  if (reached >= claimed) return { verdict: "verified", level: LEVELS[reached], links };
  const { link, why } = links.find((each) => each.mark === "untrusted" && each.level > reached);
  return { verdict: "not enough trust", level: LEVELS[reached], link, why, links };
}

// The level of the highest part that a receipt has, whether it holds or not.
function claimedLevel({ settled, final, batches, commit }) {
  if (settled !== null) return SETTLED;
  if (final !== null) return FINALIZED;
  if (batches.length) return CERTIFIED;
  return commit !== null ? COMMITTED : STREAMED;
}

// The genesis, in its one form and of the network that is meant.
function checkNetwork(receipt, network) {
  let genesis;
  try {
    genesis = parseGenesis(receipt.genesis);
  } catch (error) {
    if (error instanceof ParameterError) throw new LinkBroken(error.message);
    throw error;
  }
  if (!genesis.canonical) throw new LinkBroken("the genesis is not in its one form");
  if (network !== null) expect("it is of another network", network, hex(genesis.networkId));
  return genesis;
}

// A receipt while it is read: what each link found, for those after it.
class Reading {
  constructor(receipt, genesis, reader, accepted) {
    this.receipt = receipt;
    this.genesis = genesis;
    this.domain = genesis.domain;
    this.reader = reader;
    this.accepted = accepted;
    this.asksChain = accepted !== null && reader.trust !== null; // else nobody said where the contracts are
    this.claimed = new committee.Claimed(genesis);
    this.auctions = new Map(); // by the digest of the bid set (hex): { digest, router, auction }
    this.chains = new Map(); // the chain value after each token, by the tokens up to there
    this.believed = new Set(); // the levels whose header's committee the reader believes
    this.reached = new Set(); // the levels that hold
    const { order, segments, session, end, chain } = receipt;
    this.session = typedDigest(this.domain, "SessionOpen", session.opening);
    this.order = typedDigest(this.domain, "TaskOrder", order);
    this.segments = segments.map(({ head }) => typedDigest(this.domain, "SegmentHead", head));
    this.count = BigInt(end.completion_tokens);
    this.sole = session.opening.lanes === 1;
    const heads = chainHeads(this.segments);
    this.root = resultRoot(this.domain, order, session.opening.model, heads, closeChain(chain, end), this.count);
  }

  // Throws LinkBroken unless `signer` signed.
  signed(digest, signature, signer, what) {
    let found;
    try {
      found = recover(digest, signature);
    } catch (error) {
      if (error instanceof SignatureError) {
        throw new LinkBroken(`${what}: ${error.message}`, signer, `signature ${shown(signature)}`);
      }
      throw error;
    }
    if (!same(found, signer)) throw new LinkBroken(`${what} is signed by another`, signer, found);
  }

  // Throws LinkUntrusted unless the reader believes the committee that the receipt claims for an epoch, and LinkBroken
  // if it knows another.
  believe(epoch, level) {
    const [claimed, known] = [this.claimed.members(epoch), this.reader.members(epoch)];
    if (claimed !== null && known !== null) expect(`another committee of epoch ${epoch} is known here`, known, claimed);
    const doubt = this.reader.doubt(epoch);
    if (doubt) throw new LinkUntrusted(doubt, level);
  }
}

// Whom the reader believes, with what the hand-overs of a receipt add.
class Reader {
  constructor(trust) {
    this.trust = trust;
  }

  members(epoch) {
    return this.trust === null ? null : this.trust.membersOf(epoch);
  }

  // Why no committee of an epoch is believed; empty if one is.
  doubt(epoch) {
    if (this.trust === null) return "nobody said which network is meant, so no committee is believed";
    return refused(() => this.trust.committee(epoch));
  }

  // Throws CommitteeError if the root that the reader knows is of other members.
  learn(epoch, members) {
    if (this.trust !== null && (this.trust.known.has(epoch) || this.trust.points.has(epoch))) {
      this.trust.learn(epoch, members);
    }
  }

  take(handOver) {
    if (this.trust !== null) refused(() => this.trust.take(handOver));
  }
}

// What is not believed says why; all that is may be as it was.
function refused(act) {
  try {
    act();
    return "";
  } catch (error) {
    if ([CommitteeError, SignatureError, EvmError].some((kind) => error instanceof kind)) return error.message;
    throw error;
  }
}
