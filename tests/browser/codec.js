// Structs as canonical MessagePack arrays: what is decoded, encoded again, is the same bytes, or it is refused.
//
// A field is a BigInt where its bound lies beyond JavaScript's exact numbers, whatever its value; else a Number.

import { same, utf8 } from "./bytes.js";
import { MESSAGES, STRUCTS } from "./tables.js";

export class DecodeError extends Error {}

const MAP_OR_REST = "an array, a byte string, a string, an integer, true, false or nil";

// The struct in data (untrusted). Throws DecodeError and nothing else.
export function unpack(name, data, limit) {
  if (data.length > limit) throw new DecodeError(`${data.length} bytes, limit ${limit}`);
  const reader = new Reader(data);
  const value = convert({ struct: name }, reader.item(0), name);
  if (reader.at !== data.length) throw new DecodeError(`${data.length - reader.at} bytes follow the ${name}`);
  if (!same(pack(name, value), data)) throw new DecodeError(`${name} is not in canonical form`);
  return value;
}

export function pack(name, value) {
  const writer = new Writer();
  writer.struct(name, value);
  return writer.bytes();
}

// What an envelope holds: a message of this kind. Throws DecodeError.
export function decodeMessage(name, data) {
  const { kind, limit } = MESSAGES[name];
  if (data.length > limit) throw new DecodeError(`${name} of ${data.length} bytes, limit ${limit}`);
  const reader = new Reader(data);
  const array = reader.item(0);
  if (!Array.isArray(array) || array[0] !== BigInt(kind)) throw new DecodeError(`this is no ${name}`);
  if (reader.at !== data.length) throw new DecodeError(`bytes follow the ${name}`);
  const value = convert({ struct: name }, array.slice(1), name);
  const writer = new Writer();
  writer.struct(name, value, kind);
  if (!same(writer.bytes(), data)) throw new DecodeError(`${name} is not in canonical form`);
  return value;
}

// The structs of the list with which an array of 1 to 15 items begins (untrusted), up to the first that is not in its
// one form, whatever follows.
export function listAtStart(name, data) {
  const found = [];
  if (!data.length || data[0] <= 0x90 || data[0] > 0x9f) return found;
  const reader = new Reader(data);
  reader.at = 1;
  try {
    const count = reader.listHead();
    for (let place = 0; place < count; place++) {
      const start = reader.at;
      const value = convert({ struct: name }, reader.item(0), name);
      if (!same(pack(name, value), data.subarray(start, reader.at))) break;
      found.push(value);
    }
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error;
  }
  return found;
}

// Nesting is at most that of the tables, with room to spare.
const DEPTH_MAX = 32;

// MessagePack as it comes: integers are BigInt here, and every length is held against what is left of the data.
class Reader {
  constructor(data) {
    this.data = data;
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.at = 0;
  }

  item(depth) {
    const first = this.uint(1);
    if (first < 0x80) return BigInt(first);
    if (first >= 0xe0) return BigInt(first - 0x100);
    if (first >= 0x90 && first < 0xa0) return this.array(first & 0x0f, depth);
    if (first >= 0xa0 && first < 0xc0) return this.text(first & 0x1f);
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return this.take(this.uint(1 << (first - 0xc4)));
      case 0xcc: case 0xcd: case 0xce: return BigInt(this.uint(1 << (first - 0xcc)));
      case 0xcf: return this.big(false);
      case 0xd0: case 0xd1: case 0xd2: return this.signed(1 << (first - 0xd0));
      case 0xd3: return this.big(true);
      case 0xd9: case 0xda: case 0xdb: return this.text(this.uint(1 << (first - 0xd9)));
      case 0xdc: case 0xdd: return this.array(this.uint(2 << (first - 0xdc)), depth);
    }
    throw new DecodeError(`byte 0x${first.toString(16)} at ${this.at - 1} begins none of ${MAP_OR_REST}`);
  }

  take(length) {
    if (length > this.data.length - this.at) throw new DecodeError("the data ends in the middle of something");
    this.at += length;
    // A copy: what is decoded must not change with the buffer that it came in.
    return this.data.slice(this.at - length, this.at);
  }

  uint(width) {
    if (width > this.data.length - this.at) throw new DecodeError("the data ends in the middle of something");
    let value = 0;
    for (let place = 0; place < width; place++) value = value * 256 + this.data[this.at++];
    return value;
  }

  signed(width) {
    return BigInt.asIntN(8 * width, BigInt(this.uint(width)));
  }

  big(signed) {
    if (this.data.length - this.at < 8) throw new DecodeError("the data ends in the middle of something");
    this.at += 8;
    return signed ? this.view.getBigInt64(this.at - 8) : this.view.getBigUint64(this.at - 8);
  }

  text(length) {
    const bytes = this.take(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw new DecodeError("a string is not UTF-8");
    }
  }

  // The length of an array, in its shortest form.
  listHead() {
    const first = this.uint(1);
    if (first >= 0x90 && first <= 0x9f) return first & 0x0f;
    const length = first === 0xdc ? this.uint(2) : first === 0xdd ? this.uint(4) : -1;
    if (length < (first === 0xdd ? 2 ** 16 : 16)) throw new DecodeError("no array with its length in its one form");
    return length;
  }

  array(length, depth) {
    if (depth >= DEPTH_MAX) throw new DecodeError("arrays are nested too deep");
    // Each item takes a byte at least, so a length cannot ask for more than there is.
    if (length > this.data.length - this.at) throw new DecodeError("an array is longer than the data");
    const items = [];
    for (let place = 0; place < length; place++) items.push(this.item(depth + 1));
    return items;
  }
}

function refuse(where, what) {
  throw new DecodeError(`${where}: ${what}`);
}

// What MessagePack gave, as the tables want it.
function convert(type, value, where) {
  if (type.struct !== undefined) return convertStruct(type.struct, value, where);
  if (type.optional !== undefined) return value === null ? null : convert(type.optional, value, where);
  if (type.list !== undefined) return convertList(type, value, where);
  if (type.bytes !== undefined) {
    if (!(value instanceof Uint8Array)) refuse(where, "no byte string");
    return bounded(value, value.length, type.bytes, where);
  }
  if (type.str !== undefined) {
    if (typeof value !== "string") refuse(where, "no string");
    return bounded(value, codePoints(value), type.str, where);
  }
  if (type.int !== undefined) return convertInt(type.int, value, where);
  if (type.bool !== undefined) return typeof value === "boolean" ? value : refuse(where, "neither true nor false");
  if (type.literal !== undefined) return type.literal.includes(value) ? value : refuse(where, "none of those known");
  const known = typeof value === "bigint" && type.enum.includes(Number(value));
  return known ? Number(value) : refuse(where, "none of those known");
}

function convertStruct(name, value, where) {
  const fields = STRUCTS[name];
  if (!Array.isArray(value) || value.length !== fields.length) refuse(where, `no array of ${fields.length}`);
  const struct = {};
  fields.forEach(([field, type], place) => {
    struct[field] = convert(type, value[place], `${where}.${field}`);
  });
  return struct;
}

function convertList(type, value, where) {
  if (!Array.isArray(value)) refuse(where, "no array");
  bounded(value, value.length, type.size, where);
  return value.map((item, place) => convert(type.list, item, `${where}[${place}]`));
}

function convertInt([low, high], value, where) {
  if (typeof value !== "bigint" || value < BigInt(low) || value > BigInt(high)) {
    refuse(where, `no integer from ${low} to ${high}`);
  }
  return isBig(high) ? value : Number(value);
}

function bounded(value, length, [low, high], where) {
  if (length < low || (high !== null && length > high)) refuse(where, `of length ${length}`);
  return value;
}

function codePoints(text) {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

function isBig(high) {
  return typeof high === "string";
}

// Every value in its shortest form.
class Writer {
  constructor() {
    this.data = new Uint8Array(1024);
    this.length = 0;
  }

  bytes() {
    return this.data.slice(0, this.length);
  }

  room(length) {
    if (this.length + length <= this.data.length) return;
    const larger = new Uint8Array(Math.max(2 * this.data.length, this.length + length));
    larger.set(this.data.subarray(0, this.length));
    this.data = larger;
  }

  raw(bytes) {
    this.room(bytes.length);
    this.data.set(bytes, this.length);
    this.length += bytes.length;
  }

  // A leading byte and a big-endian number.
  head(first, value, width) {
    this.room(width + 1);
    this.data[this.length++] = first;
    for (let place = width - 1; place >= 0; place--) this.data[this.length++] = Math.floor(value / 256 ** place) & 0xff;
  }

  struct(name, value, ...before) {
    const fields = STRUCTS[name];
    this.arrayHead(fields.length + before.length);
    for (const item of before) this.int(BigInt(item));
    for (const [field, type] of fields) this.value(type, value[field]);
  }

  value(type, value) {
    if (value === null) this.head(0xc0, 0, 0);
    else if (type.struct !== undefined) this.struct(type.struct, value);
    else if (type.optional !== undefined) this.value(type.optional, value);
    else if (type.list !== undefined) {
      this.arrayHead(value.length);
      for (const item of value) this.value(type.list, item);
    } else if (type.bytes !== undefined) {
      this.lengthHead(value.length, 0xc4);
      this.raw(value);
    } else if (type.str !== undefined || type.literal !== undefined) {
      const bytes = utf8(value);
      if (bytes.length < 32) this.head(0xa0 | bytes.length, 0, 0);
      else this.lengthHead(bytes.length, 0xd9);
      this.raw(bytes);
    } else if (type.bool !== undefined) this.head(value ? 0xc3 : 0xc2, 0, 0);
    else this.int(BigInt(value));
  }

  lengthHead(length, first) {
    if (length < 2 ** 8) this.head(first, length, 1);
    else if (length < 2 ** 16) this.head(first + 1, length, 2);
    else this.head(first + 2, length, 4);
  }

  arrayHead(length) {
    if (length < 16) this.head(0x90 | length, 0, 0);
    else if (length < 2 ** 16) this.head(0xdc, length, 2);
    else this.head(0xdd, length, 4);
  }

  int(value) {
    if (value < 0n) this.negative(value);
    else if (value < 0x80n) this.head(Number(value), 0, 0);
    else if (value < 1n << 8n) this.head(0xcc, Number(value), 1);
    else if (value < 1n << 16n) this.head(0xcd, Number(value), 2);
    else if (value < 1n << 32n) this.head(0xce, Number(value), 4);
    else this.long(0xcf, value);
  }

  negative(value) {
    if (value >= -0x20n) this.head(Number(value) & 0xff, 0, 0);
    else if (value >= -(1n << 7n)) this.head(0xd0, Number(value) & 0xff, 1);
    else if (value >= -(1n << 15n)) this.head(0xd1, Number(value) & 0xffff, 2);
    else if (value >= -(1n << 31n)) this.head(0xd2, Number(value) >>> 0, 4);
    else this.long(0xd3, BigInt.asUintN(64, value));
  }

  long(first, value) {
    this.head(first, 0, 0);
    this.room(8);
    new DataView(this.data.buffer).setBigUint64(this.length, value);
    this.length += 8;
  }
}
