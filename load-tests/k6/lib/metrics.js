// What every script counts, and the limits that none may pass.

import { Counter, Trend } from "k6/metrics";

/** From chatMessage to messageSent at the sender, and to newMessage at a receiver. */
export const sentMs = new Trend("message_sent_ms", true);
export const deliveredMs = new Trend("new_message_ms", true);
/** From the start of a handshake until the room is joined. */
export const connectMs = new Trend("connect_ms", true);
export const acknowledged = new Counter("acknowledged");
export const delivered = new Counter("delivered");
/** Refusals, broken connections, answers that did not come, wrong statuses. */
export const errors = new Counter("errors");
/** Acknowledged and not delivered, or not in history. */
export const lost = new Counter("lost");
export const doubled = new Counter("doubled");
export const reordered = new Counter("reordered");

const counted = [errors, lost, doubled, reordered];

/** k6 does not judge a metric that has no sample: every count begins with none. */
export function begin() {
  counted.forEach((counter) => counter.add(0));
}

/** Thresholds of all scripts, and those of one. */
export function thresholds(own) {
  const none = Object.fromEntries(counted.map(({ name }) => [name, ["count==0"]]));
  return { ...none, checks: ["rate==1"], ...own };
}

/** Counts what went wrong, and says it. */
export function fault(error) {
  errors.add(1);
  console.error(`${error}`);
}
