// What a web app does without a worker: Playwright launches a browser for each receipt.
//
//   node launch.mjs ENGINE AT_ONCE HTML
//
// Reads lines with a number and prints so many receipts.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [executablePath, atOnce, file] = process.argv.slice(2);
const html = readFileSync(file, 'utf8');

async function receipt() {
  const browser = await chromium.launch({ executablePath });
  try {
    const page = await browser.newPage();
    await page.setContent(html, { waitUntil: 'load' });
    const pdf = await page.pdf({ width: '80mm', height: '297mm', printBackground: true });
    if (pdf.subarray(0, 4).toString() !== '%PDF') throw new Error('this is no PDF');
  } finally {
    await browser.close();
  }
}

async function several(count) {
  let left = count;
  const one = async () => {
    while (left-- > 0) await receipt();
  };
  await Promise.all(Array.from({ length: Number(atOnce) }, one));
}

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  await several(Number(line));
  console.log('done');
}
