// What every client test needs to know of the service: where it is, its REST calls, and patience with a deadline.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createConnection, createServer } from 'node:net';

export const CHAT_URL = (process.env.CHAT_URL ?? 'http://127.0.0.1:3001').replace(/\/$/, '');
export const PATIENCE_MS = 20_000;

// A name nobody else in this run has.
export const someone = (name) => `${name}-${randomBytes(6).toString('hex')}`;

// The conversation id the service derives when a draft names none.
export const conversationOf = (a, b) => [a, b].map(encodeURIComponent).sort().join(':');

export const url = (path, query = {}) => {
  const search = new URLSearchParams(query).toString();
  return CHAT_URL + path + (search && `?${search}`);
};

export const messagesPath = (conversation) => `/api/chat/messages/${encodeURIComponent(conversation)}`;

export async function history(conversation, query = {}) {
  const response = await fetch(url(messagesPath(conversation), query));
  assert.equal(response.status, 200, `history answered ${response.status}`);
  return response.json();
}

export const within = (promise, what, ms = PATIENCE_MS) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

// The next event of that name, or the first one that `wanted` accepts.
export const next = (socket, event, wanted = () => true) =>
  within(
    new Promise((resolve) => {
      const hear = (value) => {
        if (!wanted(value)) return;
        socket.off(event, hear);
        resolve(value);
      };
      socket.on(event, hear);
    }),
    event,
  );

// Collects every event of that name from now on; `reach(n)` waits until there are n of them.
export function collect(socket, event) {
  const seen = [];
  let wake = () => {};
  socket.on(event, (value) => {
    seen.push(value);
    wake();
  });
  const reach = (n) =>
    within(
      (async () => {
        while (seen.length < n) await new Promise((resolve) => (wake = resolve));
        return seen;
      })(),
      `${n} times ${event}`,
      60_000,
    ).catch((e) => {
      throw new Error(`${e.message}, only ${seen.length}`);
    });
  return { seen, reach };
}

// A door to the service that lets polling through at once and websockets only after `release()`: so a test decides
// when the upgrade happens.
export async function gate(service_url = CHAT_URL) {
  const target = new URL(service_url);
  let release;
  const released = new Promise((resolve) => (release = resolve));
  const open = new Set();
  const server = createServer((client) => {
    open.add(client.on('close', () => open.delete(client)));
    client.once('data', async (head) => {
      client.pause();
      if (head.includes('transport=websocket')) await released;
      const service = createConnection(Number(target.port || 80), target.hostname);
      service.write(head);
      client.pipe(service).pipe(client);
      for (const [one, other] of [[client, service], [service, client]]) {
        one.on('error', () => other.destroy());
        one.on('close', () => other.destroy());
      }
    });
    client.on('error', () => client.destroy());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    server.close();
    open.forEach((client) => client.destroy());
  };
  return { address: `http://127.0.0.1:${server.address().port}`, release, close };
}
