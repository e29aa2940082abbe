// Opens the Vite development server at URL, edits its files in DIR, and sees
// the page change without being loaded again.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { browse, must, soon } from './chromium.mjs';

const [base, dir] = process.argv.slice(2);

await browse(async (page, note) => {
  // Vite's client falls back to a direct connection when its WebSocket does not
  // get through, so look where it really goes.
  const sockets = [];
  const connected = new Promise((resolve) => page.on('websocket', (ws) => {
    sockets.push(ws.url());
    ws.on('framereceived', ({ payload }) => { if (payload.includes('"connected"')) resolve(); });
  }));
  let loads = 0;
  page.on('load', () => loads++);

  await page.goto(base);
  await page.getByRole('heading', { name: 'before' }).waitFor();
  await soon(connected, "Vite's socket did not open");
  const visit = await page.locator('#visit').textContent();
  note('opened the page');

  const edit = async (file, from, to) => {
    const text = await readFile(join(dir, file), 'utf8');
    must(text.includes(from), `${file} does not contain ${from}`);
    await writeFile(join(dir, file), text.replace(from, to));
  };
  await edit('greeting.js', 'before', 'after');
  await page.getByRole('heading', { name: 'after' }).waitFor();
  note('a script changed under the open page');

  await edit('style.css', 'rgb(1, 2, 3)', 'rgb(4, 5, 6)');
  await page.waitForFunction(() => getComputedStyle(document.querySelector('h1')).color === 'rgb(4, 5, 6)');
  note('a style changed under the open page');

  must(await page.locator('#visit').textContent() === visit && loads === 1, 'the page was loaded again');
  const want = base.replace(/^http/, 'ws');
  must(sockets.length > 0 && sockets.every((url) => url.startsWith(want)),
    `hot reload went to ${sockets.join(', ') || 'no socket'} and not to ${want}`);
});
