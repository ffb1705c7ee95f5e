// The main job with the generated types and openapi-fetch: submit, poll, read all results, read the failures.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };

type Operation = components["schemas"]["CreateUserOperation"];

const [, , baseUrl, job] = process.argv;
const client = createClient<paths>({ baseUrl: baseUrl!, headers: { Accept: "application/json" } });

function found<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

async function submit(operations: Operation[]): Promise<string> {
  const header = { "Idempotency-Key": `typescript-${operations.length}` };
  const accepted = found(await client.POST("/batch", { params: { header }, body: { operations, atomic: false } }));
  if (!("batchId" in accepted)) throw new Error("The batch was answered immediately.");
  return accepted.batchId;
}

async function wait(batch_id: string): Promise<components["schemas"]["Status"]> {
  for (;;) {
    const status = found(await client.GET("/batch/{batch_id}/status", { params: { path: { batch_id } } }));
    if (status.finishedAt !== null) return status;
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

async function results(batch_id: string): Promise<components["schemas"]["Outcome"][]> {
  const outcomes: components["schemas"]["Outcome"][] = [];
  let cursor: string | null = null;
  do {
    const query: { limit: number; cursor?: string } = { limit: 50, ...(cursor === null ? {} : { cursor }) };
    const page = found(await client.GET("/batch/{batch_id}/results", { params: { path: { batch_id }, query } }));
    if (typeof page === "string") throw new Error("This is no JSON.");
    outcomes.push(...page.results);
    cursor = page.nextCursor;
  } while (cursor !== null);
  return outcomes;
}

const batch_id = await submit(JSON.parse(job!));
const status = await wait(batch_id);
const outcomes = await results(batch_id);
const failures = found(await client.GET("/batch/{batch_id}/failures", { params: { path: { batch_id } } }));
const first = outcomes[0]!;
console.log(
  JSON.stringify({
    status: status.status,
    failed: outcomes.flatMap((outcome) => ("error" in outcome ? [outcome.id] : [])),
    total: outcomes.length,
    email: "result" in first ? first.result?.email : null,
    causes: failures.groups.map((group) => [group.status, group.count]),
  }),
);
