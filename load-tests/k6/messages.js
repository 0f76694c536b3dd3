// The message path: pairs of people who write to each other, each message sent when the last one was acknowledged.
// Proves per message: messageSent came, newMessage came once and in order, and history ends with what was acknowledged.

import { check } from "k6";
import http from "k6/http";

import { Ear, Talk, join, unique } from "./lib/chat.js";
import { begin, fault, lost, thresholds } from "./lib/metrics.js";
import { BASE_URL, once, settings } from "./lib/settings.js";
import { pause } from "./lib/socketio.js";

// VUS pairs; each of the two waits PAUSE_MS after an acknowledgement.
const set = settings({
  smoke: { vus: 5, duration: 2, pauseMs: 10, sentP95Ms: 1000, deliveredP95Ms: 1000 },
  full: { vus: 50, duration: 60, pauseMs: 100, sentP95Ms: 50, deliveredP95Ms: 50 },
});

export const options = {
  scenarios: { messages: once(set.vus, set.duration, "messages") },
  thresholds: thresholds({
    message_sent_ms: [`p(95)<${set.sentP95Ms}`],
    new_message_ms: [`p(95)<${set.deliveredP95Ms}`],
    acknowledged: ["count>0"],
  }),
};

export async function messages() {
  begin();
  await converse(set.duration, set.pauseMs);
}

/** Two people write to each other for so long. */
export async function converse(duration, pauseMs) {
  const [ann, bob] = [unique("ann"), unique("bob")];
  const clients = [];
  try {
    for (const user of [ann, bob]) clients.push(await join(user));
    const talks = [new Talk(clients[0], ann, bob), new Talk(clients[1], bob, ann)];
    const ears = [new Ear(clients[1], talks[0]), new Ear(clients[0], talks[1])];
    const end = Date.now() + duration * 1000;
    await Promise.all(talks.map((talk) => write(talk, end, pauseMs)));
    await Promise.all(ears.map((ear, i) => ear.all(talks[i].sentAt.length)));
    compareWithHistory(talks);
  } catch (error) {
    fault(error);
  } finally {
    clients.forEach((client) => client.close());
  }
}

async function write(talk, end, pauseMs) {
  do {
    await talk.send();
    await pause(pauseMs);
  } while (Date.now() < end);
}

/** The newest page is what both were told, by `seq`. */
function compareWithHistory(talks) {
  const told = talks.flatMap((talk) => talk.told).sort((a, b) => a.seq - b.seq).slice(-200);
  const { conversation_id } = talks[0].ids;
  const answer = http.get(`${BASE_URL}/api/chat/messages/${conversation_id}?limit=200`, { tags: { name: "newest page" } });
  const ids = answer.status === 200 ? answer.json().map(({ _id }) => _id) : [];
  const same = check(answer, {
    "history ends with what was acknowledged": () => ids.join() === told.map(({ _id }) => _id).join(),
  });
  if (!same) lost.add(told.filter(({ _id }) => !ids.includes(_id)).length);
}
