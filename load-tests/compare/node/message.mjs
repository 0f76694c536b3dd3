// A chat message: what a client may send, what is sent on, and how it is stored.

import mongoose from "mongoose";

const schema = new mongoose.Schema(
  {
    conversation_id: { type: String, required: true },
    sender_id: { type: String, required: true },
    receiver_id: { type: String, required: true },
    text_content: { type: String, default: "" },
    message_type: { type: String, enum: ["text", "attachment", "system"], required: true },
    attachment_url: String,
    attachment_filename: String,
    attachment_mimetype: String,
    client_message_id: String,
    timestamp: { type: Date, required: true },
    is_spam: { type: Boolean, default: false },
  },
  { versionKey: false },
);
schema.index({ conversation_id: 1, timestamp: 1 });

export const Message = mongoose.model("Message", schema);

/** The message made of what a client sent, or an error whose `code` it is told. */
export function parse(data) {
  const { sender_id, receiver_id, text_content = "", attachment_url } = data ?? {};
  if (!isId(sender_id) || !isId(receiver_id)) throw invalid("sender_id and receiver_id are needed");
  if (typeof text_content !== "string" || (!text_content && !attachment_url)) throw invalid("a text or an attachment is needed");
  const message = {
    _id: new mongoose.Types.ObjectId().toHexString(),
    conversation_id: data.conversation_id || [sender_id, receiver_id].map(encodeURIComponent).sort().join(":"),
    sender_id,
    receiver_id,
    text_content,
    message_type: attachment_url ? "attachment" : "text",
    timestamp: new Date().toISOString(),
    is_spam: false,
  };
  for (const name of ["attachment_url", "attachment_filename", "attachment_mimetype", "client_message_id"]) {
    if (data[name]) message[name] = data[name];
  }
  return message;
}

/** As MongoDB has it. */
export function documentOf(message) {
  return { ...message, _id: new mongoose.Types.ObjectId(message._id), timestamp: new Date(message.timestamp) };
}

const isId = (id) => typeof id === "string" && id.length > 0 && id.length <= 1024;

const invalid = (text) => Object.assign(new Error(text), { code: "invalid" });
