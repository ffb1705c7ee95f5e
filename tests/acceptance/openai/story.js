// What OpenAI's library does with files and batches. It prints what it got, as one JSON object.
import { createReadStream, writeFileSync } from "node:fs";
import OpenAI, { toFile } from "openai";

const [, , baseURL] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none" });
const endpoint = "/v1/chat/completions";

function line(number, changes = {}) {
  const messages = [{ role: "user", content: `Say ${number}` }];
  const body = { model: "stub-1", messages, ...changes };
  return JSON.stringify({ custom_id: `n-${number}`, method: "POST", url: endpoint, body });
}

async function texts(file_id) {
  const response = await client.files.content(file_id);
  return (await response.text()).trim().split("\n").map((text) => JSON.parse(text));
}

async function run(input_file_id) {
  let batch = await client.batches.create({ input_file_id, endpoint, completion_window: "24h" });
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    await new Promise((done) => setTimeout(done, 200));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function count(pages) {
  let found = 0;
  for await (const _ of pages) found += 1;
  return found;
}

const lines = [...Array(199).keys()].map((number) => line(number));
writeFileSync("input.jsonl", [...lines, line(199, { model: "other" })].join("\n"));

// The library sends the fields in this order, so the file comes first.
const file = await client.files.create({ file: createReadStream("input.jsonl"), purpose: "batch" });
const batch = await run(file.id);
const twice = await client.files.create({ purpose: "batch", file: await toFile(Buffer.from(`${line(0)}\n${line(0)}`), "twice.jsonl") });
const failed = await run(twice.id);
await client.files.create({ purpose: "batch", file: await toFile(new Blob([line(1)]), "one.jsonl") });
const missing = await client.files.retrieve("file-none").catch((error) => [error.status, error.param]);

console.log(
  JSON.stringify({
    file: await client.files.waitForProcessing(file.id),
    files: await count(client.files.list({ limit: 2 })),
    batch,
    batches: await count(client.batches.list({ limit: 1 })),
    answers: (await texts(batch.output_file_id)).length,
    error: (await texts(batch.error_file_id))[0],
    failed: failed.errors.data.map((one) => [one.code, one.line]),
    missing,
    deleted: (await client.files.delete(file.id)).deleted,
  }),
);
