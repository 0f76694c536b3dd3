// Every official JavaScript client, unchanged, over every transport, against the socket layer without the chat
// (examples/echo.rs): ECHO_URL names it. MATRIX_CLIENTS, when set, chooses clients by name, with blanks between.
//
// The same file runs against the reference: a Node server with the events of examples/echo.rs and `allowEIO3`.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after, describe, test } from 'node:test';

import { collect, gate, next, within } from './contract.mjs';

const require = createRequire(import.meta.url);
const ECHO_URL = (process.env.ECHO_URL ?? 'http://127.0.0.1:3000').replace(/\/$/, '');

const CLIENTS = {
  '1.7.4': { io: require('sio-1.7'), eio: 3 },
  '2.1.1': { io: require('sio-2.1'), eio: 3 },
  '2.5.0': { io: require('sio-2.5'), eio: 3 },
  '3.0.5': { io: require('sio-3.0'), eio: 4 },
  '3.1.3': { io: require('sio-3.1'), eio: 4 },
  '4.0.2': { io: require('sio-4.0'), eio: 4 },
  '4.5.4': { io: require('sio-4.5'), eio: 4 },
  '4.8.4': { io: require('sio-4.8'), eio: 4 },
  '4.8.4-msgpack': { io: require('sio-4.8'), eio: 4, options: { parser: require('socket.io-msgpack-parser') } },
};

const MODES = {
  polling: ['polling'],
  websocket: ['websocket'],
  upgrade: ['polling', 'websocket'],
};

const TEXT = 'héllo 👩‍👩‍👧 € \u2028 \u0000 \u001e 4:x "\\n" \u202bשלום\u202c \u{10ffff}';
const BURST = 500;
const AUTH = { token: 'x & é', nested: { list: [1, null, '👍'] } };

const chosen = process.env.MATRIX_CLIENTS?.split(/\s+/).filter(Boolean) ?? Object.keys(CLIENTS);
const unknown = chosen.filter((name) => !(name in CLIENTS));
assert.deepEqual(unknown, [], 'MATRIX_CLIENTS names clients that are not in the matrix');

const open = [];
after(() => open.forEach((close) => close()));

for (const name of chosen) {
  for (const mode of Object.keys(MODES)) {
    describe(`socket.io-client ${name}, ${mode}`, { concurrency: false }, () => matrix({ name, ...CLIENTS[name] }, mode));
  }
}

function matrix(client, mode) {
  // On `/`; in upgrade mode also past the upgrade.
  const connected = async (options) => {
    const socket = connect(client, mode, options);
    const upgraded = mode === 'upgrade' && upgrade(socket);
    await next(socket, 'connect');
    if (upgraded) await upgraded;
    return socket;
  };

  test('it connects by the transport asked for, and both sides agree on revision, transport and id', async () => {
    const socket = connect(client, mode, { query: { tenant: 'a & b' } });
    const [auth, upgraded] = [next(socket, 'auth'), mode === 'upgrade' && upgrade(socket)];
    await next(socket, 'connect');
    // Revision 4 of Socket.IO has no payload in CONNECT.
    assert.deepEqual(await auth, client.eio === 3 ? {} : AUTH);
    if (upgraded) await upgraded;
    const transport = mode === 'polling' ? 'polling' : 'websocket';
    assert.equal(socket.io.engine.transport.name, transport);
    const [me] = await ask(socket, 'whoami');
    assert.deepEqual([me.transport, me.eio, me.id], [transport, client.eio, socket.id]);
    assert.equal(me.query.tenant, 'a & b');
    assert.equal(me.id === socket.io.engine.id, client.eio === 3, 'revision 4 keeps the id of the session a secret');
    leave(socket);
  });

  test('events of every kind of arguments come back', async () => {
    const socket = await connected();
    for (const args of [[], [TEXT], [1, -1.5, true, null, '', [], {}], [{ list: [{ deep: TEXT }] }, 'last']]) {
      const back = arrival(socket, 'message-back');
      socket.emit('message', ...args);
      assert.deepEqual(await back, args);
    }
    leave(socket);
  });

  test('text with emoji and bytes come back in one acknowledgement', async () => {
    const socket = await connected();
    const bytes = [Buffer.from([0, 1, 2, 0x1e, 0x62, 0xfe, 0xff]), Buffer.alloc(70_000, '👍')];
    const sent = [TEXT, { bytes: bytes[0], text: TEXT }, [bytes[1]], 7];
    const [text, object, list, number] = await ask(socket, 'message-with-ack', ...sent);
    assert.deepEqual([text, object.text, number], [TEXT, TEXT, 7]);
    assert.deepEqual([object.bytes, ...list].map((some) => Buffer.from(some)), bytes);
    const [alone] = await ask(socket, 'message-with-ack', bytes[1]);
    assert.deepEqual(Buffer.from(alone), bytes[1]);
    const back = arrival(socket, 'message-back');
    socket.emit('message', bytes[0], TEXT);
    const [data, behind] = await back;
    assert.deepEqual([Buffer.from(data), behind], [bytes[0], TEXT]);
    leave(socket);
  });

  test('the server asks, and hears the answer, bytes too', async () => {
    const socket = await connected();
    socket.once('question', (number, answer) => answer('yes 👍', number + 1));
    assert.deepEqual(await ask(socket, 'ask'), ['yes 👍', 2]);
    socket.once('question', (_, answer) => answer({ bytes: Buffer.from('é'), text: TEXT }));
    const [{ bytes, text }] = await ask(socket, 'ask');
    assert.deepEqual([Buffer.from(bytes), text], [Buffer.from('é'), TEXT]);
    leave(socket);
  });

  test('bursts of 500 events both ways stay whole and in order', async () => {
    const gated = mode === 'upgrade' ? await gate(ECHO_URL) : undefined;
    if (gated) open.push(gated.close);
    const socket = connect(client, mode, {}, gated?.address);
    const upgraded = gated && upgrade(socket);
    const [numbers, back] = [collect(socket, 'n'), collect(socket, 'message-back')];
    await next(socket, 'connect');
    if (gated) assert.equal(socket.io.engine.transport.name, 'polling');
    const expected = Array.from({ length: BURST }, (_, i) => i);
    const both = async (meanwhile) => {
      const from = [numbers.seen.length, back.seen.length];
      socket.emit('burst', BURST);
      expected.forEach((i) => socket.emit('message', i));
      await meanwhile?.();
      await Promise.all([numbers.reach(from[0] + BURST), back.reach(from[1] + BURST)]);
      assert.deepEqual(numbers.seen.slice(from[0]), expected);
      assert.deepEqual(back.seen.slice(from[1]), expected);
    };
    // The websocket is let through while the first events have come by polling and the others are on their way.
    await both(async () => {
      if (!gated) return;
      await numbers.reach(1);
      gated.release();
    });
    if (upgraded) {
      await upgraded;
      assert.equal(socket.io.engine.transport.name, 'websocket');
    }
    await both();
    leave(socket);
  });

  test('a second namespace has its own id, payload and events, and can be left', async () => {
    const socket = await connected();
    // What clients of revision 4 of Socket.IO have instead of a payload: a query in the namespace's name.
    const options = client.eio === 3 ? { query: 'token=x' } : { auth: AUTH };
    const custom = socket.io.socket('/custom', options);
    const auth = next(custom, 'auth');
    await next(custom, 'connect');
    assert.deepEqual(await auth, client.eio === 3 ? { token: 'x' } : AUTH);
    const [me] = await ask(custom, 'whoami');
    const engine = socket.io.engine.id;
    if (client.eio === 3) assert.equal(me.id, `/custom#${engine}`);
    else assert.deepEqual([me.id, me.id === socket.id, me.id === engine], [custom.id, false, false]);
    let strayed = 0;
    socket.on('message-back', () => (strayed += 1));
    const back = arrival(custom, 'message-back');
    custom.emit('message', TEXT, Buffer.from('é'));
    const [text, bytes] = await back;
    assert.deepEqual([text, Buffer.from(bytes)], [TEXT, Buffer.from('é')]);
    custom.close();
    assert.deepEqual(await ask(socket, 'message-with-ack', 1), [1]);
    assert.equal(strayed, 0);
    const dynamic = socket.io.socket('/dyn-4711');
    await next(dynamic, 'connect');
    assert.deepEqual(await ask(dynamic, 'message-with-ack', 2), [2]);
    leave(socket);
  });

  test('a refused namespace shows as an error, and the connection goes on', async () => {
    const socket = await connected();
    const event = client.eio === 3 ? 'error' : 'connect_error';
    const denied = await next(socket.io.socket('/deny'), event);
    if (client.eio === 3) {
      assert.deepEqual(denied, { code: 42 });
    } else {
      assert.ok(denied instanceof Error);
      assert.deepEqual([denied.message, denied.data], ['Not authorized', { code: 42 }]);
    }
    const missing = await next(socket.io.socket('/no-such'), event);
    // To revision 3 the old servers say it as a string, the reference as an object.
    assert.equal(missing.message ?? missing, 'Invalid namespace');
    assert.deepEqual(await ask(socket, 'message-with-ack', 1), [1]);
    leave(socket);
  });

  test('after the server closes the connection the client returns by itself', async () => {
    const socket = await connected({ reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 10 });
    const before = socket.id;
    const [reason, again, auth] = [next(socket, 'disconnect'), next(socket, 'connect'), next(socket, 'auth')];
    socket.emit('kick');
    assert.ok(['transport close', 'transport error'].includes(await reason), await reason);
    await again;
    assert.notEqual(socket.id, before);
    assert.deepEqual(await auth, client.eio === 3 ? {} : AUTH);
    assert.deepEqual(await ask(socket, 'message-with-ack', TEXT), [TEXT]);
    leave(socket);
  });

  test('a client disconnected from one namespace stays in the other, and may come back', async () => {
    const socket = await connected({ reconnection: true, reconnectionDelay: 10 });
    const custom = socket.io.socket('/custom');
    await next(custom, 'connect');
    const reason = next(custom, 'disconnect');
    custom.emit('kickns');
    assert.equal(await reason, 'io server disconnect');
    assert.deepEqual(await ask(socket, 'message-with-ack', 1), [1]);
    const again = next(custom, 'connect');
    custom.open();
    await again;
    assert.deepEqual(await ask(custom, 'message-with-ack', 2), [2]);
    leave(socket);
  });
}

function connect(client, mode, options = {}, address = ECHO_URL) {
  const all = { forceNew: true, reconnection: false, transports: MODES[mode], auth: AUTH, ...client.options, ...options };
  const socket = client.io(address, all);
  open.push(() => leave(socket));
  return socket;
}

// All its namespaces, with the connection.
const leave = (socket) => socket.io.disconnect();

const upgrade = (socket) =>
  within(new Promise((resolve) => socket.io.engine.once('upgrade', resolve)), 'the upgrade');

// All arguments of the acknowledgement.
const ask = (socket, event, ...args) =>
  within(new Promise((resolve) => socket.emit(event, ...args, (...answer) => resolve(answer))), `the answer to ${event}`);

// All arguments of the next event of that name.
const arrival = (socket, event) =>
  within(new Promise((resolve) => socket.once(event, (...args) => resolve(args))), event);
