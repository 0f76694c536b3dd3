// The page at `/` in a real headless Chromium, against a running service: CHAT_URL names it, CHROMIUM the browser.
//
// RESTART_HOOK, when set, is a command that takes `stop`, `kill` or `start` and does that to the service (same address,
// same data); without it the restart tests are skipped. PAGE_SCREENSHOT, when set, is where a picture of two tabs goes.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { deflateSync } from 'node:zlib';

import { chromium } from 'playwright-core';
import { io } from 'sio-4.8';

import { CHAT_URL, conversationOf, history, PATIENCE_MS, someone } from './contract.mjs';

const BROWSERS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
const { RESTART_HOOK, PAGE_SCREENSHOT } = process.env;

let browser;
const complaints = [];
const strangers = [];
// While the service is down on purpose, the browser itself reports connections that cannot be made.
let down = false;

before(async () => {
  const executablePath = process.env.CHROMIUM || BROWSERS.find((path) => existsSync(path));
  assert.ok(executablePath, `no browser: none of ${BROWSERS.join(', ')}, and CHROMIUM is not set`);
  browser = await chromium.launch({ executablePath, args: FLAGS });
});
after(() => browser?.close());

// A person's browser: contexts share nothing, tabs of one context share storage.
async function person(options = {}) {
  const context = await browser.newContext({ viewport: { width: 640, height: 720 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  context.on('page', watch);
  return context;
}

function watch(page) {
  const complain = (what) => complaints.push(`${page.url()}: ${what}`);
  page.on('console', (line) => {
    const expected = down && /WebSocket connection|ERR_(CONNECTION|EMPTY|SOCKET|INCOMPLETE)|502|503/.test(line.text());
    if (['error', 'warning'].includes(line.type()) && !expected) complain(line.text());
  });
  page.on('pageerror', (error) => complain(error.stack));
  const visit = (address) => {
    const { protocol, host } = new URL(address);
    if (!['data:', 'blob:'].includes(protocol) && host !== new URL(CHAT_URL).host) strangers.push(address);
  };
  page.on('request', (request) => visit(request.url()));
  page.on('websocket', (socket) => visit(socket.url()));
}

async function tab(context, me, to, prepare = () => {}) {
  const page = await context.newPage();
  await prepare(page);
  await page.goto(`${CHAT_URL}/?${new URLSearchParams({ me, to })}`);
  await online(page);
  return page;
}

const online = (page) => page.locator('#state[data-state=online]').waitFor();
const bubble = (page, text) => page.locator('#log li .bubble', { hasText: text });
const texts = (page) => page.locator('#log li .bubble').allInnerTexts();

async function say(page, text) {
  await page.fill('#text', text);
  await page.keyboard.press('Enter');
}

async function sent(page, text) {
  await page.locator('#log li.mine[data-state=sent]', { hasText: text }).waitFor();
}

async function attach(page, name, buffer, mimeType = 'image/png') {
  await page.setInputFiles('#file', { name, mimeType, buffer });
}

const shown = (page, name) =>
  page.waitForFunction((alt) => [...document.querySelectorAll('#log a > img')].some((i) => i.alt === alt && i.naturalWidth > 0), name);

describe('the page', { concurrency: false }, () => {
  test('a newcomer chooses two names, follows the hint to a second tab, and both sides talk', async () => {
    const context = await person();
    const ann = await context.newPage();
    await ann.goto(CHAT_URL);
    const [annId, bobId] = [someone('ann'), someone('bob')];
    await ann.getByLabel('You are').fill(annId);
    await ann.getByLabel('You talk to').fill(bobId);
    await ann.getByRole('button', { name: 'Start chatting' }).click();
    await online(ann);
    assert.equal(await ann.locator('#state').getAttribute('data-transport'), 'websocket');
    assert.match(await ann.locator('#state').innerText(), /online/);
    const [bob] = await Promise.all([context.waitForEvent('page'), ann.locator('#other').click()]);
    await online(bob);
    assert.equal(await bob.locator('#peer').innerText(), annId);

    await say(ann, 'Hello Bob');
    await bubble(bob, 'Hello Bob').waitFor();
    await sent(ann, 'Hello Bob');
    await say(bob, 'Hello Ann');
    await bubble(ann, 'Hello Ann').waitFor();
    await ann.locator('#hint').waitFor({ state: 'hidden' });
    for (const page of [ann, bob]) assert.deepEqual(await texts(page), ['Hello Bob', 'Hello Ann']);
    await context.close();
  });

  test('typing shows while the other person types, and goes when they stop', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const context = await person();
    const [ann, bob] = [await tab(context, annId, bobId), await tab(context, bobId, annId)];
    await bob.locator('#text').pressSequentially('hm');
    await ann.getByText(`${bobId} is typing…`).waitFor();
    await bob.fill('#text', '');
    await ann.getByText(`${bobId} is typing…`).waitFor({ state: 'detached' });
    await context.close();
  });

  test('an image is uploaded in one tab and seen in the other, other files are links', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const context = await person();
    const [ann, bob] = [await tab(context, annId, bobId), await tab(context, bobId, annId)];
    await attach(ann, 'lake.png', landscape());
    await Promise.all([shown(ann, 'lake.png'), shown(bob, 'lake.png')]);
    await attach(bob, 'notes.txt', Buffer.from('to read'), 'text/plain');
    const link = ann.locator('#log a', { hasText: 'notes.txt' });
    await link.waitFor();
    assert.match(await link.getAttribute('href'), /\/uploads\/[^/]+$/);
    await context.close();
  });

  test('an image can be pasted', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const context = await person();
    const [ann, bob] = [await tab(context, annId, bobId), await tab(context, bobId, annId)];
    await ann.evaluate((bytes) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'pasted.png', { type: 'image/png' }));
      document.querySelector('#text').dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
    }, [...landscape()]);
    await shown(bob, 'pasted.png');
    await context.close();
  });

  test('a reload shows the history, with images and spam reports', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const context = await person();
    const [ann, bob] = [await tab(context, annId, bobId), await tab(context, bobId, annId)];
    await say(ann, 'first');
    await sent(ann, 'first');
    await attach(ann, 'lake.png', landscape());
    await shown(bob, 'lake.png');
    await say(ann, 'buy this now');
    const row = bob.locator('#log li', { hasText: 'buy this now' });
    await row.hover();
    await row.getByRole('button', { name: 'report spam' }).click();
    await row.getByText('reported as spam').waitFor();
    for (const page of [ann, bob]) {
      await page.reload();
      await online(page);
      await page.locator('#log li.spam', { hasText: 'buy this now' }).getByText('reported as spam').waitFor();
      await shown(page, 'lake.png');
      assert.equal(await page.locator('#log li .bubble').count(), 3);
      assert.equal(await page.locator('#log li.spam').count(), 1);
    }
    await context.close();
  });

  test('one\'s own messages from another tab are there when this one is looked at again', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const context = await person();
    const [one, two] = [await tab(context, annId, bobId), await tab(context, annId, bobId)];
    await say(two, 'from the second tab');
    await sent(two, 'from the second tab');
    await one.evaluate(() => dispatchEvent(new Event('focus')));
    await bubble(one, 'from the second tab').waitFor();
    await context.close();
  });

  test('scrolling up brings older messages, in order and each once', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const socket = io(CHAT_URL, { transports: ['websocket'], forceNew: true });
    const wanted = Array.from({ length: 130 }, (_, i) => `line ${i}.`);
    for (const text_content of wanted) await socket.timeout(PATIENCE_MS).emitWithAck('chatMessage', { sender_id: bobId, receiver_id: annId, text_content });
    socket.close();
    const context = await person();
    const ann = await tab(context, annId, bobId);
    await bubble(ann, 'line 129.').waitFor();
    assert.ok((await texts(ann)).length < wanted.length, 'not all at once');
    await ann.locator('#log').hover();
    for (let i = 0; i < 40 && (await bubble(ann, 'line 0.').count()) === 0; i++) {
      const count = await ann.locator('#log li .bubble').count();
      await ann.locator('#log').evaluate((log) => { log.scrollTop = 0; });
      await ann.waitForFunction((n) => document.querySelectorAll('#log li .bubble').length > n, count);
    }
    await ann.getByText('This is where it began').waitFor();
    assert.deepEqual(await texts(ann), wanted);
    await context.close();
  });

  test('what people write is text, never markup', async () => {
    const [annId, bobId] = [someone('<b>ann</b>'), someone('bob&amp;')];
    const context = await person();
    const [ann, bob] = [await tab(context, annId, bobId), await tab(context, bobId, annId)];
    const text = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script> &lt; 👩‍👩‍👧';
    await say(ann, text);
    await bubble(bob, 'onerror').waitFor();
    assert.deepEqual(await texts(bob), [text]);
    assert.equal(await bob.locator('#peer').innerText(), annId);
    const forged = { sender_id: annId, receiver_id: bobId, text_content: 'click', attachment_url: 'javascript:alert(1)', attachment_filename: 'x' };
    const socket = io(CHAT_URL, { transports: ['websocket'], forceNew: true });
    const refused = new Promise((resolve) => { socket.once('messageError', resolve); });
    socket.emit('chatMessage', forged);
    try {
      assert.equal((await Promise.race([refused, delay(PATIENCE_MS, { code: 'no answer' }, { ref: false })])).code, 'invalid');
    } finally {
      socket.close(); // an open socket would keep this process alive
    }
    assert.equal(await bob.locator('#log a[href^="javascript"]').count(), 0);
    assert.doesNotMatch(await bob.title(), /owned/);
    await context.close();
  });

  test('a refused message says why, and can be discarded', async () => {
    const context = await person();
    const ann = await tab(context, someone('ann'), someone('bob'));
    await ann.evaluate(() => { document.querySelector('#text').value = `half a character ${String.fromCharCode(0xd800)}`; });
    await ann.locator('#send').click();
    const row = ann.locator('#log li[data-state=failed]');
    await row.getByText('failed:').waitFor();
    await row.getByRole('button', { name: 'retry' }).waitFor();
    await row.getByRole('button', { name: 'discard' }).click();
    await row.waitFor({ state: 'detached' });
    await context.close();
  });

  test('where a websocket cannot open, polling carries the same chat', async () => {
    const [annId, bobId] = [someone('ann'), someone('bob')];
    const context = await person();
    const ann = await tab(context, annId, bobId, (page) => page.routeWebSocket(/socket\.io/, (socket) => socket.close()));
    const bob = await tab(context, bobId, annId);
    assert.equal(await ann.locator('#state').getAttribute('data-transport'), 'polling');
    await say(ann, 'over polling');
    await bubble(bob, 'over polling').waitFor();
    await say(bob, 'over websocket');
    await bubble(ann, 'over websocket').waitFor();
    await bob.locator('#text').pressSequentially('hm');
    await ann.getByText('is typing…').waitFor();
    await context.close();
  });

  test('a message from a third person is announced', async () => {
    const [annId, bobId, carlId] = ['ann', 'bob', 'carl'].map(someone);
    const context = await person();
    const [ann, carl] = [await tab(context, annId, bobId), await tab(context, carlId, annId)];
    await say(carl, 'me too');
    await ann.getByText(`${carlId} wrote to you`).waitFor();
    await ann.getByRole('button', { name: 'Open' }).click();
    await bubble(ann, 'me too').waitFor();
    await context.close();
  });

  for (const how of ['stop', 'kill']) {
    const skip = !RESTART_HOOK && 'RESTART_HOOK is not set';
    test(`after ${how} and start the page comes back, and what was typed meanwhile arrives exactly once`, { skip }, async () => {
      const [annId, bobId] = [someone('ann'), someone('bob')];
      const context = await person();
      const [ann, bob] = [await tab(context, annId, bobId), await tab(context, bobId, annId)];
      await say(ann, 'before');
      await bubble(bob, 'before').waitFor();
      down = true;
      try {
        await service(how);
        await ann.locator('#state:not([data-state=online])').waitFor();
        await say(ann, 'typed meanwhile');
        await ann.locator('#log li[data-state=sending]', { hasText: 'typed meanwhile' }).waitFor();
      } finally {
        await service('start');
      }
      await Promise.all([online(ann), online(bob)]);
      await Promise.all([sent(ann, 'typed meanwhile'), bubble(bob, 'typed meanwhile').waitFor()]);
      down = false;
      await say(bob, 'after');
      await bubble(ann, 'after').waitFor();
      const wanted = ['before', 'typed meanwhile', 'after'];
      for (const page of [ann, bob]) assert.deepEqual(await texts(page), wanted);
      assert.deepEqual((await history(conversationOf(annId, bobId))).map((m) => m.text_content), wanted);
      await context.close();
    });
  }

  test('a picture of it', { skip: !PAGE_SCREENSHOT && 'PAGE_SCREENSHOT is not set' }, async () => {
    const viewport = { width: 520, height: 640 };
    const [light, dark] = [await person({ viewport }), await person({ viewport, colorScheme: 'dark' })];
    const [ann, bob] = [await tab(light, 'Ann', 'Bob'), await tab(dark, 'Bob', 'Ann')];
    const talk = async (from, to, text) => {
      await say(from, text);
      await sent(from, text);
      await bubble(to, text).last().waitFor();
    };
    await talk(ann, bob, 'Hi Bob! Do you keep what I write?');
    await talk(bob, ann, '“sent” means it is safe on disk, and both of us see the same order.');
    await attach(ann, 'lake.png', landscape());
    await Promise.all([shown(ann, 'lake.png'), shown(bob, 'lake.png')]);
    await talk(bob, ann, 'Beautiful. Where is that?');
    await ann.locator('#text').pressSequentially('At the end of the log');
    await bob.getByText('Ann is typing…').waitFor();
    const shots = await Promise.all([ann, bob].map(async (page) => `data:image/png;base64,${(await page.screenshot()).toString('base64')}`));
    const wall = await (await browser.newContext({ viewport: { width: 1112, height: 688 } })).newPage();
    await wall.setContent(`<body style="margin:0;background:#9fb3b0;display:flex;gap:24px;padding:24px">${shots
      .map((src) => `<img src="${src}" style="border-radius:14px;box-shadow:0 8px 30px #0004">`)
      .join('')}`);
    await wall.screenshot({ path: PAGE_SCREENSHOT });
    await Promise.all([light.close(), dark.close(), wall.context().close()]);
  });

  test('nothing complained in the console, and no other host was asked for anything', () => {
    assert.deepEqual(complaints, []);
    assert.deepEqual(strangers, []);
  });
});

const service = (action) => promisify(execFile)('/bin/sh', ['-c', `${RESTART_HOOK} ${action}`], { timeout: 60_000 });

// A small real PNG: sky, sun, hills, water.
function landscape(width = 360, height = 200) {
  const rows = [];
  for (let y = 0; y < height; y++) {
    const row = [0];
    for (let x = 0; x < width; x++) row.push(...colour(x, y, y / height));
    rows.push(Buffer.from(row));
  }
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const [size, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    size.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([size, body, sum]);
  };
  const header = Buffer.from([0, 0, width >> 8, width & 255, 0, 0, height >> 8, height & 255, 8, 2, 0, 0, 0]);
  return Buffer.concat([
    Buffer.from('89504e470d0a1a0a', 'hex'), chunk('IHDR', header), chunk('IDAT', deflateSync(Buffer.concat(rows))), chunk('IEND', Buffer.alloc(0)),
  ]);
}

function crc32(bytes) {
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

function colour(x, y, depth) {
  if ((x - 270) ** 2 + (y - 45) ** 2 < 484) return [255, 236, 170];
  if (y > 140) return [60 + 30 * Math.sin(y / 3 + x / 40) ** 2, 120, 150];
  if (y > 105 + 18 * Math.sin(x / 38) + 9 * Math.sin(x / 13 + 1)) return [38, 78, 70];
  if (y > 80 + 14 * Math.sin(x / 60 + 2)) return [96, 128, 140];
  return [250 - 90 * depth, 190 - 20 * depth, 150 + 60 * depth];
}
