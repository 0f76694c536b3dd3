// Uploads: a file with a message, the message live at the receiver and in history, and the file back, whole and in part.

import { check } from "k6";
import http from "k6/http";
import { Trend } from "k6/metrics";

import { join, unique } from "./lib/chat.js";
import { begin, fault, lost, thresholds } from "./lib/metrics.js";
import { BASE_URL, again, settings } from "./lib/settings.js";
import { PATIENCE_MS, within } from "./lib/socketio.js";

// Files of SIZE_BYTES.
const set = settings({
  smoke: { vus: 2, duration: 2, sizeBytes: 65_536, uploadP95Ms: 1500 },
  full: { vus: 10, duration: 60, sizeBytes: 1_048_576, uploadP95Ms: 500 },
});

const uploadMs = new Trend("upload_ms", true);
const downloadMs = new Trend("download_ms", true);

export const options = {
  scenarios: { uploads: again(set.vus, set.duration, "uploads") },
  thresholds: thresholds({
    upload_ms: [`p(95)<${set.uploadP95Ms}`],
    download_ms: [`p(95)<${set.uploadP95Ms}`],
    http_req_failed: ["rate==0"],
  }),
};

export async function uploads() {
  begin();
  await shareFile(set.sizeBytes);
}

/** One file from one person to another. */
export async function shareFile(sizeBytes) {
  const [ann, bob] = [unique("ann"), unique("bob")];
  let receiver;
  try {
    receiver = await join(bob);
    const heard = new Promise((resolve) => receiver.on("newMessage", resolve));
    const message = upload(ann, bob, bytes(sizeBytes));
    const live = await within(PATIENCE_MS, "newMessage", heard).catch(() => lost.add(1));
    check(live, { "newMessage is the upload's message": (live) => live?._id === message._id });
    download(message, sizeBytes);
  } catch (error) {
    fault(error);
  } finally {
    receiver?.close();
  }
}

function upload(ann, bob, file) {
  const url = `${BASE_URL}/api/chat/upload/${ann}:${bob}`;
  const form = { sender_id: ann, receiver_id: bob, attachment: http.file(file, "picture.bin", "application/octet-stream") };
  const answer = http.post(url, form, { tags: { name: "upload" } });
  uploadMs.add(answer.timings.duration);
  if (!check(answer, { "an upload is answered with 201": ({ status }) => status === 201 })) throw new Error(answer.body);
  return answer.json();
}

function download({ _id, conversation_id, attachment_url }, sizeBytes) {
  const page = http.get(`${BASE_URL}/api/chat/messages/${conversation_id}`, { tags: { name: "page" } });
  const url = `${BASE_URL}${attachment_url}`;
  const whole = http.get(url, { responseType: "binary", tags: { name: "download" } });
  downloadMs.add(whole.timings.duration);
  const part = http.get(url, { headers: { range: "bytes=10-19" }, responseType: "binary", tags: { name: "range" } });
  check(null, {
    "history has the upload's message": () => page.json().map((message) => message._id).join() === _id,
    "the file comes back whole": () => whole.status === 200 && same(whole.body, bytes(sizeBytes)),
    "a part of it comes back": () => part.status === 206 && same(part.body, bytes(sizeBytes).slice(10, 20)),
  });
}

let made;
function bytes(length) {
  made = made || Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff).buffer;
  return made;
}

/** Compared in a few places: k6's JavaScript is slow. */
function same(found, wanted) {
  const [a, b] = [new Uint8Array(found), new Uint8Array(wanted)];
  const step = Math.max(1, a.length >> 10);
  for (let i = 0; i < a.length; i += step) if (a[i] !== b[i]) return false;
  return a.length === b.length;
}
