// A robot of vda-5050-lib (Siemens, MIT) for tests: node robot.js BROKER_URL X Y; ends with its standard input.
"use strict";
const { AgvController, VirtualAgvAdapter } = require("vda-5050-lib");

const [brokerUrl, x, y] = process.argv.slice(2);

const factsheet = {
  typeSpecification: {
    seriesName: "virtual", agvKinematic: "DIFF", agvClass: "CARRIER", maxLoadMass: 1,
    localizationTypes: ["NATURAL"], navigationTypes: ["AUTONOMOUS"],
  },
  physicalParameters: {
    speedMin: 0.01, speedMax: 2, accelerationMax: 1, decelerationMax: 1, heightMin: 0.1, heightMax: 0.3,
    width: 0.4, length: 0.4,
  },
  protocolLimits: {
    maxStringLens: {}, maxArrayLens: {}, timing: { minOrderInterval: 0, minStateInterval: 0 },
  },
  protocolFeatures: { optionalParameters: [], agvActions: [] },
  agvGeometry: {},
  loadSpecification: {},
};

async function main() {
  const robot = new AgvController(
    { manufacturer: "siemens", serialNumber: "virtual-1" },
    { interfaceName: "uagv", transport: { brokerUrl }, vdaVersion: "2.0.0" },
    { agvAdapterType: VirtualAgvAdapter, publishStateInterval: 1000 },
    { initialPosition: { mapId: "room", x: Number(x), y: Number(y), theta: 0, lastNodeId: "0" }, vehicleSpeed: 0.5, timeLapse: 10 },
  );
  await robot.start();
  robot.updateFactsheet(factsheet);
  process.stdin.on("end", () => robot.stop().then(() => process.exit(0)));
  process.stdin.resume();
}

main().catch((error) => { console.error(error); process.exit(1); });
