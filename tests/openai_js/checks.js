// OpenAI's own client, as it is published, against a p2pnode router or gateway: `node checks.js BASE_URL`.
// Prints one line of JSON for each check: {"name", "fault"}, fault being empty where all was as it should be.

import assert from "node:assert/strict";
import OpenAI from "openai";

const baseURL = process.argv[2];
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const model = (await client.models.list()).data[0].id;
// At this the shipped model, which knows its few answers by heart, says something else each time.
const VARIED = 1.8;
const messages = [{ role: "user", content: "Where does a bear live?" }];
const SCHEMA = {
  type: "object",
  properties: { animal: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 9 } },
  required: ["animal", "age"],
  additionalProperties: false,
};
const TOOL = { type: "function", function: { name: "place_of", description: "Where it lives", parameters: SCHEMA } };

const chat = (more = {}) => client.chat.completions.create({ model, messages, max_tokens: 16, seed: 1, ...more });

async function streamed(more = {}) {
  const chunks = [];
  for await (const chunk of await chat({ stream: true, ...more })) chunks.push(chunk);
  return chunks;
}

async function refused(status, code, request) {
  await assert.rejects(request, (error) => {
    assert.ok(error instanceof OpenAI.APIError, `${error}`);
    assert.equal(error.status, status);
    assert.equal(error.code, code);
    return true;
  });
}

const CHECKS = {
  models: async () => {
    assert.equal((await client.models.retrieve(model)).id, model);
  },
  chat: async () => {
    const answer = await chat();
    assert.equal(answer.object, "chat.completion");
    assert.ok(answer.choices[0].message.content.length > 0);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.match(answer.p2pnode.receipt, /^[0-9a-f]{64}-\d+$/);
  },
  "chat, streamed": async () => {
    const chunks = await streamed();
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    const said = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
    assert.equal(said, (await chat()).choices[0].message.content);
    assert.ok(["stop", "length"].includes(chunks.at(-1).choices[0].finish_reason));
  },
  "usage at a stream's end": async () => {
    const last = (await streamed({ stream_options: { include_usage: true } })).at(-1);
    assert.deepEqual(last.choices, []);
    assert.ok(last.usage.completion_tokens > 0);
  },
  n: async () => {
    const { choices } = await chat({ n: 2, max_tokens: 24, temperature: VARIED });
    assert.equal(choices.length, 2);
    assert.notEqual(choices[0].message.content, choices[1].message.content);
  },
  seed: async () => {
    const [one, two] = [await chat({ seed: 7, temperature: VARIED }), await chat({ seed: 7, temperature: VARIED })];
    assert.equal(one.choices[0].message.content, two.choices[0].message.content);
    const other = await chat({ seed: 8, temperature: VARIED });
    assert.notEqual(one.choices[0].message.content, other.choices[0].message.content);
  },
  stop: async () => {
    const whole = (await chat({ max_tokens: 24 })).choices[0].message.content;
    const mark = whole.slice(4, 7);
    const { message, finish_reason } = (await chat({ max_tokens: 24, stop: [mark] })).choices[0];
    assert.equal(message.content, whole.slice(0, whole.indexOf(mark)));
    assert.equal(finish_reason, "stop");
  },
  "max_tokens and max_completion_tokens": async () => {
    assert.equal((await chat({ max_tokens: 3 })).usage.completion_tokens, 3);
    const other = await chat({ max_tokens: undefined, max_completion_tokens: 4 });
    assert.equal(other.usage.completion_tokens, 4);
    assert.equal(other.choices[0].finish_reason, "length");
  },
  logprobs: async () => {
    const { content } = (await chat({ logprobs: true, top_logprobs: 2, max_tokens: 3 })).choices[0].logprobs;
    assert.equal(content.length, 3);
    assert.ok(content.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
  },
  "JSON schema": async () => {
    const response_format = { type: "json_schema", json_schema: { name: "animal", schema: SCHEMA, strict: true } };
    const { message } = (await chat({ response_format, max_tokens: 200 })).choices[0];
    assert.deepEqual(Object.keys(JSON.parse(message.content)), ["animal", "age"]);
  },
  "JSON mode": async () => {
    const format = { response_format: { type: "json_object" }, max_tokens: 60, stop: null };
    const { message, finish_reason } = (await chat(format)).choices[0];
    assert.ok(message.content.trimStart().startsWith("{"));
    if (finish_reason === "stop") JSON.parse(message.content);
  },
  "tools that have to be called": async () => {
    const asked = { tools: [TOOL], tool_choice: { type: "function", function: { name: "place_of" } }, max_tokens: 200 };
    const answer = (await chat(asked)).choices[0];
    assert.equal(answer.finish_reason, "tool_calls");
    const [call] = answer.message.tool_calls;
    assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["animal", "age"]);
    const turns = [...messages, answer.message, { role: "tool", tool_call_id: call.id, content: "in a wood" }];
    assert.equal((await chat({ messages: turns, tools: [TOOL] })).object, "chat.completion");
    const parts = (await streamed(asked)).flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
    assert.equal(parts.map((part) => part.function.arguments).join(""), call.function.arguments);
  },
  completions: async () => {
    const asked = { model, prompt: ["Once upon", "A bear"], n: 2, max_tokens: 4, seed: 3 };
    const { choices } = await client.completions.create(asked);
    assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2, 3]);
    let said = "";
    const stream = await client.completions.create({ ...asked, prompt: "Once upon", n: 1, stream: true });
    for await (const chunk of stream) said += chunk.choices[0].text;
    assert.equal(said, choices[0].text);
  },
  embeddings: async () => {
    const { data } = await client.embeddings.create({ model, input: ["a bear", "a fox"] });
    const plain = await client.embeddings.create({ model, input: "a bear", encoding_format: "float" });
    assert.equal(data.length, 2);
    assert.deepEqual([...data[0].embedding].map(Math.fround), plain.data[0].embedding.map(Math.fround));
  },
  "unknown model: 404": () => refused(404, "model_not_found", () => chat({ model: "nope" })),
  "prompt too long: 400": () => refused(400, "context_length_exceeded", () => chat({ max_tokens: 30_000 })),
  "value out of range: 400": () => refused(400, "invalid_value", () => chat({ temperature: 3 })),
  "not supported: 400": () => refused(400, "unsupported_value", () => chat({ logit_bias: { 5: 1 } })),
  "a stream is broken off": async () => {
    const stream = await chat({ stream: true, max_tokens: 200 });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    assert.ok(stream.controller.signal.aborted);
    assert.equal((await chat()).object, "chat.completion");
  },
};

for (const [name, check] of Object.entries(CHECKS)) {
  let fault = "";
  try {
    await check();
  } catch (error) {
    fault = String(error?.stack ?? error).slice(0, 2_000);
  }
  console.log(JSON.stringify({ name, fault }));
}
