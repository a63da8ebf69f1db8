// The figures of a mission at the frame that is shown: time, area, frontiers, what is left, distance, robots, age.

import { seconds } from "./page.js";

const get = (id) => document.getElementById(id);
const AREA_M2 = 10, ENDS = { complete: "nothing", stopped: "it was stopped" };

// What is left, in words: an estimate says how far it may be off. perSimulated: real seconds per simulated one.
export function remainingText(remaining, perSimulated) {
  if (!remaining) return "not known yet";
  if (!remaining.seconds) return "nothing";
  const [about, least, most] = ["seconds", "least_s", "most_s"].map((name) => rough(remaining[name] * perSimulated));
  const area = remaining.area_m2 < AREA_M2 ? `${Math.max(1, Math.round(remaining.area_m2))}` : `${Math.round(remaining.area_m2 / AREA_M2) * AREA_M2}`;
  return `about ${about} (${least} to ${most}), some ${area} m²`;
}

// An estimate has two digits at most.
function rough(s) {
  if (s < 10) return `${Math.max(1, Math.round(s))} s`;
  if (s < 60) return `${Math.round(s / 5) * 5} s`;
  if (s < 600) return `${Math.round(s / 30) / 2} min`;
  return seconds(Math.round(s / 300) * 300);
}

// frames: all until now; index: the one that is shown; knownM2: its known area; end: "" while the mission runs, or before its
// last frame, else whether it is "complete" or "stopped".
export function showFigures({ frames, index, clock, robots, knownM2, ageS, end }) {
  const frame = frames[index], first = frames[0];
  const simulated = frame.s - first.s, real = (frame.ms - first.ms) / 1000;
  const figures = {
    simulated: seconds(clock),
    known: `${Math.round(knownM2)} m²`,
    frontiers: `${frame.frontiers.length}`,
    remaining: ENDS[end] ?? remainingText(frame.remaining, simulated > 0 ? real / simulated : 1),
    distance: `${robots.reduce((sum, robot) => sum + robot.driven_m, 0).toFixed(0)} m`,
    alive: `${robots.filter((robot) => !robot.lost).length} of ${robots.length}`,
    newest: ageS === null ? "–" : `${seconds(ageS)} ago`,
  };
  for (const [name, text] of Object.entries(figures)) {
    const shown = get(`figure-${name}`);
    if (shown.textContent !== text) shown.textContent = text;
  }
}
