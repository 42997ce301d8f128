// Verifies a receipt where there is nothing of Node: the modules see what every browser has, and no more.
//
//   node --experimental-vm-modules alone.js NETWORK < RECEIPT

import { readFileSync } from "node:fs";
import { createContext, SourceTextModule } from "node:vm";

const here = new URL("./", import.meta.url);
const context = createContext({ TextEncoder, TextDecoder, result: null });
const modules = new Map();

// As an import map does: packages lie in node_modules.
function located(specifier, from) {
  return specifier.startsWith(".") ? new URL(specifier, from) : new URL(`node_modules/${specifier}`, here);
}

function load(url) {
  if (!modules.has(url.href)) {
    modules.set(url.href, new SourceTextModule(readFileSync(url, "utf8"), { identifier: url.href, context }));
  }
  return modules.get(url.href);
}

context.data = readFileSync(0);
context.network = process.argv[2];
const source = `
  import { verifyReceipt } from "./verify.js";
  globalThis.result = JSON.stringify(verifyReceipt(Uint8Array.from(data), { network }));
`;
const main = new SourceTextModule(source, { identifier: new URL("main.js", here).href, context });
await main.link((specifier, { identifier }) => load(located(specifier, identifier)));
await main.evaluate();
console.log(context.result);
