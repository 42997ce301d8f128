// Byte strings: what every other module is made of.

export const ZERO_32 = new Uint8Array(32);

const UTF8 = new TextEncoder();

export function utf8(text) {
  return UTF8.encode(text);
}

export function hex(bytes) {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

// The bytes of an even number of hexadecimal digits; whoever calls has checked that it is that.
export function unhex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function same(one, other) {
  return one.length === other.length && one.every((byte, place) => byte === other[place]);
}

// Below zero, zero or above, as sorting wants it.
export function compare(one, other) {
  const shared = Math.min(one.length, other.length);
  for (let place = 0; place < shared; place++) {
    if (one[place] !== other[place]) return one[place] - other[place];
  }
  return one.length - other.length;
}

// An integer (number or bigint) from zero, big-endian, in so many bytes.
export function number(value, width) {
  const bytes = new Uint8Array(width);
  let left = BigInt(value);
  for (let place = width - 1; place >= 0; place--) {
    bytes[place] = Number(left & 0xffn);
    left >>= 8n;
  }
  return bytes;
}

export function toBigInt(bytes) {
  return bytes.length ? BigInt("0x" + hex(bytes)) : 0n;
}

export function leftPad(bytes, width) {
  return concat(new Uint8Array(width - bytes.length), bytes);
}

export function rightPad(bytes, width) {
  return concat(bytes, new Uint8Array(width - bytes.length));
}
