// The official JavaScript client, unchanged, against a running service: CHAT_URL names it.

import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { io } from 'sio-4.8';

import { CHAT_URL, collect, conversationOf, gate, history, messagesPath, next, someone, url, within } from './contract.mjs';

const MODES = {
  polling: { transports: ['polling'] },
  websocket: { transports: ['websocket'] },
  upgrade: { transports: ['polling', 'websocket'] },
};

const MESSAGE_KEYS = [
  '_id', 'conversation_id', 'is_spam', 'message_type', 'receiver_id', 'sender_id', 'seq', 'text_content', 'timestamp',
];

const TEXTS = {
  'an emoji family': '👩‍👩‍👧‍👦 and 🏳️‍🌈',
  'NUL and other controls': 'a\u0000b\u0001\u001f\u007f',
  'the record separator of polling payloads': 'one\u001etwo\u001e4three',
  'JavaScript line separators': 'x\u2028y\u2029z',
  'right to left with marks': '\u202bשלום\u202c مرحبا \u200f!',
  'quotes, slashes, markup': '"\\/</script>\n\t\r&amp;',
  'noncharacters and the last code point': '\ufffe\uffff\u{10ffff}',
  'what looks like packets': '42["newMessage",{}]\u001e2\u001e1',
  blanks: '   ',
};

const open = [];
after(() => open.forEach((socket) => socket.close()));

function connect(options, address = CHAT_URL) {
  const socket = io(address, { forceNew: true, reconnection: false, ...options });
  open.push(socket);
  return socket;
}

// A connected socket in its user's room; in upgrade mode also past the upgrade.
async function user(id, options) {
  const socket = connect(options);
  const upgraded = options.transports.length === 2 && upgrade(socket);
  await next(socket, 'connect');
  if (upgraded) await upgraded;
  assert.deepEqual(await socket.timeout(20_000).emitWithAck('joinRoom', id), { status: 'ok' });
  return socket;
}

const upgrade = (socket) => within(new Promise((resolve) => socket.io.engine.once('upgrade', resolve)), 'the upgrade');

const send = async (socket, draft) => {
  const answer = await socket.timeout(20_000).emitWithAck('chatMessage', draft);
  assert.equal(answer.status, 'ok', JSON.stringify(answer));
  return answer.message;
};

async function pair(options) {
  const [annId, bobId] = [someone('ann'), someone('bob')];
  const [ann, bob] = await Promise.all([user(annId, options), user(bobId, options)]);
  const draft = (text_content, more = {}) => ({ sender_id: annId, receiver_id: bobId, text_content, ...more });
  return { ann, bob, annId, bobId, draft, conversation: conversationOf(annId, bobId) };
}

// Everything sent to `to` before this has arrived when it resolves: one conversation is in order.
async function settled({ ann, bob, draft }) {
  const mark = someone('mark');
  const seen = next(bob, 'newMessage', (m) => m.text_content === mark);
  await send(ann, draft(mark));
  await seen;
}

for (const [mode, options] of Object.entries(MODES)) {
  describe(mode, { concurrency: false }, () => {
    test('the transport in use is the one asked for', async () => {
      const socket = await user(someone('ann'), options);
      assert.equal(socket.io.engine.transport.name, mode === 'polling' ? 'polling' : 'websocket');
      socket.close();
    });

    test('a message is acknowledged, confirmed, delivered and in history, the same everywhere', async () => {
      const { ann, bob, annId, bobId, draft, conversation } = await pair(options);
      const [sent, seen] = [next(ann, 'messageSent'), next(bob, 'newMessage')];
      const acked = await send(ann, draft('hello'));
      assert.deepEqual(await sent, acked);
      assert.deepEqual(await seen, acked);
      assert.deepEqual(await history(conversation), [acked]);
      assert.deepEqual(Object.keys(acked).sort(), MESSAGE_KEYS);
      assert.match(acked._id, /^[0-9a-f]{24}$/);
      assert.match(acked.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      assert.ok(Math.abs(Date.now() - Date.parse(acked.timestamp)) < 60_000);
      assert.ok(Number.isSafeInteger(acked.seq));
      const { sender_id, receiver_id, conversation_id, text_content, message_type, is_spam } = acked;
      assert.deepEqual(
        { sender_id, receiver_id, conversation_id, text_content, message_type, is_spam },
        { sender_id: annId, receiver_id: bobId, conversation_id: conversation, text_content: 'hello', message_type: 'text', is_spam: false },
      );

      const back = next(ann, 'newMessage');
      const answer = await send(bob, { sender_id: bobId, receiver_id: annId, text_content: 'hi' });
      assert.deepEqual(await back, answer);
      assert.ok(answer.seq > acked.seq);
      assert.deepEqual(await history(conversation), [acked, answer]);
    });

    test('typing and stopTyping reach the other person with the three known fields only', async () => {
      const { ann, bob, annId, bobId, conversation } = await pair(options);
      const known = { sender_id: annId, receiver_id: bobId, conversation_id: 'c-1' };
      for (const event of ['typing', 'stopTyping']) {
        const seen = next(bob, event);
        ann.emit(event, { ...known, secret: 'not for bob', text_content: 'half a sentence' });
        assert.deepEqual(await seen, known);
      }
      const derived = next(bob, 'typing');
      ann.emit('typing', { sender_id: annId, receiver_id: bobId });
      assert.equal((await derived).conversation_id, conversation);
    });

    test('a bad draft is refused with the code `invalid`, by ack and by messageError, and the socket lives on', async () => {
      const { ann, bob, bobId, draft, annId } = await pair(options);
      const delivered = collect(bob, 'newMessage');
      const bad = [
        {}, null, 'text', [], { ...draft(''), client_message_id: 'k' }, draft(7), draft('x', { sender_id: '' }),
        draft('x', { receiver_id: { $ne: 1 } }), draft('x', { sender_id: 1.5 }), { sender_id: annId, receiver_id: bobId },
        draft('lone \ud800 surrogate'),
      ];
      for (const data of bad) {
        const error = next(ann, 'messageError');
        const ack = await ann.timeout(20_000).emitWithAck('chatMessage', data);
        assert.equal(ack.status, 'error', JSON.stringify(data));
        assert.equal(ack.code, 'invalid', JSON.stringify(data));
        assert.equal(ack.retryable, false);
        assert.equal(typeof ack.error, 'string');
        const { status, ...said } = ack;
        assert.deepEqual(await error, said);
        if (data?.client_message_id) assert.equal(said.client_message_id, 'k');
      }
      await settled({ ann, bob, draft });
      assert.equal(delivered.seen.length, 1, 'only the mark was delivered');
    });

    test('a resend is the same message: one _id, one seq, one entry, shown once', async () => {
      const scene = await pair(options);
      const { ann, bob, draft, conversation } = scene;
      const delivered = collect(bob, 'newMessage');
      const first = await send(ann, draft('once', { client_message_id: 'try-1' }));
      const again = await send(ann, draft('once', { client_message_id: 'try-1' }));
      const other = await send(ann, draft('another', { client_message_id: 'try-1' }));
      assert.deepEqual(again, first);
      assert.equal(first.client_message_id, 'try-1');
      assert.notEqual(other._id, first._id, 'the same key with another text is another message');
      await settled(scene);
      assert.deepEqual(delivered.seen.map((m) => m.text_content).slice(0, -1), ['once', 'another']);
      assert.deepEqual((await history(conversation)).slice(0, -1), [first, other]);
    });

    test('500 messages in a row keep their order, live and in history', async () => {
      const [annId, bobId] = [someone('ann'), someone('bob')];
      const bob = await user(bobId, options);
      const delivered = collect(bob, 'newMessage');
      const door = await gate();
      if (mode === 'websocket') door.release();
      const ann = connect(options, door.address);
      const sent = collect(ann, 'messageSent');
      const over = new Set();
      let upgraded = mode !== 'upgrade';
      ann.io.engine.once('upgrade', () => (upgraded = true));
      await next(ann, 'connect');
      // In upgrade mode the first 200 go over polling, then the websocket is let in while the rest goes on.
      for (let i = 0; i < 500; i++) {
        if (i === 200) door.release();
        if (i === 490 && !upgraded) await upgrade(ann);
        over.add(ann.io.engine.transport.name);
        ann.emit('chatMessage', { sender_id: annId, receiver_id: bobId, text_content: `${i}` });
        if (i > 200 && !upgraded) await new Promise((resolve) => setImmediate(resolve));
      }

      const texts = Array.from({ length: 500 }, (_, i) => `${i}`);
      await Promise.all([delivered.reach(500), sent.reach(500)]);
      assert.deepEqual(delivered.seen.map((m) => m.text_content), texts, 'at the receiver');
      assert.deepEqual(sent.seen.map((m) => m.text_content), texts, 'confirmed to the sender');
      const stored = await wholeHistory(conversationOf(annId, bobId));
      assert.deepEqual(stored, delivered.seen, 'in history');
      assert.ok(stored.every((m, i) => i === 0 || m.seq > stored[i - 1].seq), 'seq rises');
      assert.deepEqual([...over].sort(), mode === 'upgrade' ? ['polling', 'websocket'] : [mode]);
      ann.close();
      door.close();
    });

    for (const [name, text] of Object.entries(TEXTS)) {
      test(`text comes back as it was sent: ${name}`, async () => {
        const { ann, bob, draft, conversation } = await pair(options);
        const seen = next(bob, 'newMessage');
        const acked = await send(ann, draft(text, { client_message_id: text }));
        assert.equal(acked.text_content, text);
        assert.deepEqual(await seen, acked);
        assert.deepEqual(await history(conversation), [acked]);
      });
    }

    test('an unknown namespace is refused and the main one goes on', async () => {
      const ann = await user(someone('ann'), options);
      const nowhere = ann.io.socket('/nowhere');
      const refused = next(nowhere, 'connect_error');
      nowhere.connect();
      assert.equal((await refused).message, 'Invalid namespace');
      assert.deepEqual(await ann.timeout(20_000).emitWithAck('joinRoom', someone('ann')), { status: 'ok' });
    });

    test('every tab of the receiver gets the message once, the sender none', async () => {
      const scene = await pair(options);
      const { ann, bob, bobId, draft } = scene;
      const tabs = [bob, await user(bobId, options), await user(bobId, options)];
      await tabs[1].timeout(20_000).emitWithAck('joinRoom', bobId);
      const heard = tabs.map((tab) => collect(tab, 'newMessage'));
      const own = collect(ann, 'newMessage');
      const first = await send(ann, draft('to all tabs'));
      const last = await send(ann, draft('the end'));
      for (const tab of heard) assert.deepEqual(await tab.reach(2), [first, last]);
      assert.deepEqual(own.seen, []);
    });

    test('ids given as numbers are their decimal strings', async () => {
      const [annId, bobId] = [Math.floor(Math.random() * 2 ** 50), Math.floor(Math.random() * 2 ** 50)];
      const [ann, bob] = [await user(annId, options), await user(`${bobId}`, options)];
      const seen = next(bob, 'newMessage');
      const acked = await send(ann, { sender_id: annId, receiver_id: bobId, text_content: 'by number' });
      assert.deepEqual([acked.sender_id, acked.receiver_id], [`${annId}`, `${bobId}`]);
      assert.deepEqual(await seen, acked);
      assert.deepEqual(await history(conversationOf(`${annId}`, `${bobId}`)), [acked]);
    });

    test('a spam report right after the confirmation shows in history', async () => {
      const { ann, draft, conversation } = await pair(options);
      const sent = next(ann, 'messageSent');
      ann.emit('chatMessage', draft('buy now'));
      const message = await sent;
      const response = await fetch(url(`/api/chat/messages/${message._id}/reportSpam`), { method: 'POST' });
      assert.equal(response.status, 200);
      assert.deepEqual(await response.json(), { ...message, is_spam: true });
      assert.deepEqual(await history(conversation), [{ ...message, is_spam: true }]);
    });
  });
}

describe('beside the transports', { concurrency: false }, () => {
  test('polling, websocket and upgraded sockets talk to one another', async () => {
    const ids = Object.keys(MODES).map(someone);
    const sockets = await Promise.all(Object.values(MODES).map((options, i) => user(ids[i], options)));
    for (const [i, socket] of sockets.entries())
      for (const [j, other] of sockets.entries()) {
        if (i === j) continue;
        const seen = next(other, 'newMessage');
        const acked = await send(socket, { sender_id: ids[i], receiver_id: ids[j], text_content: `${i} to ${j}` });
        assert.deepEqual(await seen, acked);
      }
  });

  test('without an ack asked for, messageSent is the confirmation', async () => {
    const { ann, bob, draft } = await pair(MODES.websocket);
    const [sent, seen] = [next(ann, 'messageSent'), next(bob, 'newMessage')];
    ann.emit('chatMessage', draft('no ack'));
    assert.deepEqual(await sent, await seen);
  });

  test('a client cannot speak as the server, nor choose what the server decides', async () => {
    const scene = await pair(MODES.websocket);
    const { ann, bob, bobId, draft } = scene;
    const delivered = collect(bob, 'newMessage');
    ann.emit('newMessage', draft('forged', { _id: 'f'.repeat(24) }));
    ann.emit('messageSent', { receiver_id: bobId });
    const mine = { _id: 'a'.repeat(24), is_spam: true, timestamp: '2001-01-01T00:00:00.000Z', seq: -1, message_type: 'system' };
    const acked = await send(ann, draft('honest', mine));
    for (const [key, value] of Object.entries(mine)) assert.notEqual(acked[key], value, key);
    await settled(scene);
    assert.deepEqual(delivered.seen.map((m) => m.text_content).slice(0, -1), ['honest']);
  });

  test('history pages forward with last_message_id and back with before', async () => {
    const { ann, draft, conversation } = await pair(MODES.websocket);
    const all = [];
    for (let i = 0; i < 60; i++) all.push(await send(ann, draft(`page ${i}`)));
    assert.deepEqual(await history(conversation), all.slice(-50), 'the newest 50');
    assert.deepEqual(await history(conversation, { limit: 7 }), all.slice(-7));
    assert.deepEqual(await history(conversation, { limit: 1000 }), all, 'a limit above 200 is 200');
    assert.deepEqual(await history(conversation, { last_message_id: all[9]._id, limit: 5 }), all.slice(10, 15));
    assert.deepEqual(await history(conversation, { last_message_id: all[59]._id }), []);
    assert.deepEqual(await history(conversation, { before: all[10]._id, limit: 5 }), all.slice(5, 10));
    assert.deepEqual(await history(conversation, { before: all[0]._id }), []);
    assert.deepEqual(await history(conversation, { last_message_id: '' }), all.slice(-50), 'an empty cursor is none');
    const bad = [
      { limit: 0 }, { limit: -1 }, { limit: 'many' }, { last_message_id: '0'.repeat(24) }, { before: 'nonsense' },
      { last_message_id: all[0]._id, before: all[1]._id },
    ];
    for (const query of bad) await refused(await fetch(url(messagesPath(conversation), query)), 400);
    const elsewhere = messagesPath(conversationOf(someone('x'), someone('y')));
    await refused(await fetch(url(elsewhere, { last_message_id: all[0]._id })), 400);
    assert.deepEqual(await (await fetch(url(elsewhere))).json(), []);
  });

  test('an attachment is uploaded, delivered, served whole and in ranges', async () => {
    const { bob, annId, bobId, conversation } = await pair(MODES.websocket);
    const bytes = Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251))]);
    const upload = async (client_message_id) => {
      const form = new FormData();
      form.append('attachment', new Blob([bytes], { type: 'image/png' }), 'Ä picture.png');
      for (const [k, v] of Object.entries({ sender_id: annId, receiver_id: bobId, text_content: 'look', client_message_id })) form.append(k, v);
      return fetch(url(`/api/chat/upload/${encodeURIComponent(conversation)}`), { method: 'POST', body: form });
    };
    const seen = next(bob, 'newMessage');
    const created = await upload('up-1');
    const message = await created.json();
    assert.equal(created.status, 201, JSON.stringify(message));
    assert.deepEqual(await seen, message);
    assert.equal(message.message_type, 'attachment');
    assert.equal(message.text_content, 'look');
    assert.equal(message.attachment_filename, 'Ä picture.png');
    assert.equal(message.attachment_mimetype, 'image/png');
    assert.match(message.attachment_url, /^\/uploads\/[^/]+$/);
    const again = await upload('up-1');
    assert.deepEqual([again.status, await again.json()], [200, message]);
    assert.deepEqual(await history(conversation), [message]);

    const file = url(message.attachment_url);
    const whole = await fetch(file);
    assert.equal(whole.status, 200);
    assert.equal(whole.headers.get('content-type'), 'image/png');
    assert.equal(whole.headers.get('x-content-type-options'), 'nosniff');
    assert.deepEqual(Buffer.from(await whole.arrayBuffer()), bytes);
    const part = await fetch(file, { headers: { range: 'bytes=100-199' } });
    assert.equal(part.status, 206);
    assert.equal(part.headers.get('content-range'), `bytes 100-199/${bytes.length}`);
    assert.deepEqual(Buffer.from(await part.arrayBuffer()), bytes.subarray(100, 200));
    const beyond = await fetch(file, { headers: { range: `bytes=${bytes.length}-` } });
    assert.equal(beyond.status, 416);
    const head = await fetch(url(`/api/chat${message.attachment_url}`), { method: 'HEAD' });
    assert.deepEqual([head.status, head.headers.get('content-length')], [200, `${bytes.length}`]);
  });

  test('an upload without a file or without people is refused and leaves nothing', async () => {
    const conversation = conversationOf(someone('ann'), someone('bob'));
    const post = (form) => fetch(url(`/api/chat/upload/${encodeURIComponent(conversation)}`), { method: 'POST', body: form });
    const nobody = new FormData();
    nobody.append('attachment', new Blob(['x']), 'x.txt');
    await refused(await post(nobody), 400);
    const empty = new FormData();
    empty.append('sender_id', 'a');
    empty.append('receiver_id', 'b');
    empty.append('attachment', new Blob([]), 'x.txt');
    await refused(await post(empty), 400);
    assert.deepEqual(await history(conversation), []);
  });

  test('a report of an unknown message is 404', async () => {
    await refused(await fetch(url(`/api/chat/messages/${'0'.repeat(24)}/reportSpam`), { method: 'POST' }), 404);
  });

  test('another origin may read every answer, errors too', async () => {
    const headers = { origin: 'https://app.example' };
    const answers = [
      await fetch(url(messagesPath('c')), { headers }),
      await fetch(url('/nothing/here'), { headers }),
      await fetch(url(messagesPath('c'), { limit: 0 }), { headers }),
      await fetch(url('/socket.io/', { EIO: 4, transport: 'polling' }), { headers }),
      await fetch(url('/socket.io/', { EIO: 9, transport: 'polling' }), { headers }),
    ];
    assert.deepEqual(answers.map((r) => r.status), [200, 404, 400, 200, 400]);
    for (const r of answers) assert.equal(r.headers.get('access-control-allow-origin'), headers.origin, r.url);
    const asked = { ...headers, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type' };
    const preflight = await fetch(url(messagesPath('c')), { method: 'OPTIONS', headers: asked });
    assert.ok(preflight.ok);
    assert.equal(preflight.headers.get('access-control-allow-origin'), headers.origin);
    assert.match(preflight.headers.get('access-control-allow-methods') ?? '', /POST/);
  });

  test('the service says that it is alive, and is ready on the admin listener', async () => {
    assert.equal((await fetch(url('/health'))).status, 200);
    if (!process.env.ADMIN_URL) return;
    assert.equal((await fetch(`${process.env.ADMIN_URL}/health/ready`)).status, 200);
    assert.equal((await fetch(url('/metrics'))).status, 404, 'not on the public port');
  });
});

async function wholeHistory(conversation) {
  const all = [];
  for (;;) {
    const page = await history(conversation, all.length ? { before: all[0]._id, limit: 200 } : { limit: 200 });
    all.unshift(...page);
    if (page.length < 200) return all;
  }
}

async function refused(response, status) {
  const body = await response.json();
  assert.equal(response.status, status, JSON.stringify(body));
  assert.equal(typeof body.error?.code, 'string');
  assert.equal(typeof body.error?.message, 'string');
}
