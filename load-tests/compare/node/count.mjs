// How many messages a database has, each time a line is read; until the input ends.

import { createInterface } from "node:readline";
import mongoose from "mongoose";

await mongoose.connect(process.env.MONGO_URI);
const messages = mongoose.connection.collection("messages");
for await (const _ of createInterface({ input: process.stdin })) console.log(await messages.countDocuments({}));
await mongoose.disconnect();
