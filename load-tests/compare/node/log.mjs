// The topic of chat messages.

import { Kafka, Partitioners, logLevel } from "kafkajs";

const PARTITIONS = 12;

export class Log {
  constructor(brokers, topic) {
    this.topic = topic;
    this.kafka = new Kafka({ clientId: "chat-node", brokers, logLevel: logLevel.WARN });
    this.producer = this.kafka.producer({ allowAutoTopicCreation: false, createPartitioner: Partitioners.DefaultPartitioner });
    this.consumer = this.kafka.consumer({ groupId: "chat-node" });
  }

  /** Makes the topic when it is missing, and hands what is read of it to `consumed`, batch by batch. */
  async start(consumed) {
    const admin = this.kafka.admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic: this.topic, numPartitions: PARTITIONS }], waitForLeaders: true });
    await admin.disconnect();
    await this.producer.connect();
    await this.consumer.connect();
    await this.consumer.subscribe({ topic: this.topic });
    const joined = new Promise((resolve) => this.consumer.on(this.consumer.events.GROUP_JOIN, resolve));
    await this.consumer.run({
      // Else one partition's insert holds up the others.
      partitionsConsumedConcurrently: PARTITIONS,
      eachBatch: async ({ batch }) => {
        await consumed(batch.messages.map(({ value }) => JSON.parse(value)));
      },
    });
    await joined;
  }

  /** Resolves when the brokers have it: acks=all is the client's default. */
  append(message) {
    const record = { key: message.conversation_id, value: JSON.stringify(message) };
    return this.producer.send({ topic: this.topic, messages: [record] });
  }
}
