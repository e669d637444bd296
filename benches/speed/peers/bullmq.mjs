// A BullMQ worker that prints with Puppeteer, as its documentation and Puppeteer's
// show it: one shared browser, a page for each job. And its producer.
//
//   node bullmq.mjs ENGINE AT_ONCE HTML worker|producer SOCKET
//
// The producer reads lines "FIRST COUNT" and adds so many jobs; the worker pushes each
// PDF to the list bench:reply:FIRST-NUMBER.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import puppeteer from 'puppeteer-core';

const [engine, atOnce, file, role, socket] = process.argv.slice(2);
const connection = new Redis({ path: socket, maxRetriesPerRequest: null });
const QUEUE = 'receipts';

async function work() {
  const args = process.getuid() === 0 ? ['--no-sandbox'] : [];
  const browser = await puppeteer.launch({ executablePath: engine, headless: 'shell', pipe: true, args });
  const replies = connection.duplicate();
  const print = async (job) => {
    const page = await browser.newPage();
    try {
      await page.setContent(job.data.html, { waitUntil: 'load' });
      // Untagged, as the others print it.
      const paper = { width: '80mm', height: '297mm', printBackground: true, tagged: false };
      const pdf = await page.pdf(paper);
      await replies.lpush(`bench:reply:${job.data.id}`, Buffer.from(pdf));
    } finally {
      await page.close();
    }
  };
  const options = { connection, concurrency: Number(atOnce), removeOnComplete: { count: 0 } };
  const worker = new Worker(QUEUE, print, options);
  worker.on('failed', (_, error) => {
    console.error(error);
    process.exitCode = 1;
  });
  process.on('SIGTERM', async () => {
    await worker.close(true);
    await browser.close();
    process.exit();
  });
  await worker.waitUntilReady();
  console.log('ready');
}

async function produce() {
  const html = readFileSync(file, 'utf8');
  const queue = new Queue(QUEUE, { connection });
  await queue.waitUntilReady();
  console.log('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    const [first, count] = line.split(' ').map(Number);
    const jobs = Array.from({ length: count }, (_, number) => ({
      name: 'receipt',
      data: { id: `${first}-${number}`, html },
    }));
    await queue.addBulk(jobs);
    console.log('done');
  }
  process.exit();
}

await (role === 'worker' ? work() : produce());
