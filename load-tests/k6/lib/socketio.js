// A Socket.IO client for k6, as much of it as the scripts need: Engine.IO 4 over a websocket, namespace `/`, text events
// and acknowledgements. Everything that goes wrong rejects a promise or is told to `onlost`; nothing waits for ever.

// k6 1.1 calls it experimental; later versions `k6/websockets`.
import { WebSocket } from "k6/experimental/websockets";

/** How long a handshake, or an answer, may take. */
export const PATIENCE_MS = 5000;

export class Client {
  /** A client that is CONNECTed. */
  static connect(base) {
    const client = new Client(`${base.replace(/^http/, "ws")}/socket.io/?EIO=4&transport=websocket`);
    return within(PATIENCE_MS, "CONNECT", client.connected).catch((error) => {
      client.close();
      throw error;
    });
  }

  constructor(url) {
    /** Told when the connection ends without `close`. */
    this.onlost = () => {};
    this.handlers = {};
    this.waiting = {};
    this.asked = 0;
    this.closing = false;
    this.socket = new WebSocket(url);
    this.connected = new Promise((resolve, reject) => {
      this.accept = () => resolve(this);
      this.refuse = reject;
    });
    // Not when the server's `open` packet comes: k6 1.1 loses a message that arrives before it has told of the opening
    // (a few of 20,000; seen in the server's system calls).
    this.socket.onopen = () => this.socket.send("40");
    this.socket.onmessage = ({ data }) => this.packet(data);
    this.socket.onerror = ({ error }) => this.ended(`${error}`);
    this.socket.onclose = () => this.ended("closed");
  }

  on(event, handler) {
    this.handlers[event] = handler;
    return this;
  }

  emit(event, ...args) {
    this.socket.send(`42${JSON.stringify([event, ...args])}`);
  }

  /** What the server acknowledges an event with. */
  ask(event, ...args) {
    const id = this.asked++;
    const answer = new Promise((resolve, reject) => {
      this.waiting[id] = { resolve, reject };
    });
    this.socket.send(`42${id}${JSON.stringify([event, ...args])}`);
    return within(PATIENCE_MS, `the acknowledgement of ${event}`, answer);
  }

  close() {
    this.closing = true;
    this.socket.close();
  }

  packet(text) {
    switch (text[0]) {
      case "2":
        return this.socket.send("3");
      case "4":
        return this.message(text);
    }
  }

  message(text) {
    const [, id] = /^4.(\d*)/.exec(text);
    const rest = text.slice(2 + id.length);
    switch (text[1]) {
      case "0":
        return this.accept();
      case "2": {
        const [event, ...args] = JSON.parse(rest);
        return this.handlers[event]?.(...args);
      }
      case "3": {
        this.waiting[id]?.resolve(JSON.parse(rest)[0]);
        delete this.waiting[id];
        return;
      }
      default:
        return this.ended(`the server said ${text}`);
    }
  }

  ended(why) {
    const error = new Error(`the connection ended: ${why}`);
    this.refuse(error);
    Object.values(this.waiting).forEach(({ reject }) => reject(error));
    this.waiting = {};
    if (!this.closing) {
      this.closing = true;
      this.onlost(error);
    }
  }
}

/** `promise`, or an error when it takes longer. */
export function within(ms, what, promise) {
  const deadline = Date.now() + ms;
  let timer;
  const late = new Promise((_, reject) => {
    // k6 1.1 fires a timer early when one before it was cleared.
    const expire = () => (Date.now() < deadline ? arm() : reject(new Error(`${what} took more than ${ms} ms`)));
    const arm = () => {
      timer = setTimeout(expire, deadline - Date.now());
    };
    arm();
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
