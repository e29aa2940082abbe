// One way to start the browser and to report: every script here is
//
//	node SCRIPT.mjs URL [ARGUMENT…]
//
// prints what it did, one line each, and exits with 1 and the reason when the
// page is not what it should be. PICTURE names a file for a last screenshot.
import { chromium } from 'playwright-core';

const patience = 15_000; // ms, for anything that a person would not wait for

/** Runs visit(page, note) in a fresh Chromium that trusts what the NSS store in $HOME trusts. */
export async function browse(visit) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    // Chromium refuses its sandbox to root. The rest keeps it from calling home.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(patience);

  const started = performance.now();
  const note = (text) => console.log(`${Math.round(performance.now() - started)} ms: ${text}`);
  const heard = []; // what the browser complained about; shown when the visit fails
  page.on('console', (m) => heard.push(`console ${m.type()}: ${m.text()}`));
  page.on('pageerror', (err) => heard.push(`page error: ${err.message}`));
  page.on('requestfailed', (r) => heard.push(`request failed: ${r.url()}: ${r.failure()?.errorText}`));

  try {
    await visit(page, note);
    note('done');
  } catch (err) {
    console.log(heard.join('\n'));
    console.log(`at ${page.url()}\n${err.stack}`);
    if (process.env.PICTURE) await page.screenshot({ path: process.env.PICTURE }).catch(() => {});
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
}

/** Fails unless what is true. */
export function must(what, message) {
  if (!what) throw new Error(message);
}

/** Waits for promise as long as for anything else here, then fails with message. */
export function soon(promise, message) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(message)), patience).unref());
  return Promise.race([promise, late]);
}
