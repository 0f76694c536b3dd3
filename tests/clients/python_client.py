"""python-socketio 5, unchanged, sync and asyncio, against a running service: CHAT_URL names it."""

import asyncio
import os
import queue
import secrets
import threading
from urllib.parse import quote

import requests
import socketio

from python_checks import PATIENCE, run_all, same

CHAT_URL = os.environ.get("CHAT_URL", "http://127.0.0.1:3001").rstrip("/")
TEXT = "héllo 👩‍👩‍👧 \u2028 \x00 \x1e \u202bשלום\u202c"
BURST = 100  # more than the 16 packets that a python client takes in one polling payload


def someone(name):
    return f"{name}-{secrets.token_hex(6)}"


def conversation_of(a, b):
    return ":".join(sorted(quote(x, safe="!*'()") for x in (a, b)))


def history(conversation, **query):
    url = f"{CHAT_URL}/api/chat/messages/{quote(conversation, safe='')}"
    answer = requests.get(url, params=query, timeout=PATIENCE)
    assert answer.status_code == 200, answer.status_code
    return answer.json()


EVENTS = ["newMessage", "messageSent", "messageError", "typing", "stopTyping", "connect_error"]


class Sync:
    """A connected user with one inbox per event; `call` waits for the ack."""

    def __init__(self, user, transports):
        self.client = socketio.Client(reconnection=False, handle_sigint=False)
        self.inbox = {event: queue.Queue() for event in EVENTS}
        for event in EVENTS:
            self.client.on(event, self.inbox[event].put)
        self.client.connect(CHAT_URL, transports=transports, wait_timeout=PATIENCE)
        same(self.call("joinRoom", user), {"status": "ok"}, "joinRoom")

    def call(self, event, data):
        return self.client.call(event, data, timeout=PATIENCE)

    def emit(self, event, data):
        self.client.emit(event, data)

    def next(self, event):
        return self.inbox[event].get(timeout=PATIENCE)

    def idle(self, event):
        return self.inbox[event].empty()

    def transport(self):
        return self.client.transport()

    def close(self):
        self.client.disconnect()


class Loop:
    """The asyncio client behind the same blocking face: its loop runs in a thread of its own."""

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def __init__(self, user, transports):
        self.inbox = {event: queue.Queue() for event in EVENTS}
        self.run(self.start(transports))
        same(self.call("joinRoom", user), {"status": "ok"}, "joinRoom")

    async def start(self, transports):
        self.client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        for event in EVENTS:
            self.client.on(event, self.inbox[event].put)
        await self.client.connect(CHAT_URL, transports=transports, wait_timeout=PATIENCE)

    def run(self, job):
        return asyncio.run_coroutine_threadsafe(job, self.loop).result(PATIENCE * 2)

    def call(self, event, data):
        return self.run(self.client.call(event, data, timeout=PATIENCE))

    def emit(self, event, data):
        self.run(self.client.emit(event, data))

    def next(self, event):
        return self.inbox[event].get(timeout=PATIENCE)

    def idle(self, event):
        return self.inbox[event].empty()

    def transport(self):
        return self.client.transport()

    def close(self):
        self.run(self.client.disconnect())


class Scene:
    def __init__(self, kind, transports):
        self.kind, self.transports = kind, transports
        self.ann_id, self.bob_id = someone("ann"), someone("bob")
        self.conversation = conversation_of(self.ann_id, self.bob_id)
        self.ann, self.bob = kind(self.ann_id, transports), kind(self.bob_id, transports)

    def draft(self, text, **more):
        return {"sender_id": self.ann_id, "receiver_id": self.bob_id, "text_content": text, **more}

    def send(self, draft):
        answer = self.ann.call("chatMessage", draft)
        same(answer.get("status"), "ok", f"the ack {answer}")
        return answer["message"]

    def close(self):
        self.ann.close()
        self.bob.close()


def transport_in_use(s):
    """the transport is the one asked for"""
    same(s.ann.transport(), s.transports[-1], "transport")


def both_ways(s):
    """a message is acknowledged, confirmed, delivered and in history, the same everywhere"""
    acked = s.send(s.draft(TEXT))
    same(acked["text_content"], TEXT, "text")
    same(s.ann.next("messageSent"), acked, "messageSent")
    same(s.bob.next("newMessage"), acked, "newMessage")
    same(history(s.conversation), [acked], "history")
    back = {"sender_id": s.bob_id, "receiver_id": s.ann_id, "text_content": "back"}
    answer = s.bob.call("chatMessage", back)["message"]
    same(s.ann.next("newMessage"), answer, "the answer")
    assert answer["seq"] > acked["seq"]
    same(history(s.conversation), [acked, answer], "history of both")


def typing(s):
    """typing and stopTyping are relayed with the three known fields only"""
    known = {"sender_id": s.ann_id, "receiver_id": s.bob_id, "conversation_id": s.conversation}
    for event in ("typing", "stopTyping"):
        s.ann.emit(event, {**known, "secret": 1})
        same(s.bob.next(event), known, event)


def refusal(s):
    """a bad draft is refused with the code `invalid`"""
    ack = s.ann.call("chatMessage", s.draft("", client_message_id="k"))
    same((ack["status"], ack["code"], ack["retryable"]), ("error", "invalid", False), "ack")
    error = s.ann.next("messageError")
    same({**error, "status": "error"}, ack, "messageError")
    same(error["client_message_id"], "k", "client_message_id")


def resend(s):
    """a resend with the same client_message_id is the same message, shown once"""
    first = s.send(s.draft("once", client_message_id="try-1"))
    same(s.send(s.draft("once", client_message_id="try-1")), first, "the resend")
    last = s.send(s.draft("last"))
    same([s.bob.next("newMessage"), s.bob.next("newMessage")], [first, last], "delivered")
    assert s.bob.idle("newMessage")
    same(history(s.conversation), [first, last], "history")


def burst(s):
    """a burst of 100 messages arrives whole and in order, and the connection lives on"""
    texts = [str(i) for i in range(BURST)]
    for text in texts:
        s.ann.emit("chatMessage", s.draft(text))
    seen = [s.bob.next("newMessage") for _ in texts]
    same([m["text_content"] for m in seen], texts, "at the receiver")
    sent = [s.ann.next("messageSent") for _ in texts]
    same(sent, seen, "confirmed to the sender")
    same(history(s.conversation, limit=200), seen, "history")
    same(s.send(s.draft("after"))["text_content"], "after", "after the burst")
    same(s.bob.next("newMessage")["text_content"], "after", "after the burst, delivered")


def spam(s):
    """a spam report right after the confirmation shows in history"""
    message = s.send(s.draft("buy now"))
    url = f"{CHAT_URL}/api/chat/messages/{message['_id']}/reportSpam"
    same(requests.post(url, timeout=PATIENCE).status_code, 200, "report")
    same(history(s.conversation), [{**message, "is_spam": True}], "history")


CHECKS = [transport_in_use, both_ways, typing, refusal, resend, burst, spam]


if __name__ == "__main__":
    run_all("", Scene, {"sync": Sync, "asyncio": Loop}, CHECKS)
