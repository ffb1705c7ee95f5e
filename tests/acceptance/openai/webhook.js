// What OpenAI's library finds in an event that was delivered. It prints the type and the id of the batch.
import OpenAI from "openai";

const { body, headers, secret } = JSON.parse(process.argv[2]);
const client = new OpenAI({ apiKey: "none", webhookSecret: secret });
const event = await client.webhooks.unwrap(body, new Headers(headers));
console.log(JSON.stringify([event.type, event.data.id]));
