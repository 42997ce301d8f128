// A committee of an epoch: who is in it, and whether enough of it signed.

import { concat, hex, leftPad, same } from "./bytes.js";
import { COMMITTEE_SIZES } from "./genesis.js";
import { keccak, recover, typedDigest } from "./signing.js";

export const FIRST_EPOCH = 1n;
export const FINALIZATION = 4;

const NULLIFICATION = 3;

export class CommitteeError extends Error {}

// What a header names a committee by.
export function committeeRoot(members) {
  return keccak(concat(...members.map((member) => leftPad(member, 32))));
}

export class Committee {
  // Throws CommitteeError for a size other than 3f+1, or a member named twice.
  constructor(epoch, members) {
    if (!COMMITTEE_SIZES.includes(members.length)) throw new CommitteeError(`a committee of ${members.length} members`);
    this.epoch = epoch;
    this.members = members;
    this.places = new Map(members.map((member, place) => [hex(member), place]));
    if (this.places.size !== members.length) throw new CommitteeError("a committee names each member once");
    this.faultyMax = (members.length - 1) / 3;
    this.quorum = 2 * this.faultyMax + 1;
  }

  // Where a member stands; below zero for whoever is none.
  placeOf(member) {
    return this.places.get(hex(member)) ?? -1;
  }
}

// What the signatures of a finalize certificate cover.
export function finalizeDigest(domain, { epoch, height, header }) {
  return typedDigest(domain, "Finalize", { epoch, height, header });
}

// Whether the header is the one that its certificate names. Throws CommitteeError.
export function checkCertified(domain, { header, certificate }) {
  if (header === null) return;
  if (certificate.kind === NULLIFICATION) throw new CommitteeError("a nullification has no header");
  const placed = header.epoch === certificate.epoch && header.height === certificate.height;
  if (!placed || !same(typedDigest(domain, "Header", header), certificate.header)) {
    const slot = `${certificate.epoch}/${certificate.height}`;
    throw new CommitteeError(`the header is not that of slot ${slot} which was signed`);
  }
}

// Whether 2f+1 members of this committee signed a finalize certificate. Throws CommitteeError, SignatureError.
export function verifyCertificate(domain, committee, certificate) {
  if (certificate.epoch !== committee.epoch) {
    throw new CommitteeError(`a certificate of epoch ${certificate.epoch}, the committee is of ${committee.epoch}`);
  }
  if (certificate.header.every((byte) => byte === 0)) throw new CommitteeError("only a nullification names no header");
  const places = certificate.signatures.map((signed) => signed.index);
  if (places.length !== committee.quorum || places.some((place, at) => at && places[at - 1] >= place)) {
    throw new CommitteeError(`a certificate has ${committee.quorum} signatures in rising order of places`);
  }
  if (places.at(-1) >= committee.members.length) throw new CommitteeError(`no member has the place ${places.at(-1)}`);
  const digest = finalizeDigest(domain, certificate);
  for (const { index, signature } of certificate.signatures) {
    if (!same(recover(digest, signature), committee.members[index])) {
      throw new CommitteeError(`the signature at place ${index} is another's`);
    }
  }
}

// Whether a batch holds this content, and its oracle signed it. Throws CommitteeError, SignatureError.
export function verifyBatch(domain, { batch, signature, content }) {
  if (!same(keccak(content), batch.content) || batch.number < 1n) {
    throw new CommitteeError("a batch names its content's digest and its number, from 1");
  }
  if (!same(recover(typedDigest(domain, "Batch", batch), signature), batch.oracle)) {
    throw new CommitteeError("a batch is signed by its oracle");
  }
}
