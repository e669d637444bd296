// Two receipts through Tillroll with ioredis, one in each form of the header.
//
//     node receipt.mjs redis://127.0.0.1:6379

import { randomUUID } from "node:crypto";
import Redis from "ioredis";

const P = "tillroll:{receipts}:";
const WAIT = 30; // seconds
const HTML = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>";

// A blocking command holds its connection: use one that does nothing else. If
// you set socketTimeout, make it longer than the wait; set no keyPrefix.
const client = new Redis(process.argv[2], { maxRetriesPerRequest: 1 });
client.on("error", (error) => console.error(error.message));

// The header on one line, then the document as it is.
const framed = (header, html) => Buffer.from(`${JSON.stringify(header)}\n${html}`);

// The document inside the header. No newline: simple, up to 1 MiB.
const jsonOnly = (header, html) => JSON.stringify({ ...header, html });

async function render(form) {
  // An id of your own lets you wait for the reply, and push again safely.
  const job = { id: `r-${randomUUID()}`, tenant: "cafe", options: { paper: "80mm" } };
  await client.lpush(`${P}in`, form(job, HTML));

  // blpopBuffer, not blpop: a PDF does not survive being decoded as text.
  const taken = await client.blpopBuffer(`${P}reply:${job.tenant}/${job.id}`, WAIT);
  if (!taken) throw new Error(`${job.id}: no reply within ${WAIT} s; is a worker running?`);
  const end = taken[1].indexOf("\n");
  const reply = JSON.parse(end < 0 ? taken[1] : taken[1].subarray(0, end));
  if (reply.status !== "done") {
    throw new Error(`${job.id}: ${reply.status}: ${JSON.stringify(reply.error)}`);
  }
  const pdf = taken[1].subarray(end + 1);
  if (!pdf.subarray(0, 5).equals(Buffer.from("%PDF-"))) throw new Error(`${job.id}: that is no PDF`);
  console.log(`${form.name}: ${reply.pages} page, ${pdf.length} bytes`);
}

try {
  await render(framed);
  await render(jsonOnly);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.disconnect();
}
