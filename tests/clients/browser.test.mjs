// The official clients in pages of another origin, in a real headless Chromium: CORS with and without credentials,
// cookies, JSONP, binary payloads of revision 3. ECHO_BIN is examples/echo.rs as built, CHROMIUM the browser.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { chromium } from 'playwright-core';

import { PATIENCE_MS, within } from './contract.mjs';

const { ECHO_BIN = 'target/debug/examples/echo', CHROMIUM } = process.env;
const BROWSERS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'];
const TEXT = 'héllo 👩‍👩‍👧 € \u2028 \u0000 \u001e a\nb \\n \\\\n "quoted" \u{10ffff}';
const BURST = 500;

let browser, pages, origin, anyone, listed;
const echoes = [];

before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM || BROWSERS.find((path) => existsSync(path)), args: FLAGS });
  // `/2.5` is a page with that client; the rest is 404.
  pages = createServer(async (request, response) => {
    const [, version, script] = request.url.match(/^\/(\d\.\d)(\.js)?$/) ?? [];
    if (!version) return response.writeHead(404).end();
    response.setHeader('Content-Type', script ? 'text/javascript' : 'text/html');
    const file = new URL(`node_modules/sio-${version}/dist/socket.io.js`, import.meta.url);
    response.end(script ? await readFile(file) : `<!doctype html><body><script src="/${version}.js"></script>`);
  });
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${pages.address().port}`;
  anyone = await echo();
  listed = await echo('--cors-origins', `http://elsewhere.example,${origin}`, '--cookie', 'io');
});

after(async () => {
  await browser?.close();
  pages?.close();
  echoes.forEach((process) => process.kill());
});

async function echo(...args) {
  const process = spawn(ECHO_BIN, ['--port', '0', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  echoes.push(process);
  const line = await within(new Promise((resolve) => process.stdout.once('data', resolve)), 'the echo server');
  return String(line).trim().replace('echo listens on ', '');
}

// Connects in a fresh page of that client and exchanges text, bytes and a burst; what came of it, and every request.
async function visit(version, url, options, from = origin) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const requests = [];
  page.on('request', (request) => request.url().startsWith(url) && requests.push(request));
  await page.goto(`${from}/${version}`);
  const result = await page.evaluate(exchange, { url, options, text: TEXT, burst: BURST, patience: PATIENCE_MS });
  const headers = await Promise.all(requests.map((request) => request.allHeaders()));
  const cookies = await context.cookies(url);
  await context.close();
  return { ...result, requests, headers, cookies };
}

// Runs in the page.
async function exchange({ url, options, text, burst, patience }) {
  const socket = globalThis.io(url, { forceNew: true, reconnection: false, timeout: patience, ...options });
  const heard = (on, event) =>
    new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error(`no ${event}`)), patience);
      on.once(event, resolve);
    });
  const upgrade = options.transports.length > 1 ? heard(socket.io.engine, 'upgrade') : undefined;
  const refused = await Promise.race([
    heard(socket, 'connect').then(() => undefined),
    heard(socket, 'connect_error').then((error) => String(error.message ?? error)),
  ]);
  if (refused) return { refused };
  const seen = [];
  const all = new Promise((resolve) => socket.on('n', (i) => seen.push(i) === burst && resolve()));
  socket.emit('burst', burst);
  await upgrade;
  const bytes = Uint8Array.from([0, 1, 0x1e, 0x62, 0xfe, 0xff]);
  const [back, object] = await new Promise((resolve) =>
    socket.emit('message-with-ack', text, { bytes: bytes.buffer }, (...answer) => resolve(answer)),
  );
  await all;
  const result = {
    transport: socket.io.engine.transport.name,
    text: back,
    bytes: Array.from(new Uint8Array(object.bytes)),
    ordered: seen.every((n, i) => n === i),
  };
  socket.io.disconnect?.();
  return result;
}

function exchanged({ refused, transport, text, bytes, ordered }, expected) {
  assert.equal(refused, undefined);
  assert.deepEqual([transport, text, bytes, ordered], [expected, TEXT, [0, 1, 0x1e, 0x62, 0xfe, 0xff], true]);
}

const MODES = [
  ['polling', ['polling']],
  ['websocket', ['websocket']],
  ['websocket', ['polling', 'websocket']],
];

describe('a page of another origin', { concurrency: false }, () => {
  for (const version of ['1.7', '2.1', '2.5', '3.0', '3.1', '4.0', '4.5', '4.8']) {
    test(`with socket.io-client ${version} exchanges text, bytes and a burst over every transport`, async () => {
      // Clients before 3 always send cookies, which only an origin on the list may.
      const url = Number(version) < 3 ? listed : anyone;
      for (const [transport, transports] of MODES) {
        exchanged(await visit(version, url, { transports }), transport);
      }
    });
  }

  test('that is on the list may send cookies, and gets the session id in one', async () => {
    const with_cookies = await visit('4.8', listed, { transports: ['polling'], withCredentials: true });
    exchanged(with_cookies, 'polling');
    const [cookie] = with_cookies.cookies;
    assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite, cookie.path], ['io', true, 'Lax', '/']);
    const sids = with_cookies.requests.map((request) => new URL(request.url()).searchParams.get('sid'));
    assert.equal(sids.filter(Boolean)[0], cookie.value);
    const last = with_cookies.headers.findLast((headers) => headers.cookie);
    assert.equal(last?.cookie, `io=${cookie.value}`);
    const without = await visit('4.8', listed, { transports: ['polling'] });
    exchanged(without, 'polling');
    assert.ok(without.headers.every((headers) => !headers.cookie));
  });

  test('may not send cookies where no origin is listed', async () => {
    const { refused } = await visit('4.8', anyone, { transports: ['polling'], withCredentials: true });
    assert.equal(refused, 'xhr poll error');
  });

  test('that is not on the list gets nothing, on websocket neither', async () => {
    const other = origin.replace('127.0.0.1', 'localhost');
    for (const [version, transports] of [['4.8', ['polling']], ['4.8', ['websocket']], ['2.5', ['polling']], ['2.5', ['websocket']]]) {
      const { refused } = await visit(version, listed, { transports }, other);
      assert.equal(refused, transports[0] === 'polling' ? 'xhr poll error' : 'websocket error');
    }
  });

  for (const version of ['1.7', '2.5']) {
    test(`with socket.io-client ${version} and JSONP exchanges text, bytes and a burst`, async () => {
      const visited = await visit(version, anyone, { transports: ['polling'], forceJSONP: true });
      exchanged(visited, 'polling');
      const polls = visited.requests.filter((request) => request.method() === 'GET');
      assert.ok(polls.every((request) => request.resourceType() === 'script' && /[?&]j=\d+/.test(request.url())));
      assert.ok(visited.requests.some((request) => request.method() === 'POST'));
    });
  }
});
