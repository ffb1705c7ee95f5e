// What Microsoft's client does with batches, against the users example. It prints what it got, as one JSON object.
import { BatchRequestContent, BatchResponseContent, Client, ResponseType } from "@microsoft/microsoft-graph-client";

const [, , baseUrl] = process.argv;
const client = Client.init({ baseUrl, authProvider: (done) => done(null, "a token") });
const json = { "Content-Type": "application/json" };

function user(number) {
  return { email: `user-${number}@example.com`, name: "Ada", born_on: "1990-06-01", country: "NO" };
}

function create(number) {
  return { id: `${number}`, method: "POST", url: "/users", headers: json, body: user(number) };
}

function step(id, path, init = {}) {
  return { id, request: new Request(`${baseUrl}${path}`, init) };
}

async function send(steps) {
  const batch = new BatchRequestContent(steps);
  const content = new BatchResponseContent(await client.api("/$batch").post(await batch.getContent()));
  return [...content.getResponsesIterator()];
}

async function statuses(steps) {
  return Object.fromEntries((await send(steps)).map(([id, response]) => [id, response.status]));
}

// As many as fit into a BatchRequestContent, with the bodies of their responses.
const creating = [...Array(19).keys()].map((number) =>
  step(`${number}`, "/users", { method: "POST", headers: json, body: JSON.stringify(user(number)) }),
);
const first = await send([...creating, step("unknown", "/users/999999")]);
const emails = [];
for (const [id, response] of first) if (id !== "unknown") emails.push((await response.json()).email);
const unknown = await first.find(([id]) => id === "unknown")[1].json();

// More than that, posted as an object.
const more = await client.api("/$batch").post({ requests: [...Array(60).keys()].map((number) => create(100 + number)) });

// One after another, and all after the first one.
const post = (number) => ({ method: "POST", headers: json, body: JSON.stringify(user(number)) });
const serial = await statuses([
  step("a", "/users", post(2000)),
  { ...step("b", "/users", post(2000)), dependsOn: ["a"] },
  { ...step("c", "/users/1"), dependsOn: ["b"] },
]);
const same = await statuses([
  step("a", "/users", post(2001)),
  { ...step("b", "/users/1"), dependsOn: ["a"] },
  { ...step("c", "/users/999999"), dependsOn: ["a"] },
]);

// References to what a request creates. Node has no Request with a relative URL, so they are posted as an object.
const referring = await client.api("/$batch").post({
  requests: [
    { ...create(3000), id: "new" },
    { id: "change", method: "PATCH", url: "$new", headers: json, body: { name: "Grace" }, dependsOn: ["new"] },
    { id: "look", method: "GET", url: "$new", dependsOn: ["change"] },
    { id: "gone", method: "DELETE", url: "/$new", dependsOn: ["look"] },
  ],
});
const stopping = await client
  .api("/$batch")
  .header("Prefer", "continue-on-error=false")
  .post({ requests: [create(3001), { ...create(3001), id: "again" }, create(3002)] });

// In the background.
const requests = [...Array(130).keys()].map((number) => create(1000 + number));
requests.push({ id: "look", method: "GET", url: "$1129" });
const accepted = await client
  .api("/$batch")
  .header("Prefer", "respond-async")
  .responseType(ResponseType.RAW)
  .post({ requests });
const monitor = accepted.headers.get("Location");
const asked = [];
let finished;
do {
  finished = await client.api(monitor).responseType(ResponseType.RAW).get();
  asked.push(finished.status);
  if (finished.status === 202) await new Promise((resume) => setTimeout(resume, 100));
} while (finished.status === 202);
const later = new BatchResponseContent(await finished.json());

// Errors.
async function errorOf(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { status: error.statusCode, code: error.code, message: error.message };
  }
}
const twice = await errorOf(() => client.api("/$batch").post({ requests: [create(5), create(5)] }));
const ended = await errorOf(() => client.api(monitor).delete());

console.log(
  JSON.stringify({
    emails,
    unknown: unknown.error,
    more: more.responses.map((response) => response.status),
    serial,
    same,
    referring: referring.responses.map((response) => response.status),
    looked: referring.responses[2].body.name,
    stopping: stopping.responses.map((response) => response.status),
    accepted: accepted.status,
    asked,
    later: [...later.getResponses().values()].map((response) => response.status),
    lastEmail: (await later.getResponseById("look").json()).email,
    twice,
    ended,
    deleted: await statuses([step("a", "/users/1", { method: "DELETE" }), step("b", "/users/2")]),
  }),
);
