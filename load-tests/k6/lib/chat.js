// Two people who chat, in numbered messages, so that a lost, doubled or reordered one is known.

import { check } from "k6";
import exec from "k6/execution";

import { acknowledged, connectMs, delivered, deliveredMs, doubled, fault, lost, reordered, sentMs } from "./metrics.js";
import { BASE_URL } from "./settings.js";
import { Client, PATIENCE_MS, within } from "./socketio.js";

const PADDING = "x".repeat(110);

/** A name that no other iteration of this or another run has. */
export function unique(name) {
  return `k6-${Date.now().toString(36)}-${exec.vu.idInTest}-${exec.vu.iterationInInstance}-${name}`;
}

/** A connection in `user`'s room. */
export async function join(user) {
  const began = Date.now();
  const client = await Client.connect(BASE_URL);
  client.onlost = fault;
  client.on("messageError", (refusal) => fault(`refused: ${JSON.stringify(refusal)}`));
  try {
    const answer = await client.ask("joinRoom", user);
    connectMs.add(Date.now() - began);
    check(answer, { "joinRoom is acknowledged": ({ status }) => status === "ok" });
    return client;
  } catch (error) {
    client.close();
    throw error;
  }
}

/** Messages from one client to a user, each waited for. */
export class Talk {
  constructor(client, sender, receiver) {
    this.client = client;
    this.ids = { sender_id: sender, receiver_id: receiver, conversation_id: [sender, receiver].sort().join(":") };
    this.sentAt = [];
    this.answered = () => {};
    this.told = [];
    client.on("messageSent", (message) => this.acknowledge(message));
  }

  /** Sends the next message, and resolves with what `messageSent` says of it. */
  async send() {
    const number = this.sentAt.length;
    const text = `${number} ${PADDING}`;
    const answer = new Promise((resolve) => {
      this.answered = resolve;
    });
    this.sentAt.push(Date.now());
    this.client.emit("chatMessage", { ...this.ids, text_content: text });
    const message = await within(PATIENCE_MS, "messageSent", answer);
    const last = this.told.at(-1);
    check(message, {
      "messageSent has an _id": ({ _id }) => /^[0-9a-f]{24}$/.test(_id),
      "messageSent has a seq above the last one's": ({ seq }) => seq > (last?.seq ?? 0),
      "messageSent has the text": ({ text_content }) => text_content === text,
    });
    this.told.push(message);
    return message;
  }

  acknowledge(message) {
    const number = parseInt(message.text_content, 10);
    if (number < this.told.length) return doubled.add(1);
    sentMs.add(Date.now() - this.sentAt[number]);
    acknowledged.add(1);
    this.answered(message);
  }
}

/** What one connection hears of one `Talk`. */
export class Ear {
  constructor(client, talk) {
    this.talk = talk;
    this.heard = new Set();
    this.next = 0;
    this.waiting = [];
    client.on("newMessage", (message) => this.hear(message));
  }

  hear({ sender_id, text_content }) {
    if (sender_id !== this.talk.ids.sender_id) return fault(`a message of ${sender_id} came here`);
    const number = parseInt(text_content, 10);
    if (this.heard.has(number)) return doubled.add(1);
    this.heard.add(number);
    delivered.add(1);
    deliveredMs.add(Date.now() - this.talk.sentAt[number]);
    if (number < this.next) reordered.add(1);
    this.next = Math.max(this.next, number + 1);
    this.waiting.filter(({ count }) => this.heard.size >= count).forEach(({ done }) => done());
  }

  /** Resolves when `count` messages were heard; what is not heard in time is lost. */
  async all(count) {
    if (this.heard.size >= count) return;
    const heard = new Promise((done) => this.waiting.push({ count, done }));
    await within(PATIENCE_MS, "newMessage", heard).catch(() => lost.add(count - this.heard.size));
  }
}
