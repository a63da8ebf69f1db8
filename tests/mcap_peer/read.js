// Reads an MCAP file with the libraries of Foxglove: prints, as JSON, the number of messages by
// topic, whether their times go back, and the SHA-256 of the cells of the last map.
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { McapStreamReader } = require("@mcap/core");
const { parse } = require("@foxglove/rosmsg");
const { MessageReader } = require("@foxglove/rosmsg2-serialization");
const { decompress } = require("fzstd");

const reader = new McapStreamReader({
  validateCrcs: true,
  decompressHandlers: { zstd: (buffer) => decompress(new Uint8Array(buffer)) },
});
reader.append(readFileSync(process.argv[2]));
const schemas = new Map();
const channels = new Map();
const counts = {};
let last = 0n;
let monotonic = true;
let map = null;
for (let record; (record = reader.nextRecord()); ) {
  if (record.type === "Schema") {
    const text = new TextDecoder().decode(record.data);
    schemas.set(record.id, new MessageReader(parse(text, { ros2: true })));
  } else if (record.type === "Channel") {
    channels.set(record.id, record);
  } else if (record.type === "Message") {
    const { topic, schemaId } = channels.get(record.channelId);
    const message = schemas.get(schemaId).readMessage(record.data);
    counts[topic] = (counts[topic] ?? 0) + 1;
    monotonic &&= record.logTime >= last;
    last = record.logTime;
    if (topic === "/map") map = createHash("sha256").update(message.data).digest("hex");
  }
}
console.log(JSON.stringify({ counts, monotonic, map, done: reader.done() }));
