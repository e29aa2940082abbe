// Clicks through DokuWiki at URL: reads a page, logs in, writes a page, finds it.
import { browse, must } from './chromium.mjs';

const [base, user, password] = process.argv.slice(2);

await browse(async (page, note) => {
  // Whatever the wiki is made of (styles, scripts, icons) has to arrive.
  const broken = [];
  page.on('response', (r) => { if (r.status() >= 400) broken.push(`${r.status()} ${r.url()}`); });
  const origin = new URL(base).origin;
  page.on('request', (r) => {
    if (!r.url().startsWith(origin) && !r.url().startsWith('data:')) broken.push(`left the tunnel: ${r.url()}`);
  });

  const first = await page.goto(`${base}/doku.php?id=start`);
  must((await first.securityDetails())?.issuer, 'the page came without a certificate');
  await page.getByText('This topic does not exist yet').waitFor();
  note('viewed an empty page');

  await page.getByRole('link', { name: 'Log In' }).click();
  await page.locator('input[name=u]').fill(user);
  await page.locator('input[name=p]').fill(password);
  await page.locator('#dw__login button[type=submit]').click();
  await page.getByText('Logged in as').waitFor();
  note('logged in');

  await page.goto(`${base}/doku.php?id=culvert&do=edit`);
  const words = `Carried under the road, ${Date.now()}. Grüße, 水路.`;
  await page.locator('#wiki__text').fill(`====== Culvert ======\n\n${words}\n\n${'A longer page. '.repeat(8000)}\n`);
  await page.locator('#edbtn__preview').click();
  await page.locator('.preview').getByText(words).waitFor();
  note('previewed an edit');
  const indexed = page.waitForResponse((r) => r.url().includes('taskrunner.php'));
  await page.locator('#edbtn__save').click();
  await page.locator('#dokuwiki__content').getByText(words).waitFor();
  must(!page.url().includes('do=edit'), `still editing: ${page.url()}`);
  note('saved it');

  // The wiki builds absolute addresses from what the tunnel tells it about the visitor's side.
  must(page.url().startsWith(origin), `a redirect left the tunnel: ${page.url()}`);
  const cookies = await page.context().cookies();
  must(cookies.length > 0 && cookies.every((c) => c.secure), `cookies not secure: ${JSON.stringify(cookies)}`);

  // Loading a page asks the wiki to index it; it does that after it has answered.
  await indexed;
  await page.locator('#qsearch__in').fill('road');
  await page.locator('#dw__search button[type=submit]').click();
  await page.waitForURL(/do=search/);
  const hit = page.locator('.search_fulltextresult').getByRole('link', { name: 'culvert' }).first();
  for (let tries = 0; await hit.count() === 0; tries++) {
    must(tries < 50, 'the page is not in the index');
    await page.reload();
  }
  await hit.click();
  await page.locator('#dokuwiki__content').getByText(words).waitFor();
  note('found it by searching');

  // A picture goes up by the media manager's form and comes back.
  const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64');
  await page.goto(`${base}/doku.php?id=culvert&do=media&tab_files=upload`);
  await page.locator('input[type=file]').setInputFiles({ name: 'dot.png', mimeType: 'image/png', buffer: png });
  await page.locator('#mediamanager__upload_button, .qq-upload-action button, button[type=submit]:has-text("Upload")').first().click();
  await page.getByText('dot.png').first().waitFor();
  const back = await page.evaluate(async (url) => {
    const answer = await fetch(url);
    return [...new Uint8Array(await answer.arrayBuffer())];
  }, `${base}/lib/exe/fetch.php?media=dot.png`);
  must(Buffer.compare(Buffer.from(back), png) === 0, `the picture came back as ${back.length} bytes`);
  note('uploaded a picture');

  must(broken.length === 0, broken.join('\n'));
});
