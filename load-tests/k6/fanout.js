// Room fan-out: one person with many devices. Every message must reach every device once and in order.

import { Ear, Talk, join, unique } from "./lib/chat.js";
import { Trend } from "k6/metrics";

import { begin, fault, thresholds } from "./lib/metrics.js";
import { once, settings } from "./lib/settings.js";
import { pause } from "./lib/socketio.js";

// VUS rooms of DEVICES connections and one writer, who waits PAUSE_MS after every message.
const set = settings({
  smoke: { vus: 2, duration: 2, devices: 10, pauseMs: 20, roomP95Ms: 1000 },
  full: { vus: 4, duration: 60, devices: 50, pauseMs: 50, roomP95Ms: 200 },
});

/** From chatMessage until the last device has heard it. */
const roomMs = new Trend("room_ms", true);

export const options = {
  scenarios: { fanout: once(set.vus, set.duration, "fanout") },
  thresholds: thresholds({
    room_ms: [`p(95)<${set.roomP95Ms}`],
    delivered: ["count>0"],
  }),
};

export async function fanout() {
  begin();
  const [ann, bob] = [unique("ann"), unique("bob")];
  const clients = [];
  try {
    clients.push(await join(ann));
    const talk = new Talk(clients[0], ann, bob);
    for (let i = 0; i < set.devices; i++) clients.push(await join(bob));
    const ears = clients.slice(1).map((client) => new Ear(client, talk));
    const end = Date.now() + set.duration * 1000;
    do {
      await talk.send();
      await Promise.all(ears.map((ear) => ear.all(talk.sentAt.length)));
      roomMs.add(Date.now() - talk.sentAt.at(-1));
      await pause(set.pauseMs);
    } while (Date.now() < end);
  } catch (error) {
    fault(error);
  } finally {
    clients.forEach((client) => client.close());
  }
}
