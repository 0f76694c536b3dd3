// A day's mixture: people who chat and type, others who read history, share files, and come and go, all at once.

import { sleep } from "k6";
import { Counter, Trend } from "k6/metrics";

import { connect } from "./connect.js";
import { readAll, writeConversations } from "./history.js";
import { converse } from "./messages.js";
import { shareFile } from "./uploads.js";
import { join, unique } from "./lib/chat.js";
import { begin, fault, thresholds } from "./lib/metrics.js";
import { again, once, settings } from "./lib/settings.js";
import { pause } from "./lib/socketio.js";

// VUS pairs who chat, as many who type, and a tenth of that in each other part.
const set = settings({
  smoke: { vus: 4, duration: 2, pauseMs: 20, messages: 60, sizeBytes: 16_384, sentP95Ms: 1500, pageP95Ms: 1500 },
  full: { vus: 50, duration: 120, pauseMs: 200, messages: 500, sizeBytes: 262_144, sentP95Ms: 100, pageP95Ms: 200 },
});
const few = Math.ceil(set.vus / 10);

/** From typing to typing at the other side. It may be dropped, so nothing is said of how many arrive but some. */
const typingMs = new Trend("typing_ms", true);
const typed = new Counter("typed");

export const options = {
  scenarios: {
    messages: once(set.vus, set.duration, "messages"),
    typing: once(set.vus, set.duration, "typing"),
    history: again(few, set.duration, "history"),
    uploads: again(few, set.duration, "uploads"),
    connect: again(few, set.duration, "visits"),
  },
  setupTimeout: "120s",
  thresholds: thresholds({
    message_sent_ms: [`p(95)<${set.sentP95Ms}`],
    new_message_ms: [`p(95)<${set.sentP95Ms}`],
    typing_ms: [`p(95)<${set.sentP95Ms}`],
    page_ms: [`p(95)<${set.pageP95Ms}`],
    acknowledged: ["count>0"],
    typed: ["count>0"],
    http_req_failed: ["rate==0"],
  }),
};

export async function setup() {
  begin();
  return { conversations: await writeConversations(few, set.messages) };
}

export async function messages() {
  await converse(set.duration, set.pauseMs);
}

export async function typing() {
  const [ann, bob] = [unique("ann"), unique("bob")];
  const clients = [];
  try {
    for (const user of [ann, bob]) clients.push(await join(user));
    // The only field of a typing signal that a time can ride on.
    clients[1].on("typing", ({ conversation_id }) => {
      typed.add(1);
      typingMs.add(Date.now() - Number(conversation_id));
    });
    const end = Date.now() + set.duration * 1000;
    do {
      clients[0].emit("typing", { sender_id: ann, receiver_id: bob, conversation_id: `${Date.now()}` });
      await pause(set.pauseMs);
    } while (Date.now() < end);
    await pause(set.pauseMs);
  } catch (error) {
    fault(error);
  } finally {
    clients.forEach((client) => client.close());
  }
}

export function history({ conversations }) {
  try {
    readAll(conversations[Math.floor(Math.random() * conversations.length)], set.messages, 50);
  } catch (error) {
    fault(error);
  }
  sleep(set.pauseMs / 1000);
}

export async function uploads() {
  await shareFile(set.sizeBytes);
  await pause(set.pauseMs);
}

export async function visits() {
  await connect();
  await pause(set.pauseMs);
}
