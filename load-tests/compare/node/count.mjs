// How many messages a database has, each time a line is read, until the input ends. A line `drop` drops the database.

import { createInterface } from "node:readline";
import mongoose from "mongoose";

await mongoose.connect(process.env.MONGO_URI);
const messages = mongoose.connection.collection("messages");
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "drop") await mongoose.connection.dropDatabase();
  else console.log(await messages.countDocuments({}));
}
await mongoose.disconnect();
