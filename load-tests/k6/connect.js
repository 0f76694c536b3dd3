// A connect storm: connections opened and closed as fast as the server takes them, nine by websocket and then one by
// polling, each until its room is joined.

import { check } from "k6";
import exec from "k6/execution";
import http from "k6/http";

import { join, unique } from "./lib/chat.js";
import { begin, connectMs, fault, thresholds } from "./lib/metrics.js";
import { BASE_URL, again, settings } from "./lib/settings.js";

const set = settings({
  smoke: { vus: 5, duration: 2, connectP95Ms: 1000 },
  full: { vus: 200, duration: 60, connectP95Ms: 500 },
});

export const options = {
  scenarios: { connect: again(set.vus, set.duration, "connect") },
  thresholds: thresholds({ connect_ms: [`p(95)<${set.connectP95Ms}`] }),
};

export async function connect() {
  begin();
  try {
    if (exec.vu.iterationInInstance % 10 === 9) poll();
    else (await join(unique("ann"))).close();
  } catch (error) {
    fault(error);
  }
}

/** The whole way by polling. The packets of one answer are separated by a control character. */
function poll() {
  const began = Date.now();
  const open = http.get(`${BASE_URL}/socket.io/?EIO=4&transport=polling`, { tags: { name: "open" } });
  if (open.status !== 200) throw new Error(`open is answered with ${open.status}`);
  const { sid } = JSON.parse(open.body.slice(1));
  const url = `${BASE_URL}/socket.io/?EIO=4&transport=polling&sid=${sid}`;
  const params = { headers: { "content-type": "text/plain;charset=UTF-8" }, tags: { name: "poll" } };
  http.post(url, `40\x1e420["joinRoom","${unique("ann")}"]`, params);
  let heard = "";
  for (let polls = 0; polls < 2 && !heard.includes("430["); polls++) heard += http.get(url, params).body;
  connectMs.add(Date.now() - began);
  check(heard, { "joinRoom is acknowledged by polling": () => heard.includes('430[{"status":"ok"}]') });
  const closed = http.post(url, "1", params);
  check(closed, { "closing is taken": ({ status }) => status === 200 });
}
