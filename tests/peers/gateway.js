// A gateway for Tact in another language, after docs/contract.md alone: takes a channel's
// deliveries from the stream LEDGER and publishes receipts to INTAKE. It sends nothing anywhere.
//
//   NATS_URL=nats://… [NATS_USER=… NATS_PASSWORD=…] node gateway.js [name] [channel]
//
// Ends at SIGTERM, after what it has taken is reported; its last line tells how much that was.
// With npm's `nats` 2.29.

"use strict";

const { AckPolicy, DeliverPolicy, connect, headers, nanos } = require("nats");

const NAME = process.argv[2] || "node-gw"; // its receipts' source, and its durable consumer
const CHANNEL = process.argv[3] || "sms";
const MESSAGES = 16; // taken at a time, each with up to 256 deliveries: the bound of what is in flight
const ACK_WAIT_MS = 30_000; // longer without a sign of life, and the server gives it to another
const REMEMBERED = 65_536; // ids of settled deliveries, to recognise what comes again
const PAUSE_MS = 500;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const counts = { deliveries: 0, repeats: 0, receipts: 0 };
const settled = new Set();

function remember(id) {
  settled.add(id);
  if (settled.size > REMEMBERED) settled.delete(settled.values().next().value);
}

// Where a real gateway talks to its carrier, with delivery.id as the key against repeats. Returns
// what became of it, in order.
async function send(delivery) {
  if (Date.parse(delivery.expires_at) <= Date.now()) {
    return [{ status: "failed", class: "expired" }];
  }
  if (delivery.to.endsWith("0000")) {
    return [{ status: "failed", class: "dead_address", code: "EMPTY_NUMBER" }];
  }
  const provider_id = `carrier-${delivery.id}`.slice(0, 128);
  return [{ status: "sent", provider_id }, { status: "delivered", provider_id }];
}

// Until the stream has it. The same Nats-Msg-Id on every try: it is stored once.
async function report(js, delivery, word) {
  const { id, customer } = delivery;
  const receipt = { delivery: id, customer, at: new Date().toISOString(), ...word };
  const header = headers();
  header.set("Nats-Msg-Id", `receipt/${NAME}/${id}/${customer}/${word.status}`);
  const subject = `hub.to.receipt.${NAME}.${customer}`;
  for (;;) {
    try {
      await js.publish(subject, JSON.stringify(receipt), { headers: header, timeout: 5_000 });
      counts.receipts += 1;
      return;
    } catch (error) {
      console.error(`receipt not stored yet: ${error.code || error.name}`);
      await pause(PAUSE_MS);
    }
  }
}

async function serve(js, delivery) {
  if (settled.has(delivery.id)) {
    counts.repeats += 1;
    return;
  }
  counts.deliveries += 1;
  for (const word of await send(delivery)) await report(js, delivery, word);
  remember(delivery.id);
}

// One message: an object or an array. Side by side, but for one customer one after the other.
async function take(js, message) {
  const alive = setInterval(() => message.working(), ACK_WAIT_MS / 3);
  try {
    const found = message.json();
    const customers = new Map();
    for (const delivery of Array.isArray(found) ? found : [found]) {
      const before = customers.get(delivery.customer) || Promise.resolve();
      customers.set(delivery.customer, before.then(() => serve(js, delivery)));
    }
    await Promise.all(customers.values());
    message.ack();
  } finally {
    clearInterval(alive);
  }
}

async function main() {
  const nc = await connect({
    servers: process.env.NATS_URL,
    user: process.env.NATS_USER,
    pass: process.env.NATS_PASSWORD,
    name: NAME,
    maxReconnectAttempts: -1,
  });
  const js = nc.jetstream();
  const jsm = await nc.jetstreamManager();
  try {
    await jsm.consumers.info("LEDGER", NAME);
  } catch {
    await jsm.consumers.add("LEDGER", {
      name: NAME,
      durable_name: NAME,
      filter_subject: `hub.out.${CHANNEL}.*`,
      deliver_policy: DeliverPolicy.All,
      ack_policy: AckPolicy.Explicit,
      ack_wait: nanos(ACK_WAIT_MS),
      max_ack_pending: 4 * MESSAGES,
    });
  }
  const consumer = await js.consumers.get("LEDGER", NAME);
  const messages = await consumer.consume({ max_messages: MESSAGES });
  process.once("SIGTERM", () => messages.close());
  process.stdout.write('{"ready":true}\n');
  for await (const message of messages) await take(js, message); // in the order of the stream
  await nc.drain();
  process.stdout.write(`${JSON.stringify(counts)}\n`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
