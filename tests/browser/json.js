// JSON as genesis files have it: integers of any size, and one way of writing it down.

export class JsonError extends Error {}

const DEPTH_MAX = 8;

// The value of a JSON text (untrusted): objects, arrays, strings, null, and integers as BigInt. Throws JsonError.
export function parseJson(text) {
  const parser = { text, at: 0 };
  const value = parseValue(parser, 0);
  space(parser);
  if (parser.at !== text.length) throw new JsonError(`something follows the JSON at ${parser.at}`);
  return value;
}

// The text of a value as Python's json.dumps(value, indent=1, sort_keys=True) and a newline have it.
export function canonicalJson(value) {
  return written(value, 1) + "\n";
}

function space(parser) {
  while (" \n\r\t".includes(parser.text[parser.at] ?? "x")) parser.at++;
}

function eat(parser, token) {
  space(parser);
  if (!parser.text.startsWith(token, parser.at)) return false;
  parser.at += token.length;
  return true;
}

function need(parser, token) {
  if (!eat(parser, token)) throw new JsonError(`expected ${token} at ${parser.at}`);
}

function parseValue(parser, depth) {
  if (depth > DEPTH_MAX) throw new JsonError("JSON nested too deep");
  if (eat(parser, "null")) return null;
  if (eat(parser, "{")) return parseObject(parser, depth);
  if (eat(parser, "[")) return parseArray(parser, depth);
  space(parser);
  if (parser.text[parser.at] === '"') return parseString(parser);
  const found = /^-?(0|[1-9][0-9]{0,30})(?![0-9.eE])/.exec(parser.text.slice(parser.at, parser.at + 40));
  if (found === null) throw new JsonError(`no value at ${parser.at}`);
  parser.at += found[0].length;
  return BigInt(found[0]);
}

function parseObject(parser, depth) {
  const object = new Map();
  if (eat(parser, "}")) return object;
  do {
    space(parser);
    const key = parseString(parser);
    need(parser, ":");
    object.set(key, parseValue(parser, depth + 1));
  } while (eat(parser, ","));
  need(parser, "}");
  return object;
}

function parseArray(parser, depth) {
  const array = [];
  if (eat(parser, "]")) return array;
  do {
    array.push(parseValue(parser, depth + 1));
  } while (eat(parser, ","));
  need(parser, "]");
  return array;
}

function parseString(parser) {
  const start = parser.at;
  if (parser.text[start] !== '"') throw new JsonError(`no string at ${start}`);
  let end = start + 1;
  while (end < parser.text.length && parser.text[end] !== '"') end += parser.text[end] === "\\" ? 2 : 1;
  try {
    const value = JSON.parse(parser.text.slice(start, end + 1));
    parser.at = end + 1;
    return value;
  } catch {
    throw new JsonError(`a broken string at ${start}`);
  }
}

function written(value, depth) {
  if (value === null) return "null";
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "string") return quoted(value);
  const rows = Array.isArray(value)
    ? value.map((item) => written(item, depth + 1))
    : [...value.keys()].sort().map((key) => `${quoted(key)}: ${written(value.get(key), depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!rows.length) return open + close;
  const indent = "\n" + " ".repeat(depth);
  return open + indent + rows.join("," + indent) + indent.slice(0, -1) + close;
}

function quoted(text) {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) =>
    unit === "\u007f" ? unit : "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}
