// Fleet control of vda-5050-lib (Siemens, MIT) for tests: node fleet_control.js BROKER_URL X Y
// Drives the robot acme/agv-1, which has lost its position, and prints what happened as JSON.
"use strict";
const { MasterController } = require("vda-5050-lib");

const [brokerUrl, x, y] = process.argv.slice(2);
const robot = { manufacturer: "acme", serialNumber: "agv-1" };

function node(nodeId, sequenceId, dx, dy, released = true) {
  const nodePosition = { x: Number(x) + dx, y: Number(y) + dy, mapId: "room", allowedDeviationXy: 0.05 };
  return { nodeId, sequenceId, released, nodePosition, actions: [] };
}

function edge(sequenceId, startNodeId, endNodeId, released = true) {
  return { edgeId: `e${sequenceId}`, sequenceId, startNodeId, endNodeId, released, actions: [] };
}

async function main() {
  const log = [];
  const control = new MasterController({ interfaceName: "uagv", transport: { brokerUrl }, vdaVersion: "2.0.0" }, {});
  await control.start();
  await new Promise((done) => {
    control.trackAgvs((id, state) => { if (state === "ONLINE") done(); });
  });

  const act = (actionType, actionParameters) => new Promise((done, fail) => control.initiateInstantActions(robot, {
    instantActions: [{ actionId: control.createUuid(), actionType, blockingType: "NONE", actionParameters }],
  }, {
    onActionStateChanged: (state) => { if (["FINISHED", "FAILED"].includes(state.actionStatus)) done(state.actionStatus); },
    onActionError: (error) => fail(new Error(error.errorDescription)),
  }));

  const order = (orderId, orderUpdateId, nodes, edges) => new Promise((done, fail) => control.assignOrder(robot, { orderId, orderUpdateId, nodes, edges }, {
    onOrderProcessed: (withError, byCancelation, active) => done({ orderId, orderUpdateId, withError: withError?.errorType ?? null, byCancelation, active }),
    onNodeTraversed: (traversed) => log.push(traversed.nodeId),
  }).then((sent) => { if (!sent) fail(new Error("not sent")); }, fail));

  const results = { initPosition: await act("initPosition", [
    { key: "x", value: Number(x) }, { key: "y", value: Number(y) }, { key: "theta", value: 0 },
    { key: "mapId", value: "room" }, { key: "lastNodeId", value: "a" },
  ]) };
  results.base = await order("order-1", 0,
    [node("a", 0, 0, 0), node("b", 2, 0.3, 0), node("c", 4, 0.3, 0.3, false)],
    [edge(1, "a", "b"), edge(3, "b", "c", false)]);
  results.update = await order("order-1", 1, [node("b", 2, 0.3, 0), node("c", 4, 0.3, 0.3)], [edge(3, "b", "c")]);
  results.next = await order("order-2", 0, [node("c", 0, 0.3, 0.3), node("a", 2, 0, 0)], [edge(1, "c", "a")]);
  results.traversed = log;
  await control.stop();
  console.log(JSON.stringify(results));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
