// Records what the reference codecs answer into recorded.json, which tests/vectors.rs replays. Bytes are base64.
//
//   npm install && node record.mjs

import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const engine = require('engine.io-parser-2');
const socketV4 = require('socket.io-parser-3');
const socketV5 = require('socket.io-parser-4');
const msgpack = require('socket.io-msgpack-parser');
const { JSONP } = require('./node_modules/engine.io/build/transports/polling-jsonp.js');

const bytes = (value) => Buffer.from(value).toString('base64');

// === Engine.IO 3 payloads ===

const text = (type, data) => ({ type, data });
const binary = (...octets) => ({ type: 'message', data: Buffer.from(octets) });
const messages = (...all) => all.map((data) => text('message', data));

const payloads = [
  [text('noop')],
  [text('open', '{"sid":"AAAAAAAAAAAAAAAAAAAA"}')],
  [text('ping', 'probe'), text('pong'), text('close'), text('upgrade')],
  messages('2["a"]'),
  messages('€', 'é', '😀', '👩‍👩‍👧', 'a\u0000b', ':', '3:4ab', '\u2028', '\u001e'),
  messages('x'.repeat(9), 'x'.repeat(98), 'x'.repeat(99), 'x'.repeat(998), '😀'.repeat(500)),
  [binary()],
  [binary(1, 2, 255)],
  [...messages('2["é😀",1]'), binary(0, 255, 4), text('noop')],
  [{ type: 'message', data: Buffer.from(Array.from({ length: 300 }, (_, at) => at % 256)) }],
  messages(...Array.from({ length: 16 }, (_, at) => `2["a",${at}]`)),
];

const typeDigits = { open: 0, close: 1, ping: 2, pong: 3, message: 4, upgrade: 5, noop: 6 };
const packetOf = ({ type, data }) =>
  Buffer.isBuffer(data) ? { binary: bytes(data) } : { text: `${typeDigits[type]}${data ?? ''}` };

function encodePayload(packets, supportsBinary) {
  let body;
  engine.encodePayload(packets, supportsBinary, (encoded) => { body = encoded; });
  return { isBinary: Buffer.isBuffer(body), body: bytes(body) };
}

const written = payloads.flatMap((packets) =>
  [false, true].map((supportsBinary) => ({
    packets: packets.map(packetOf),
    supportsBinary,
    ...encodePayload(packets, supportsBinary),
  })),
);

// Bodies a client may send; the reference answers each with packets, and maybe an error as the last one.
const textBodies = [
  '', '4', ':', '0:', '2:4a', '02:4a', '2:4a2:4b', '3:4a', '1:4a', '3:4😀', 'x:4a', '-2:4a', '6:b4AQID', '4:b4AQ', '2:b4',
  '2:4a0:2:4b', '2:4ax', '2:4a:', '1:9', '6:2probe', '1:5', '5:4€😀x', '99:4a', '2:4a99:4b', '1:61:61:6',
];
const binaryBodies = [
  [0, 2, 255, 52, 97], [1, 2, 255, 4, 97], [0, 2, 255, 52, 97, 1, 1, 255, 4], [0, 1, 2, 255, 52, ...Buffer.from('x'.repeat(11))],
  [0, 6, 255, ...Buffer.from('b4AQID')], [0, 3, 255, 52, 0xc3, 0xa9],
];

function decodePayload(body) {
  const packets = [];
  engine.decodePayload(body, (packet) => {
    packets.push(packet.type === 'error' ? 'error' : packetOf(packet));
  });
  return { isBinary: Buffer.isBuffer(body), body: bytes(body), packets };
}

const read = [...textBodies, ...binaryBodies.map((octets) => Buffer.from(octets))].map(decodePayload);

const websocket = payloads.flat().flatMap((packet) =>
  [false, true].map((supportsBinary) => {
    let message;
    engine.encodePacket(packet, supportsBinary, (encoded) => { message = encoded; });
    return { packet: packetOf(packet), supportsBinary, isBinary: Buffer.isBuffer(message), message: bytes(message) };
  }),
);

// === JSONP ===

// What the JSONP transport adds to: it hands over what it has wrapped or unwrapped.
const polling = Object.getPrototypeOf(JSONP.prototype);

const answers = ['', '1:6', '10:42["a\\n","b"]', '\u2028\u2029', '😀é</script>\u0000\u001e\u007f\b\f\t\r\n"\\'].flatMap((payload) =>
  ['0', '12', 'a1](x)2'].map((j) => {
    let script;
    polling.doWrite = (data) => { script = data; };
    new JSONP({ _query: { j, EIO: '3' } }).doWrite(payload, {}, () => {});
    return { j, payload, script };
  }),
);

const forms = [
  'd=2%3A4a', 'd=a+b%2Bc', 'd=a%5Cnb', 'd=a\\nb', 'd=a\\\\nb', 'd=a\\\\\\nb', 'd=a\\\\\\\\nb', 'd=a\\\\\\\\\\nb', 'd=\\', 'd=\\\\', 'd=n\\',
  'd=\\n\\n', 'd=\\\\n\\\\n', 'd=%F0%9F%98%80', 'x=1&d=a', 'd=', 'd=%5C%5Cn', 'd=%0A', 'x=1',
].map((form) => {
  let payload = null;
  polling.onData = (data) => { payload = data; };
  new JSONP({ _query: { j: '0', EIO: '3' } }).onData(form);
  return { form, payload };
});

// === Socket.IO 4 ===

const packetsV4 = [
  { type: 0, nsp: '/' },
  { type: 0, nsp: '/ns' },
  { type: 4, nsp: '/ns', data: 'Invalid namespace' },
  { type: 4, nsp: '/', data: 'no "\n' },
  { type: 4, nsp: '/', data: { code: 1 } },
];

const socketio = await Promise.all(packetsV4.map(async (packet) => {
  const [encoded] = await new Promise((done) => new socketV4.Encoder().encode({ ...packet }, done));
  return { ...packet, encoded };
}));

// === MessagePack ===

const packets = [
  { type: 0, nsp: '/' },
  { type: 0, nsp: '/', data: { token: 'é😀' } },
  { type: 0, nsp: '/admin' },
  { type: 1, nsp: '/ns' },
  { type: 2, nsp: '/', data: ['chatMessage', { sender_id: 'a', text_content: 'grüße 😀', n: [1, -1, 1.5, 255, 65536, 2 ** 40, -(2 ** 40)] }], id: 12 },
  { type: 2, nsp: '/', data: ['a', true, false, null, '', [], {}, 'x'.repeat(40), 'y'.repeat(300)] },
  { type: 2, nsp: '/', data: ['a', { left_out: undefined, kept: 1 }, [undefined]] },
  { type: 2, nsp: '/', data: ['a', NaN, Infinity, 5e-324, 0.1] },
  { type: 2, nsp: '/', data: ['a', Array.from({ length: 20 }, (_, at) => at)] },
  { type: 2, nsp: '/', data: ['a', Object.fromEntries(Array.from({ length: 20 }, (_, at) => [`k${at}`, at]))] },
  { type: 2, nsp: '/', data: ['a', Buffer.from([1, 2]), { b: Buffer.alloc(300, 7) }, [Buffer.alloc(0)]], id: 0 },
  { type: 3, nsp: '/ns', data: [{ status: 'ok' }], id: 2 ** 33 },
  { type: 3, nsp: '/', data: [Buffer.from([255])], id: 7 },
  { type: 4, nsp: '/x', data: { message: 'Invalid namespace' } },
];

const inMsgpack = packets.map((packet) => {
  // As a client's socket hands it over.
  const sent = { ...packet, options: { compress: true }, ...('id' in packet ? {} : { id: undefined }) };
  const [encoded] = new msgpack.Encoder().encode(sent);
  const [head, ...attachments] = new socketV5.Encoder().encode({ ...packet });
  return { msgpack: bytes(encoded), json: head, attachments: attachments.map(bytes) };
});

// What we write, to see that the reference reads it: its JSON form, attachments, MessagePack. When our encoder changes,
// tests/vectors.rs says what to put here.
const ours = [
  ['2["a",1]', [], 'g6R0eXBlAqNuc3ChL6RkYXRh3QAAAAKhYQE='],
  ['2/ns,12["grüße 😀",{"b":[1,-1,1.5,null,true]},""]', [], 'hKR0eXBlAqNuc3CjL25zomlkDKRkYXRh3QAAAAOsZ3LDvMOfZSDwn5iA3wAAAAGhYt0AAAAFAf/LP/gAAAAAAADAw6A='],
  ['52-["a",{"_placeholder":true,"num":0},{"b":[{"_placeholder":true,"num":1}]}]', ['AQID', ''], 'g6R0eXBlAqNuc3ChL6RkYXRh3QAAAAOhYcQDAQID3wAAAAGhYt0AAAABxAA='],
  ['0{"sid":"AAAA"}', [], 'g6R0eXBlAKNuc3ChL6RkYXRh3wAAAAGjc2lkpEFBQUE='],
  ['1/ns,', [], 'gqR0eXBlAaNuc3CjL25z'],
  ['4/x,{"message":"Invalid namespace"}', [], 'g6R0eXBlBKNuc3CiL3ikZGF0Yd8AAAABp21lc3NhZ2WxSW52YWxpZCBuYW1lc3BhY2U='],
  ['3/ns,8589934592[]', [], 'hKR0eXBlA6Nuc3CjL25zomlkzwAAAAIAAAAApGRhdGHdAAAAAA=='],
  ['61-7[{"_placeholder":true,"num":0}]', ['/w=='], 'hKR0eXBlA6Nuc3ChL6JpZAekZGF0Yd0AAAABxAH/'],
];

const readByReference = ours.map(([json, attachments, encoded]) => {
  let packet;
  const decoder = new msgpack.Decoder();
  decoder.on('decoded', (decoded) => { packet = decoded; });
  decoder.add(Buffer.from(encoded, 'base64'));
  const [head, ...buffers] = new socketV5.Encoder().encode(packet);
  return { json, attachments, msgpack: encoded, read: { json: head, attachments: buffers.map(bytes) } };
});

const recorded = {
  engineio3: { written, read, websocket },
  jsonp: { answers, forms },
  socketio4: socketio,
  msgpack: { packets: inMsgpack, ours: readByReference },
};
writeFileSync(new URL('recorded.json', import.meta.url), `${JSON.stringify(recorded, null, 1)}\n`);
