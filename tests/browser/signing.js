// EIP-712 in one domain, and who signed.

import { secp256k1 } from "@noble/curves/secp256k1.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { keccak_256 } from "@noble/hashes/sha3.js";

import { concat, leftPad, number, rightPad, toBigInt, utf8 } from "./bytes.js";
import { TYPED } from "./tables.js";

export { sha256 };
export const keccak = keccak_256;

export class SignatureError extends Error {}

const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;

const DOMAIN_TYPE = keccak(utf8("EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)"));

// The signing domain of a network: all that is signed in it is hashed under its separator.
export class Domain {
  constructor(networkId, chainId) {
    this.networkId = networkId;
    this.separator = keccak(
      concat(DOMAIN_TYPE, keccak(utf8("p2pnode")), keccak(utf8("1")), number(chainId, 32), networkId),
    );
  }
}

// What each struct is hashed by: its type's hash, and how each field becomes a word.
const PLANS = Object.fromEntries(
  Object.entries(TYPED).map(([name, type]) => {
    const fields = type.slice(type.indexOf("(") + 1, -1).split(",");
    return [name, { hash: keccak(utf8(type)), fields: fields.map((field) => field.split(" ")) }];
  }),
);

function word(type, value) {
  if (type.endsWith("[]")) return keccak(concat(...value.map((item) => word(type.slice(0, -2), item))));
  if (type === "string") return keccak(utf8(value));
  if (type === "address") return leftPad(value, 32);
  if (type.startsWith("bytes")) return rightPad(value, 32);
  return number(type === "bool" ? Number(value) : value, 32);
}

// What is signed for a struct with explicit fields.
export function typedDigest(domain, name, value) {
  const { hash, fields } = PLANS[name];
  const struct = keccak(concat(hash, ...fields.map(([type, field]) => word(type, value[field]))));
  return keccak(concat(Uint8Array.of(0x19, 0x01), domain.separator, struct));
}

// What is signed for a message in an envelope.
export function payloadDigest(domain, name, payload) {
  const struct = keccak(concat(keccak(utf8(`${name}(bytes payload)`)), keccak(payload)));
  return keccak(concat(Uint8Array.of(0x19, 0x01), domain.separator, struct));
}

// Who signed what, as far as it was asked for lately: the same signature is met again in a receipt, and in its next
// version.
const SIGNERS_MAX = 1024;
const signers = new Map();

// Ask anew, as the first time.
export function forgetSigners() {
  signers.clear();
}

// The address of whoever signed. Throws SignatureError for anything but r || s || v with low s and v 27 or 28.
export function recover(digest, signature) {
  const asked = String.fromCharCode(...digest, ...signature);
  let signer = signers.get(asked);
  if (signer === undefined) {
    signer = recovered(digest, signature);
    signers.set(asked, signer);
    if (signers.size > SIGNERS_MAX) signers.delete(signers.keys().next().value);
  }
  return signer;
}

function recovered(digest, signature) {
  const v = signature[64];
  if (signature.length !== 65 || (v !== 27 && v !== 28)) {
    throw new SignatureError("a signature is 65 bytes r || s || v with v 27 or 28");
  }
  const s = toBigInt(signature.subarray(32, 64));
  if (s === 0n || s > ORDER / 2n) throw new SignatureError("the signature's s is not in the lower half");
  try {
    const format = concat(Uint8Array.of(v - 27), signature.subarray(0, 64));
    const point = secp256k1.Signature.fromBytes(format, "recovered").recoverPublicKey(digest);
    return keccak(point.toBytes(false).subarray(1)).slice(12);
  } catch {
    throw new SignatureError("the signature recovers to no key");
  }
}
