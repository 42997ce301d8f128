// Whom a reader believes: committees that lead here from the genesis, or from one that a trust string shows.
//
// Members of a committee answer for what they sign with their stake, and only until it is unbonded. So where there is
// stake, a reader that tells the time believes a committee for a period only, counted from when it was named.

import { concat, hex, same, toBigInt, utf8 } from "./bytes.js";
import {
  checkCertified, Committee, CommitteeError, committeeRoot, FINALIZATION, finalizeDigest, FIRST_EPOCH,
  verifyCertificate,
} from "./committee.js";
import { anchoredBlock } from "./evm.js";
import { keccak, recover } from "./signing.js";

// Something that may be true, and that nothing known here vouches for.
export class Untrusted extends CommitteeError {}

export class MalformedTrust extends Error {}

const PREFIX = "P2PNODE-TRUST:1:";
const TRUST_STRING_CHARS_MAX = 512;
const CONTENT_BYTES = 88;
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const COMMITTEES_KEPT = 64;
const POINTS_MAX = 8;

// A trust string as { networkId, chainId, epoch, committeeRoot, timeS }. Throws MalformedTrust.
export function parseTrust(text) {
  const shown = text.trim().toUpperCase();
  if (text.length > TRUST_STRING_CHARS_MAX || !shown.startsWith(PREFIX)) {
    throw new MalformedTrust("this is no trust string");
  }
  const data = base32(shown.slice(PREFIX.length));
  const content = data.slice(0, CONTENT_BYTES);
  const checksum = keccak(concat(utf8("p2pnode/trust-point/1"), content)).subarray(0, 4);
  if (content.length !== CONTENT_BYTES || !same(data.slice(CONTENT_BYTES), checksum)) {
    throw new MalformedTrust("its checksum is wrong: a character was lost or mistaken");
  }
  const at = (start, end) => content.slice(start, end);
  const [chainId, epoch, timeS] = [at(32, 40), at(40, 48), at(80, 88)].map(toBigInt);
  if (epoch === 0n || [chainId, epoch, timeS].some((value) => value >= 1n << 63n)) {
    throw new MalformedTrust("its numbers are none that a trust string can hold");
  }
  return { networkId: at(0, 32), chainId, epoch, committeeRoot: at(48, 80), timeS };
}

// RFC 4648 without padding, in its one form: bits that are left over are zero.
function base32(text) {
  const bytes = [];
  let [bits, held] = [0, 0];
  for (const letter of text) {
    const value = ALPHABET.indexOf(letter);
    if (value < 0) throw new MalformedTrust("a trust string holds the letters A to Z and the digits 2 to 7");
    held = ((held << 5) | value) & 0xfff;
    bits += 5;
    if (bits >= 8) bytes.push((held >> (bits -= 8)) & 0xff);
  }
  if (bits >= 5 || held & ((1 << bits) - 1)) throw new MalformedTrust("a character was lost or mistaken");
  return Uint8Array.from(bytes);
}

export class HeaderTrust {
  // genesis: of the network that is meant. points: trust strings, parsed. nowS: BigInt, or null where nobody tells the
  // time. Throws CommitteeError for points of another network, or that contradict each other.
  constructor(genesis, points = [], nowS = null) {
    this.domain = genesis.domain;
    this.periodS = genesis.contracts === null ? null : genesis.params.trust_period_ms / 1000n;
    this.nowS = nowS;
    this.known = new Map(); // by epoch (BigInt), rising: { members, sinceS }
    this.points = new Map();
    for (const point of points) this.addPoint(genesis, point);
    if (genesis.committee.length && (genesis.foundedS || this.periodS === null || !this.points.size)) {
      this.known.set(FIRST_EPOCH, { members: genesis.committee, sinceS: genesis.foundedS });
    }
    if (this.points.has(FIRST_EPOCH)) this.learn(FIRST_EPOCH, genesis.committee);
  }

  addPoint(genesis, point) {
    if (!same(point.networkId, genesis.networkId) || point.chainId !== genesis.chainId) {
      throw new CommitteeError(`the trust string is of network ${hex(point.networkId)}`);
    }
    const other = this.points.get(point.epoch);
    if (other !== undefined && !same(other.committeeRoot, point.committeeRoot)) {
      throw new CommitteeError(`two trust strings name two committees of epoch ${point.epoch}`);
    }
    if (other === undefined || point.timeS > other.timeS) this.points.set(point.epoch, point);
    if (this.points.size > POINTS_MAX) throw new CommitteeError(`at most ${POINTS_MAX} trust strings are of use`);
  }

  expired(epoch) {
    const sinceS = this.known.get(epoch)?.sinceS ?? 0n;
    if (this.periodS === null || !sinceS || this.nowS === null) return false;
    return this.nowS >= sinceS + this.periodS;
  }

  get latest() {
    return [...this.known.keys()].at(-1) ?? 0n;
  }

  membersOf(epoch) {
    return this.known.get(epoch)?.members ?? null;
  }

  // The committee of an epoch. Throws Untrusted where it is not believed, CommitteeError where there can be none.
  committee(epoch) {
    if (!(this.known.size || this.points.size) || epoch < FIRST_EPOCH) {
      throw new CommitteeError(`no committee can have certified anything in epoch ${epoch}`);
    }
    if (!this.known.has(epoch)) throw new Untrusted(`the committee of epoch ${epoch} is not known here`);
    this.checkAge(epoch);
    return new Committee(epoch, this.known.get(epoch).members);
  }

  checkAge(epoch) {
    if (this.expired(epoch)) {
      const why = "was named too long ago: its members may have their stake back";
      throw new Untrusted(`the committee of epoch ${epoch} ${why}`);
    }
  }

  // Learn who is in a committee of which only the root is known. Throws CommitteeError, Untrusted.
  learn(epoch, members) {
    const point = this.points.get(epoch);
    if (this.known.has(epoch)) this.checkSame(epoch, members);
    else if (point === undefined) throw new Untrusted(`nothing that is believed names the committee of epoch ${epoch}`);
    if (point === undefined) return;
    if (!same(committeeRoot(members), point.committeeRoot)) {
      throw new CommitteeError(`these are not the members of epoch ${epoch} that the trust string names`);
    }
    this.points.delete(epoch);
    const shownS = this.nowS !== null && this.nowS < point.timeS ? this.nowS : point.timeS;
    const knownS = this.known.get(epoch)?.sinceS ?? 0n;
    this.put(epoch, members, shownS > knownS ? shownS : knownS);
  }

  // Learn an epoch's committee from one before it. Throws CommitteeError, Untrusted, SignatureError, EvmError.
  take(handOver) {
    const { certified, members, anchor } = handOver;
    const from = certified.certificate.epoch;
    const epoch = from + 1n;
    if (this.known.has(epoch)) return this.checkSame(epoch, members);
    if (this.points.has(epoch)) return this.learn(epoch, members);
    const header = this.whole(certified);
    let by = from;
    if (this.known.has(from)) {
      verifyCertificate(this.domain, this.committee(from), certified.certificate);
    } else by = this.skipped(header, certified.certificate);
    if (!same(committeeRoot(members), header.next_committee)) {
      throw new CommitteeError(`these are not the members that epoch ${header.epoch} named`);
    }
    this.put(epoch, members, this.namedS(header, anchor, by));
  }

  whole(certified) {
    const { header, certificate } = certified;
    if (header === null || certificate.kind !== FINALIZATION) {
      throw new CommitteeError("only a header with its finalize certificate is final");
    }
    checkCertified(this.domain, certified);
    return header;
  }

  checkSame(epoch, members) {
    const known = this.known.get(epoch).members;
    if (known.length !== members.length || !known.every((member, place) => same(member, members[place]))) {
      throw new CommitteeError(`another committee is known of epoch ${epoch}`);
    }
  }

  // The epoch of the latest known committee of which f+1 members say that a header is final: one of them is correct.
  skipped(header, certificate) {
    const said = finalizeDigest(this.domain, certificate);
    const signers = new Set(certificate.signatures.map(({ signature }) => hex(recover(said, signature))));
    for (const epoch of [...this.known.keys()].reverse()) {
      if (epoch >= header.epoch || this.expired(epoch)) continue;
      const { members } = this.known.get(epoch);
      const found = members.filter((member) => signers.has(hex(member))).length;
      if (found >= (members.length - 1) / 3 + 1) return epoch;
    }
    this.checkAge(this.latest);
    throw new Untrusted(`too few of those known here signed the header of epoch ${header.epoch}`);
  }

  // Since when a committee is known to have been named: the header that names it is later than the EVM block that it
  // anchors, and than the committee that finalized it.
  namedS(header, anchor, by) {
    const { sinceS } = this.known.get(by);
    if (!anchor.length) return sinceS;
    let { timeS } = anchoredBlock(header, anchor);
    if (this.nowS !== null && this.nowS < timeS) timeS = this.nowS;
    return timeS > sinceS ? timeS : sinceS;
  }

  put(epoch, members, sinceS) {
    new Committee(epoch, members); // throws for what is none
    this.known.set(epoch, { members, sinceS });
    this.known = new Map([...this.known].sort(([one], [other]) => (one < other ? -1 : 1)));
    if (this.known.size > COMMITTEES_KEPT) this.known.delete([...this.known.keys()][0]);
  }
}
