// The links that rest on committees: what they signed of the answer, and why they are to be believed.

import { hex, same } from "./bytes.js";
import { listAtStart } from "./codec.js";
import {
  checkCertified, Committee, CommitteeError, committeeRoot, FINALIZATION, finalizeDigest, FIRST_EPOCH, verifyBatch,
  verifyCertificate,
} from "./committee.js";
import { anchoredBlock, checkSettled, EvmError } from "./evm.js";
import { SignatureError, typedDigest } from "./signing.js";
import { commitment, outcomeLeaf, provedRoot } from "./transcript.js";
import {
  CERTIFIED, COMMITTED, expect, FINALIZED, LinkBroken, LinkSkipped, LinkUntrusted, SETTLED, shown,
} from "./verdict.js";

const VERDICT_OK = 1;

// What is thrown of these kinds says that a link does not hold.
function breaking(what, kinds, act) {
  try {
    return act();
  } catch (error) {
    if (!kinds.some((kind) => error instanceof kind)) throw error;
    throw new LinkBroken(what ? `${what}: ${error.message}` : error.message, error.expected, error.actual);
  }
}

// The miner of the last segment committed to this lane and lease.
export function checkCommit(at) {
  const signed = at.receipt.commit;
  const { head } = at.receipt.segments.at(-1);
  if (signed === null) throw new LinkSkipped("the receipt has no commit");
  const { session, task, generation, miner } = head;
  for (const [name, expected] of Object.entries({ session, task, lane: 0, generation, miner })) {
    expect(`the commit is of another ${name}`, expected, signed.commit[name]);
  }
  at.signed(typedDigest(at.domain, "Commit", signed.commit), signed.signature, signed.commit.miner, "the commit");
  if (!at.sole) at.reached.add(COMMITTED);
}

// The reveal opens the commit to the result that the tokens lead to.
export function checkReveal(at) {
  const { commit, reveal: signed } = at.receipt;
  if (signed === null) {
    if (commit !== null && at.sole) {
      throw new LinkBroken("the commit of an only lane comes with its opening", "a reveal", "none");
    }
    throw new LinkSkipped("the receipt has no reveal");
  }
  if (commit === null) throw new LinkBroken("a reveal opens a commit", "a commit", "none");
  const { reveal, signature } = signed;
  at.signed(typedDigest(at.domain, "Reveal", reveal), signature, commit.commit.miner, "the reveal");
  for (const name of ["session", "task", "lane", "generation", "miner"]) {
    expect("the reveal does not open the commit", commit.commit[name], reveal[name]);
  }
  expect("the reveal does not open the commit", commit.commit.commitment, commitment(at.domain, reveal));
  expect("the miner opened to another result", at.root, reveal.root);
  expect("the miner opened to another count of tokens", at.count, reveal.count);
  at.reached.add(COMMITTED);
}

// Each committee that is named follows from one before it, and something rests on it.
export function checkHandOvers(at) {
  const { committees, hand_overs } = at.receipt;
  const { claimed, reader } = at;
  for (const { epoch, members } of committees) {
    breaking("", [CommitteeError], () => {
      claimed.add(epoch, members);
      reader.learn(epoch, members);
    });
  }
  checkRising(committees.map((carried) => carried.epoch), "carried committees");
  checkRising(hand_overs.map(epochOf), "hand-overs");
  for (const handOver of hand_overs) {
    checkHandOver(at, handOver);
    reader.take(handOver);
  }
  for (const epoch of needed(at.receipt)) claimed.used.add(epoch);
  for (const epoch of [...committees.map((each) => each.epoch), ...hand_overs.map((each) => epochOf(each) + 1n)]) {
    if (!claimed.used.has(epoch)) {
      throw new LinkBroken("a committee that nothing rests on", "only what is needed", `the one of epoch ${epoch}`);
    }
    const [members, known] = [claimed.members(epoch), reader.members(epoch)];
    if (members !== null && known !== null) {
      expect(`another committee of epoch ${epoch} is known here`, committeeRoot(known), committeeRoot(members));
    }
  }
  if (!hand_overs.length && !committees.length) throw new LinkSkipped("the receipt has none");
}

// Which epoch hands over.
function epochOf(handOver) {
  return handOver.certified.certificate.epoch;
}

function checkRising(epochs, what) {
  if (epochs.some((epoch, place) => place && epochs[place - 1] >= epoch)) {
    throw new LinkBroken(`${what} by rising epochs`, "each epoch once", epochs.join(" "));
  }
}

// The epochs whose committees signed something of the answer.
function needed({ order, batches, final, settled }) {
  const epochs = batches.length ? [order.home_epoch] : [];
  for (const certified of [final?.certified, settled?.certified, settled?.evm?.anchored]) {
    if (certified) epochs.push(certified.certificate.epoch);
  }
  return epochs;
}

function checkHandOver(at, handOver) {
  const epoch = epochOf(handOver);
  const what = `the hand-over of epoch ${epoch}`;
  const own = at.claimed.committee(epoch);
  const base = at.claimed.before(epoch);
  let header;
  if (own !== null) {
    header = finalHeader(at, handOver.certified, what, own);
    at.claimed.used.add(epoch);
  } else if (base !== null) {
    header = skippedHeader(at, handOver.certified, what, base);
    at.claimed.used.add(base.epoch);
  } else throw new LinkBroken(`${what} follows from nothing`, "a committee before it", "none");
  const root = committeeRoot(handOver.members);
  expect(`epoch ${epoch} named another committee after it`, header.next_committee, root);
  if (handOver.anchor.length) breaking("", [EvmError], () => anchoredBlock(header, handOver.anchor));
  breaking("", [CommitteeError], () => at.claimed.add(epoch + 1n, handOver.members));
}

// The committee of an epoch, by the receipt or else by the reader; null where neither knows.
function named(at, epoch) {
  const known = at.reader.members(epoch);
  if (at.claimed.committee(epoch) === null && known !== null) at.claimed.add(epoch, known);
  return at.claimed.committee(epoch);
}

// The header that a finalize certificate names, whoever signed.
function headerOf(at, certified, what) {
  if (certified.header === null || certified.certificate.kind !== FINALIZATION) {
    throw new LinkBroken(`${what} is not a header with its finalize certificate`);
  }
  breaking(what, [CommitteeError], () => checkCertified(at.domain, certified));
  return certified.header;
}

function finalHeader(at, certified, what, committee) {
  const header = headerOf(at, certified, what);
  const { certificate } = certified;
  breaking(what, [CommitteeError, SignatureError], () => verifyCertificate(at.domain, committee, certificate));
  return header;
}

// The header, final by what f+1 members of an earlier committee signed; in a receipt by f+1 of their signatures and no
// others, at their places in that committee.
function skippedHeader(at, certified, what, base) {
  const header = headerOf(at, certified, what);
  const { signatures } = certified.certificate;
  const places = signatures.map((signed) => signed.index);
  const rising = places.every((place, before) => !before || places[before - 1] < place);
  if (!rising || places.length !== base.faultyMax + 1 || places.at(-1) >= base.members.length) {
    const wanted = `${base.faultyMax + 1} of the ${base.members.length} of epoch ${base.epoch}, by rising places`;
    throw new LinkBroken(`${what} is not signed by f+1 whom the receipt names`, wanted, places.join(" "));
  }
  const digest = finalizeDigest(at.domain, certified.certificate);
  for (const { index, signature } of signatures) at.signed(digest, signature, base.members[index], what);
  return header;
}

// 2f+1 members of the home epoch's committee signed this result.
export function checkObservations(at) {
  const { batches, order } = at.receipt;
  const home = order.home_epoch;
  if (!batches.length) throw new LinkSkipped("the receipt has no oracle's batch");
  const committee = committeeOf(at, home, CERTIFIED);
  expect("as many batches as a quorum has members", committee.quorum, batches.length);
  const places = batches.map(({ batch }) => committee.placeOf(batch.oracle));
  if (places[0] < 0 || places.some((place, before) => before && places[before - 1] >= place)) {
    const told = batches.map(({ batch }) => batch.oracle);
    throw new LinkBroken("one batch each of members, by their places", "different members", told);
  }
  for (const signed of batches) checkBatch(at, signed, home);
  at.believe(home, CERTIFIED);
  at.reached.add(CERTIFIED);
}

function checkBatch(at, signed, home) {
  const oracle = shown(signed.batch.oracle);
  expect("a batch of another home epoch", home, signed.batch.home_epoch);
  breaking(`a batch of ${oracle}`, [CommitteeError, SignatureError], () => verifyBatch(at.domain, signed));
  const { session, task } = at.receipt.order;
  const said = listAtStart("Observation", signed.content);
  const of = said.filter((each) => same(each.session, session) && each.task === task && each.lane === 0);
  if (!of.some((each) => each.verdict === VERDICT_OK && same(each.root, at.root) && each.count === at.count)) {
    const told = of.length ? `verdict ${of[0].verdict} ${shown(of[0].root)}, ${of[0].count} tokens` : "nothing";
    throw new LinkBroken(`oracle ${oracle} says otherwise`, `ok ${shown(at.root)}, ${at.count} tokens`, told);
  }
}

// The committee of an epoch, by the receipt or by the reader.
function committeeOf(at, epoch, level) {
  const committee = named(at, epoch);
  if (committee === null) throw new LinkUntrusted(at.reader.doubt(epoch), level);
  return committee;
}

// 2f+1 members of its epoch's committee finalized each header.
export function checkCertificate(at) {
  const { final, settled } = at.receipt;
  if (final === null) throw new LinkSkipped("the receipt has no final header");
  const parts = [[FINALIZED, final.certified]];
  if (settled !== null) parts.push([SETTLED, settled.certified]);
  for (const [, certified] of parts) headerOf(at, certified, "the certificate");
  for (const [level, certified] of parts) {
    finalHeader(at, certified, "the certificate", committeeOf(at, certified.certificate.epoch, level));
  }
  const doubts = [];
  for (const [level, certified] of parts) {
    try {
      at.believe(certified.certificate.epoch, level);
      at.believed.add(level);
    } catch (error) {
      if (!(error instanceof LinkUntrusted)) throw error;
      doubts.push(error);
    }
  }
  if (doubts.length) throw doubts[0];
}

// The outcome is this lane's and result's, and in the results tree of each header.
export function checkOutcome(at) {
  const { final, settled, order } = at.receipt;
  if (final === null) throw new LinkSkipped("the receipt has no outcome");
  const { session, task, home_epoch } = order;
  const expected = { session, task, lane: 0, verdict: VERDICT_OK, root: at.root, count: at.count, home_epoch };
  for (const [name, value] of Object.entries(expected)) {
    expect(`the outcome has another ${name}`, value, final.outcome[name]);
  }
  const leaf = outcomeLeaf(final.outcome);
  for (const { proof, certified } of settled === null ? [final] : [final, settled]) {
    const { header } = certified;
    if (header === null) continue;
    expect("the proof is of a tree of another size", header.results_count, proof.count);
    const root = provedRoot(leaf, proof);
    if (root === null || !same(root, header.results_root)) {
      throw new LinkBroken("the proof does not lead to the results root", header.results_root, root ?? "no root");
    }
  }
  if (at.believed.has(FINALIZED)) at.reached.add(FINALIZED);
}

// The contract accepted the header of the settlement. It has checked its certificate then, so nothing else need be
// believed of that header's committee.
export function checkCheckpoint(at) {
  const { settled } = at.receipt;
  const { contracts } = at.genesis;
  if (settled === null) throw new LinkSkipped("the receipt has no checkpoint");
  if (contracts === null) throw new LinkBroken("the network has no contracts to settle with");
  try {
    acceptedByProof(at, contracts.checkpoints, settled);
  } catch (error) {
    if (!(error instanceof LinkUntrusted) || !at.asksChain) throw error;
    if (!at.accepted(hex(typedDigest(at.domain, "Header", settled.certified.header)))) {
      throw new LinkUntrusted("the contract has not accepted the header, as far as its chain is final", SETTLED);
    }
  }
  at.reached.add(SETTLED);
}

// What the contract keeps of a header, by an EVM block that a final header anchors.
function acceptedByProof(at, checkpoints, { evm, certified }) {
  if (evm === null) {
    throw new LinkUntrusted("only the chain can tell whether the contract accepted the header", SETTLED);
  }
  const what = "the header that anchors the block";
  const { epoch } = evm.anchored.certificate;
  headerOf(at, evm.anchored, what);
  const anchored = finalHeader(at, evm.anchored, what, committeeOf(at, epoch, SETTLED));
  breaking("", [EvmError], () => checkSettled(at.domain, checkpoints, certified.header, anchored, evm));
  at.believe(epoch, SETTLED);
}

// The committees that the genesis and a receipt name, each checked against those before it.
export class Claimed {
  constructor(genesis) {
    this.committees = new Map();
    this.used = new Set(); // the epochs whose committee something rests on
    if (genesis.committee.length) this.add(FIRST_EPOCH, genesis.committee);
  }

  members(epoch) {
    return this.committees.get(epoch)?.members ?? null;
  }

  committee(epoch) {
    return this.committees.get(epoch) ?? null;
  }

  // The committee of an epoch, or else of the latest one before it that is named.
  before(epoch) {
    const known = [...this.committees.keys()].filter((each) => each <= epoch);
    return known.length ? this.committees.get(known.reduce((one, other) => (one > other ? one : other))) : null;
  }

  add(epoch, members) {
    if (epoch < FIRST_EPOCH || this.committees.has(epoch)) {
      throw new CommitteeError(`the committee of epoch ${epoch} is named already, or cannot be`);
    }
    this.committees.set(epoch, new Committee(epoch, members));
  }
}
