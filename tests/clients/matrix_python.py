"""python-socketio 4 or 5 (whichever is installed), unchanged, sync and asyncio, over every transport, against the
socket layer without the chat (examples/echo.rs): ECHO_URL names it."""

import asyncio
import logging
import os
import queue
import threading
from importlib.metadata import version

import socketio

from python_checks import PATIENCE, run_all, same

ECHO_URL = os.environ.get("ECHO_URL", "http://127.0.0.1:3000").rstrip("/")
VERSION = version("python-socketio")
EIO = 3 if VERSION.startswith("4.") else 4
TEXT = 'héllo 👩‍👩‍👧 € \u2028 \x00 \x1e 4:x "\\n" \u202bשלום\u202c \U0010ffff'
BYTES = bytes([0, 1, 2, 0x1E, 0x62, 0xFE, 0xFF])
LARGE = "👍".encode() * 17_500
BURST = 500
AUTH = {"token": "x & é", "nested": {"list": [1, None, "👍"]}}
EVENTS = ["connect", "connect_error", "disconnect", "auth", "message-back", "n"]


class Tap(logging.Handler):
    """What the client's reading loop takes in, in that order: the sync client handles each packet in a thread of its own."""

    def __init__(self):
        super().__init__()
        self.messages = []
        self.logger = logging.Logger("tap", logging.INFO)
        self.logger.addHandler(self)

    def emit(self, record):
        if record.msg.startswith("Received packet") and record.args[0] == "MESSAGE":
            self.messages.append(record.args[1])


class Client:
    """A client with one inbox for each event of each namespace; every inbox holds tuples of arguments."""

    def __init__(self, transports, namespaces=("/",), reconnection=False):
        self.tap = Tap()
        self.client = self.make(
            reconnection=reconnection,
            reconnection_delay=0.05,
            randomization_factor=0,
            engineio_logger=self.tap.logger,
            **({"handle_sigint": False} if EIO == 4 else {}),
        )
        self.inbox, self.answers = {}, []
        for namespace in namespaces:
            for event in EVENTS:
                inbox = self.inbox[namespace, event] = queue.Queue()
                self.client.on(event, lambda *args, inbox=inbox: inbox.put(args), namespace=namespace)
            self.client.on("question", self.answer, namespace=namespace)
        more = {"auth": AUTH, "wait": False} if EIO == 4 else {}
        self.run(self.client.connect(f"{ECHO_URL}?tenant=a%20%26%20b", transports=transports, namespaces=list(namespaces), **more))

    def answer(self, number):
        return self.answers.pop(0)(number)

    def call(self, event, *args, namespace="/"):
        """All arguments of the acknowledgement: one alone as it is, none as None, several as a tuple."""
        return self.run(self.client.call(event, args, namespace=namespace, timeout=PATIENCE))

    def emit(self, event, *args, namespace="/"):
        self.run(self.client.emit(event, args, namespace=namespace))

    def next(self, event, namespace="/"):
        try:
            return self.inbox[namespace, event].get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no {event} on {namespace}") from None

    def close(self):
        self.run(self.client.disconnect())


class Sync(Client):
    make = socketio.Client

    @staticmethod
    def run(done):
        return done


class Asyncio(Client):
    """The asyncio client behind the same blocking face: its loop runs in a thread of its own."""

    make = socketio.AsyncClient
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    @classmethod
    def run(cls, job):
        return asyncio.run_coroutine_threadsafe(job, cls.loop).result(PATIENCE * 2)


def connects(s):
    """it connects by the transport asked for, and both sides agree on revision, transport and id"""
    c = s.connected()
    same(c.next("auth"), (AUTH if EIO == 4 else {},), "auth")
    transport = s.transports[-1]
    same(c.client.transport(), transport, "the client's transport")
    me = c.call("whoami")
    sid = c.client.get_sid() if EIO == 4 else c.client.sid
    same((me["transport"], me["eio"], me["id"]), (transport, EIO, sid), "whoami")
    same(me["query"]["tenant"], "a & b", "query")


def arguments(s):
    """events of every kind of arguments come back"""
    c = s.connected()
    for args in [(), (TEXT,), (1, -1.5, True, None, "", [], {}), ({"list": [{"deep": TEXT}]}, "last")]:
        c.emit("message", *args)
        same(c.next("message-back"), args, "message-back")


def binary(s):
    """text with emoji and bytes come back in one acknowledgement"""
    c = s.connected()
    sent = (TEXT, {"bytes": BYTES, "text": TEXT}, [LARGE], 7)
    same(c.call("message-with-ack", *sent), sent, "the ack")
    same(c.call("message-with-ack", LARGE), LARGE, "the ack of bytes alone")
    c.emit("message", BYTES, TEXT)
    same(c.next("message-back"), (BYTES, TEXT), "message-back")


def asked(s):
    """the server asks, and hears the answer, bytes too"""
    c = s.connected()
    c.answers += [lambda n: ("yes 👍", n + 1), lambda _: {"bytes": BYTES, "text": TEXT}]
    same(c.call("ask"), ("yes 👍", 2), "the answer")
    same(c.call("ask"), {"bytes": BYTES, "text": TEXT}, "the answer with bytes")


def bursts(s):
    """bursts of 500 events both ways stay whole and in order"""
    c = s.connected()
    expected = list(range(BURST))
    for _ in range(2):
        c.tap.messages.clear()
        c.emit("burst", BURST)
        for i in expected:
            c.emit("message", i)
        for event in ("n", "message-back"):
            same(sorted(c.next(event)[0] for _ in expected), expected, event)
            wire = [m for m in c.tap.messages if m.startswith(f'2["{event}",')]
            same(wire, [f'2["{event}",{i}]' for i in expected], f"{event} on the wire")


def second_namespace(s):
    """a second namespace has its own id and events"""
    c = s.connected("/", "/custom", "/dyn-4711")
    for namespace in ("/custom", "/dyn-4711"):
        same(c.next("auth", namespace), (AUTH if EIO == 4 else {},), f"auth on {namespace}")
    ids = [c.call("whoami", namespace=n)["id"] for n in ("/", "/custom")]
    if EIO == 3:
        same(ids[1], f"/custom#{c.client.sid}", "id")
    else:
        same(ids, [c.client.get_sid(n) for n in ("/", "/custom")], "ids")
    c.emit("message", TEXT, BYTES, namespace="/custom")
    same(c.next("message-back", "/custom"), (TEXT, BYTES), "message-back")
    same(c.call("message-with-ack", 1), 1, "the ack on /")
    assert c.inbox["/", "message-back"].empty()


def refused(s):
    """a refused namespace shows as connect_error, and the connection goes on"""
    c = s.client("/", "/deny", "/no-such")
    c.next("connect")
    denied = {"code": 42} if EIO == 3 else {"message": "Not authorized", "data": {"code": 42}}
    same(c.next("connect_error", "/deny"), (denied,), "/deny")
    (missing,) = c.next("connect_error", "/no-such")
    # To revision 3 the old servers say it as a string, the reference as an object.
    same(missing if isinstance(missing, str) else missing["message"], "Invalid namespace", "/no-such")
    same(c.call("message-with-ack", 1), 1, "the ack on /")


def kicked(s):
    """after the server closes the connection the client returns"""
    c = s.client("/", reconnection=True)
    c.next("connect")
    c.next("auth")
    before = c.call("whoami")["id"]
    c.emit("kick")
    c.next("disconnect")
    if s.transports == ["polling"]:
        # The goodbye of a polling server is final to this client, whatever the server: it is up to its application.
        c = s.client("/")
    c.next("connect")
    same(c.next("auth"), (AUTH if EIO == 4 else {},), "auth")
    assert c.call("whoami")["id"] != before
    same(c.call("message-with-ack", TEXT), TEXT, "the ack")


def kicked_from_one(s):
    """a client disconnected from one namespace stays in the other"""
    c = s.connected("/", "/custom")
    c.emit("kickns", namespace="/custom")
    c.next("disconnect", "/custom")
    same(c.call("message-with-ack", 1), 1, "the ack on /")


class Scene:
    def __init__(self, kind, transports):
        self.kind, self.transports, self.open = kind, transports, []

    def client(self, *namespaces, reconnection=False):
        client = self.kind(self.transports, namespaces, reconnection)
        self.open.append(client)
        return client

    def connected(self, *namespaces):
        client = self.client(*(namespaces or ["/"]))
        for namespace in namespaces or ["/"]:
            client.next("connect", namespace)
        return client

    def close(self):
        for client in self.open:
            client.close()


CHECKS = [connects, arguments, binary, asked, bursts, second_namespace, refused, kicked, kicked_from_one]


if __name__ == "__main__":
    run_all(f"python-socketio {VERSION} ", Scene, {"sync": Sync, "asyncio": Asyncio}, CHECKS)
