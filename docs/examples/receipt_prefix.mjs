// A receipt through Tillroll from an app whose ioredis client has a keyPrefix.
//
//     node receipt_prefix.mjs redis://127.0.0.1:6379

import { randomUUID } from "node:crypto";
import Redis from "ioredis";

const P = "tillroll:{receipts}:";
const WAIT = 30; // seconds
const HTML = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>";

// The app's own client: what it pushes would land under "shop:tillroll:…", where
// nobody reads. A duplicate without the prefix has the same server and password,
// and is the connection of its own that a blocking command needs anyway.
const app = new Redis(process.argv[2], { keyPrefix: "shop:", maxRetriesPerRequest: 1, lazyConnect: true });
const client = app.duplicate({ keyPrefix: "", lazyConnect: false });
client.on("error", (error) => console.error(error.message));

try {
  const job = { id: `r-${randomUUID()}`, tenant: "cafe", options: { paper: "80mm" } };
  await client.lpush(`${P}in`, Buffer.from(`${JSON.stringify(job)}\n${HTML}`));
  const taken = await client.blpopBuffer(`${P}reply:${job.tenant}/${job.id}`, WAIT);
  if (!taken) throw new Error(`${job.id}: no reply within ${WAIT} s; is a worker running?`);
  const end = taken[1].indexOf("\n");
  const reply = JSON.parse(end < 0 ? taken[1] : taken[1].subarray(0, end));
  const pdf = taken[1].subarray(end + 1);
  if (reply.status !== "done" || !pdf.subarray(0, 5).equals(Buffer.from("%PDF-"))) {
    throw new Error(`${job.id}: ${JSON.stringify(reply)}`);
  }
  console.log(`${reply.pages} page, ${pdf.length} bytes`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.disconnect();
  app.disconnect();
}
