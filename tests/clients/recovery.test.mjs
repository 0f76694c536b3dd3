// The official JavaScript client, unchanged, whose connection breaks: SERVICE_BIN names the service's program.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve as absolute } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { io } from 'sio-4.8';

import { collect, next, someone, within } from './contract.mjs';

const folder = mkdtempSync(join(tmpdir(), 'chat-svc-recovery.'));
const sockets = [];
let port, service;

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// Resolves once the service says where it listens: it does so when clients are served.
async function start(settings = {}) {
  const env = {
    PATH: process.env.PATH, HOST: '127.0.0.1', PORT: port, ADMIN_ADDR: '127.0.0.1:0', RECOVERY_MS: '120000',
    DATA_DIR: join(folder, 'data'), UPLOAD_PATH: join(folder, 'uploads'), ...settings,
  };
  service = spawn(absolute(process.env.SERVICE_BIN), [], { cwd: folder, env, stdio: ['ignore', 'pipe', 'inherit'] });
  await within(
    new Promise((resolve, reject) => {
      let printed = '';
      service.stdout.on('data', (data) => (printed += data).includes(`:${port}`) && resolve());
      service.once('exit', (code) => reject(new Error(`the service ended with ${code}`)));
    }),
    'the service to start',
  );
}

async function stop(signal) {
  if (service.exitCode !== null || service.signalCode !== null) return;
  const ended = once(service, 'exit');
  service.kill(signal);
  await within(ended, 'the service to end');
}

before(async () => {
  port = await freePort();
  await start();
});

after(async () => {
  sockets.forEach((socket) => socket.close());
  await stop('SIGKILL');
  rmSync(folder, { recursive: true });
});

function connect(options) {
  const socket = io(`http://127.0.0.1:${port}`, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 50, ...options });
  sockets.push(socket);
  return socket;
}

async function user(id, options) {
  const socket = connect(options);
  await next(socket, 'connect');
  assert.ok(!socket.recovered);
  assert.deepEqual(await socket.timeout(20_000).emitWithAck('joinRoom', id), { status: 'ok' });
  return socket;
}

async function send(socket, receiver_id, text_content) {
  const answer = await socket.timeout(20_000).emitWithAck('chatMessage', { sender_id: 'ann', receiver_id, text_content });
  assert.equal(answer.status, 'ok', JSON.stringify(answer));
}

// Ends the transport under the client, which notices at once and connects again when `release` is called.
function cut(socket) {
  socket.io.reconnection(false);
  socket.io.engine.close();
  return () => {
    socket.io.reconnection(true);
    const connected = next(socket, 'connect');
    socket.connect();
    return connected;
  };
}

for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
  describe(transports.join(' to '), { concurrency: false }, () => {
    test('who comes back is `recovered` and gets what it missed, once and in order', async () => {
      const bobId = someone('bob');
      const [ann, bob] = await Promise.all([user(someone('ann'), { transports }), user(bobId, { transports })]);
      const got = collect(bob, 'newMessage');
      await send(ann, bobId, 'before');
      await got.reach(1);
      const id = bob.id;
      const back = cut(bob);
      for (const text of ['1', '2', '3']) await send(ann, bobId, text);
      await back();
      assert.equal(bob.recovered, true);
      assert.equal(bob.id, id);
      await send(ann, bobId, 'after');
      const seen = await got.reach(5);
      assert.deepEqual(seen.map((m) => m.text_content), ['before', '1', '2', '3', 'after']);
    });

    test('who has left is not `recovered`', async () => {
      const bob = await user(someone('bob'), { transports });
      const id = bob.id;
      bob.disconnect();
      const connected = next(bob, 'connect');
      bob.connect();
      await connected;
      assert.equal(bob.recovered, false);
      assert.notEqual(bob.id, id);
    });
  });
}

for (const signal of ['SIGTERM', 'SIGKILL']) {
  test(`clients are \`recovered\` after ${signal} and a new start`, async () => {
    const bobId = someone('bob');
    const bob = await user(bobId);
    const got = collect(bob, 'newMessage');
    await send(await user(someone('ann')), bobId, 'before');
    await got.reach(1);
    const connected = next(bob, 'connect');
    await stop(signal);
    await start();
    await connected;
    assert.equal(bob.recovered, true);
    await send(await user(someone('ann')), bobId, 'after');
    assert.deepEqual((await got.reach(2)).map((m) => m.text_content), ['before', 'after']);
  });
}

test('without RECOVERY_MS nobody is `recovered` and messages come alone', async () => {
  await stop('SIGTERM');
  await start({ RECOVERY_MS: '0' });
  const bobId = someone('bob');
  const bob = await user(bobId, { transports: ['websocket'] });
  const args = new Promise((resolve) => bob.once('newMessage', (...args) => resolve(args)));
  await send(await user(someone('ann')), bobId, 'hi');
  assert.equal((await within(args, 'newMessage')).length, 1);
  await cut(bob)();
  assert.ok(!bob.recovered);
});
