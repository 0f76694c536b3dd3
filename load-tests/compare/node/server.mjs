// The chat service as one would plainly write it in Node: Socket.IO, KafkaJS, Mongoose. It keeps chat-svc's contract for what
// is compared: joinRoom; chatMessage → Kafka (acks=all) → messageSent; the topic → newMessage and MongoDB, in batches;
// typing. Without KAFKA_BROKERS and MONGO_URI it keeps nothing: a message goes straight to its receiver.

import { createServer } from "node:http";
import mongoose from "mongoose";
import { Server } from "socket.io";

import { Log } from "./log.mjs";
import { Message, documentOf, parse } from "./message.mjs";

const { PORT = "3001", KAFKA_BROKERS, KAFKA_TOPIC_CHAT_MESSAGES = "chat.messages", MONGO_URI } = process.env;

const http = createServer();
const io = new Server(http, { serveClient: false });

const show = (message) => io.to(message.receiver_id).emit("newMessage", message);

if (MONGO_URI) await mongoose.connect(MONGO_URI);
const log = KAFKA_BROKERS && new Log(KAFKA_BROKERS.split(","), KAFKA_TOPIC_CHAT_MESSAGES);

async function append(message) {
  if (log) await log.append(message);
  else show(message);
}

async function consumed(messages) {
  messages.forEach(show);
  if (!MONGO_URI) return;
  try {
    // Validated at the door: lean spares a second time.
    await Message.insertMany(messages.map(documentOf), { ordered: false, lean: true });
  } catch (error) {
    // Read and stored before: the consumer had not committed yet.
    if (error.code !== 11000) throw error;
  }
}

io.on("connection", (socket) => {
  socket.on("joinRoom", (userId, ack) => {
    socket.join(userId);
    ack?.({ status: "ok" });
  });
  socket.on("chatMessage", async (data, ack) => {
    try {
      const message = parse(data);
      await append(message);
      socket.emit("messageSent", message);
      ack?.({ status: "ok", message });
    } catch (error) {
      const refusal = { code: error.code ?? "unavailable", error: error.message };
      socket.emit("messageError", refusal);
      ack?.({ status: "error", ...refusal });
    }
  });
  for (const event of ["typing", "stopTyping"]) {
    socket.on(event, ({ sender_id, receiver_id, conversation_id }) => {
      socket.to(receiver_id).volatile.emit(event, { sender_id, receiver_id, conversation_id });
    });
  }
});

await log?.start(consumed);
http.listen(Number(PORT), "127.0.0.1", () => console.log(`listens on ${http.address().port}`));
