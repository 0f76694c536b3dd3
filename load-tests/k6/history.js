// History paging: conversations of a known length, read back page by page from either end. Every message must be there,
// once, in the order of `seq`.

import { check } from "k6";
import http from "k6/http";
import { Trend } from "k6/metrics";

import { Talk, join, unique } from "./lib/chat.js";
import { begin, doubled, fault, lost, reordered, thresholds } from "./lib/metrics.js";
import { BASE_URL, again, settings } from "./lib/settings.js";

// Pages of LIMIT messages out of a conversation of MESSAGES, of which the setup writes CONVERSATIONS.
const set = settings({
  smoke: { vus: 2, duration: 1, conversations: 2, messages: 120, limit: 50, pageP95Ms: 1000 },
  full: { vus: 20, duration: 60, conversations: 20, messages: 1000, limit: 50, pageP95Ms: 50 },
});

const pageMs = new Trend("page_ms", true);

export const options = {
  scenarios: { history: again(set.vus, set.duration, "history") },
  setupTimeout: "120s",
  thresholds: thresholds({
    page_ms: [`p(95)<${set.pageP95Ms}`],
    http_req_failed: ["rate==0"],
  }),
};

export async function setup() {
  begin();
  return { conversations: await writeConversations(set.conversations, set.messages) };
}

/** Conversations with so many messages each; their ids. */
export async function writeConversations(conversations, messages) {
  const written = Array.from({ length: conversations }, async (_, i) => {
    const [ann, bob] = [unique(`ann${i}`), unique(`bob${i}`)];
    const client = await join(ann);
    const talk = new Talk(client, ann, bob);
    for (let sent = 0; sent < messages; sent++) await talk.send();
    client.close();
    return talk.ids.conversation_id;
  });
  return Promise.all(written);
}

export function history({ conversations }) {
  begin();
  try {
    const conversation = conversations[Math.floor(Math.random() * conversations.length)];
    readAll(conversation, set.messages, set.limit);
  } catch (error) {
    fault(error);
  }
}

/** Back from the newest page to the first message, then forward from there to the newest. */
export function readAll(conversation, messages, limit) {
  const back = [];
  for (let page = read(conversation, limit, ""); page.length; page = read(conversation, limit, `&before=${page[0]._id}`)) {
    back.unshift(...page);
  }
  compare(back, messages);
  const forward = [back[0]];
  for (;;) {
    const page = read(conversation, limit, `&last_message_id=${forward.at(-1)._id}`);
    if (!page.length) break;
    forward.push(...page);
  }
  compare(forward, messages);
}

function read(conversation, limit, cursor) {
  const answer = http.get(`${BASE_URL}/api/chat/messages/${conversation}?limit=${limit}${cursor}`, { tags: { name: "page" } });
  pageMs.add(answer.timings.duration);
  if (!check(answer, { "a page is answered with 200": ({ status }) => status === 200 })) throw new Error(answer.body);
  return answer.json();
}

/** All of them, numbered from 0, in the order of `seq`. */
function compare(found, messages) {
  const numbers = found.map(({ text_content }) => parseInt(text_content, 10));
  const different = new Set(numbers).size;
  lost.add(messages - different);
  doubled.add(numbers.length - different);
  reordered.add(found.slice(1).filter(({ seq }, i) => seq <= found[i].seq).length);
  check(numbers, { "history is whole and in order": () => numbers.length === messages && numbers.every((n, i) => n === i) });
}
