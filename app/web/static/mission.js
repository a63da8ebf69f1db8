// The page of one mission, live or replayed, driven by its event stream: frames, stages, moves of its journal.

import { check, isLive, pagesHere, root, serverNow } from "./connection.js";
import { Entries } from "./entries.js";
import { MapView, numberOf } from "./map.js";
import { MapTools } from "./map_tools.js";
import { Pace, paced as pacedFor } from "./pace.js";
import { seconds } from "./page.js";
import { markOf } from "./palette.js";
import { showFigures } from "./strip.js";
import { MAX_MARKS, Timeline } from "./timeline.js";
import { FrameDecoder } from "./frame_decoder.js";
import { LeftOutFrames } from "./left_out_frames.js";

const RECONNECT_MS = [1000, 10000], WAITS_EVERY_MS = 5000, LOADING_MS = 100, CATCH_UP_S = 0.4, TABLE_MS = 250, TIMELINE_MS = 500;
const ENDS = new Set(["completed", "failed", "cancelled"]);
const doing = { exploring: "▶ driving", following: "▷ following another robot", idle: "idle: nothing is left for it" };
const get = (id) => document.getElementById(id);
const paced = (ms) => pacedFor(ms, pagesHere());
const saga = get("mission").dataset.saga, entries = new Entries(saga);
const decoder = new FrameDecoder(), leftOut = new LeftOutFrames(decoder, saga), view = new MapView(get("map")), tools = new MapTools(view, get("map"));
const page = { live: true, playing: false, clock: 0, over: false, last: "", outcome: "", newest: -1, catchUp: 0 };
const stages = new Map();   // request id -> {names, reached}
const added = [], reached = new Set(); // entries, and the ids of requests with stages, that are shown with the next drawing
const marks = new Map();    // request id -> [[ms, status], ...], the newest ones
const updates = new Map();  // robot -> ms of the last frame in which it had moved
let source = null, reconnectMs = RECONNECT_MS[0];

// ---- events -------------------------------------------------------------------------------------

const kinds = {
  frame(fields) {
    decoder.decode(fields.payload, milliseconds(fields), fields.entry_id);
    const frame = decoder.frames.at(-1);
    if (!frame || frame.number === page.newest) return;
    page.newest = frame.number;
    if (page.newest === 0) showMap();
    page.catchUp = (decoder.end - page.clock) / CATCH_UP_S;
    for (const robot of frame.robots) {
      const before = updates.get(robot.name);
      if (!before || before.driven !== robot.driven_m || before.lost !== robot.lost) {
        updates.set(robot.name, { ms: frame.ms, driven: robot.driven_m, lost: robot.lost });
      }
    }
  },
  stage(fields) {
    const known = stages.get(fields.request_id) ?? { names: new Map(), reached: "" };
    known.names.set(fields.status, (known.names.get(fields.status) ?? 0) + 1);
    if (fields.status === "progress") known.reached = reachedText(fields.payload) || known.reached;
    stages.set(fields.request_id, known);
    if (!marks.has(fields.request_id)) marks.set(fields.request_id, []);
    const marked = marks.get(fields.request_id);
    marked.push([milliseconds(fields), fields.status]);
    if (marked.length > MAX_MARKS) marked.shift();
    reached.add(fields.request_id);
    added.push(["stage", fields]);
    if (fields.status === "start") moved();
  },
  move(fields) {
    page.outcome = { completed: "✓ done", running: "" }[fields.status] ?? "■ stopped";
    added.push(["move", fields]);
    moved();
  },
};

function milliseconds(fields) { return Number(fields.entry_id.split("-")[0]); }

function receive(event) {
  // The id holds the position in each stream: the same id again is a duplicate.
  if (event.lastEventId === page.last) return;
  page.last = event.lastEventId;
  kinds[event.type](JSON.parse(event.data));
}

function connect() {
  const after = page.last ? `?after=${encodeURIComponent(page.last)}` : "";
  source = new EventSource(`${root}/api/missions/${saga}/events${after}`);
  for (const kind of Object.keys(kinds)) source.addEventListener(kind, receive);
  source.addEventListener("end", () => { source.close(); source = null; page.over = true; showMap(); moved(); });
  source.addEventListener("open", () => { reconnectMs = RECONNECT_MS[0]; });
  source.addEventListener("error", () => {
    check();
    source?.close();
    source = null;
    setTimeout(resume, reconnectMs);
    reconnectMs = Math.min(2 * reconnectMs, RECONNECT_MS[1]);
  });
}

// A hidden page closes its connection: browsers allow six per server for all pages together.
function resume() { if (!source && !page.over && !document.hidden) connect(); }

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) resume();
  else { source?.close(); source = null; }
});
// A stream that was open during a stall may never deliver again: it is opened anew, after its last event.
document.addEventListener("connection", () => {
  source?.close();
  source = null;
  reconnectMs = RECONNECT_MS[0];
  if (isLive()) { resume(); moved(); }
  showLive();
});
document.addEventListener("changed", () => { page.over = false; moved(); resume(); });

let refreshing = 0;
function moved() {
  clearTimeout(refreshing);
  refreshing = setTimeout(() => {
    for (const id of ["status", "steps"]) get(id).dispatchEvent(new Event("moved"));
    for (const id of ["trace", "deliveries"]) if (get(id).open) refresh(id);
  }, 100);
}
// That a request waits for others, or for its time, is no event.
setInterval(() => {
  if (!page.over && !document.hidden && isLive()) get("status").dispatchEvent(new Event("moved"));
}, WAITS_EVERY_MS);
function refresh(id) { get(id).querySelector("[hx-get]").dispatchEvent(new Event("refresh")); }
for (const id of ["trace", "deliveries"]) get(id).addEventListener("toggle", () => { if (get(id).open) refresh(id); });

// A mission that failed at once has nothing to play.
function showMap() {
  const isEmpty = page.over && decoder.frames.length === 0;
  get("no-map").hidden = !isEmpty;
  for (const part of document.querySelectorAll("#stage, .legend, #team")) part.hidden = isEmpty;
}

// ---- steps and entries --------------------------------------------------------------------------

// How far a step is: an exploration by its area, as the share of a floor that can be known is not known.
function reachedText({ known_m2: area, fraction } = {}) {
  if (Number.isFinite(area)) return `${Math.round(area)} m²`;
  return Number.isFinite(fraction) ? `${Math.floor(fraction * 100)} %` : "";
}

function chips(request) {
  const container = document.querySelector(`[data-request="${CSS.escape(request)}"] .stages`);
  const known = stages.get(request);
  if (!container || !known) return;
  container.replaceChildren(...[...known.names].map(([name, count]) => {
    const chip = document.createElement("span");
    chip.className = "chip";
    const isOpen = name === "progress" && known.reached && ![...known.names.keys()].some((one) => ENDS.has(one));
    chip.textContent = isOpen ? `progress ${known.reached} (${count})` : count > 1 ? `${name} (${count})` : name;
    return chip;
  }));
}

document.addEventListener("htmx:after:swap", () => { for (const request of stages.keys()) chips(request); markLaterSteps(); showTimeline(); });

// In a replay, dims the steps that started after the shown frame.
function markLaterSteps() {
  const frame = decoder.frames[decoder.at];
  const ms = page.live || !frame || decoder.at === decoder.frames.length - 1 ? Infinity : frame.ms;
  for (const step of document.querySelectorAll("[data-from]")) step.classList.toggle("is-later", Number(step.dataset.from) * 1000 > ms);
}

// ---- the timeline -------------------------------------------------------------------------------

const timeline = new Timeline(get("timeline"), (time) => {
  const { frames } = decoder;
  if (!frames.length) return;
  let index = 0;
  while (index + 1 < frames.length && frames[index + 1].ms <= time * 1000) index += 1;
  live(false);
  play(false);
  page.clock = frames[index].s;
  get("time").value = page.clock;
});

let timelined = 0, timelinedOf = "";
function showTimeline() {
  [timelined, timelinedOf] = [performance.now(), shownOf()];
  const { frames } = decoder, now = serverNow(), frame = frames[decoder.at];
  const isNewest = page.live || !frame || decoder.at === frames.length - 1;
  timeline.update({ steps: get("steps"), stages: marks, frames, now, isOver: page.over, at: isNewest && !page.over ? now : (frame?.ms ?? 0) / 1000 });
}

// ---- the map ------------------------------------------------------------------------------------

function between(path, from, to, share) {
  const points = path?.length ? path : [from, to];
  let whole = 0;
  const lengths = points.slice(1).map(([x, y], i) => { const d = Math.hypot(x - points[i][0], y - points[i][1]); whole += d; return d; });
  let left = whole * share;
  for (let i = 0; i < lengths.length; i += 1) {
    if (left <= lengths[i] && lengths[i] > 0) {
      const [[x0, y0], [x1, y1]] = [points[i], points[i + 1]], part = left / lengths[i];
      return [x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, Math.atan2(y1 - y0, x1 - x0)];
    }
    left -= lengths[i];
  }
  return to;
}

function robotsAt(index) {
  const frame = decoder.frames[index], next = decoder.frames[index + 1];
  if (!next || next.s <= frame.s || next.newTrails) return frame.robots;
  const share = Math.min(1, Math.max(0, (page.clock - frame.s) / (next.s - frame.s)));
  return frame.robots.map((robot, slot) => {
    const then = next.robots[slot];
    if (!then || then.apart || robot.apart || then.lost) return robot;
    return { ...robot, pose: between(then.path, robot.pose, then.pose, share) };
  });
}

// Of an ended mission the table and the timeline change only with what is shown; else also with the time.
const shownOf = () => (page.over ? [decoder.at, decoder.frames.length, page.clock, page.live, page.outcome].join() : "");

let tabled = 0, tabledOf = "";
function table(frame, robots) {
  const now = performance.now();
  if (now - tabled < paced(TABLE_MS) || (page.over && tabledOf === shownOf())) return;
  [tabled, tabledOf] = [now, shownOf()];
  const body = get("team").tBodies[0];
  robots.forEach((robot, slot) => {
    const row = body.rows[slot] ?? body.insertRow();
    if (row.cells.length === 0) {
      const name = document.createElement("th"), number = document.createElement("span"), follow = document.createElement("button");
      name.scope = "row";
      number.className = "mark";
      number.textContent = numberOf(robot);
      [follow.type, follow.className, follow.textContent] = ["button", "plain", robot.name];
      follow.setAttribute("aria-label", `Follow ${robot.name}`);
      follow.addEventListener("click", () => tools.follow(view.follow === robot.name ? "" : robot.name));
      name.append(markOf(slot), number, follow);
      row.append(name);
      for (let i = 0; i < 4; i += 1) row.insertCell();
      row.cells[2].className = row.cells[4].className = "number";
    }
    const state = robot.lost ? `✗ lost: ${robot.lost}` : robot.apart ? "map not merged yet" : page.outcome ? page.outcome : robot.unheard_s ? `out of reach for ${seconds(robot.unheard_s)}` : doing[robot.activity] ?? (robot.goal ? "▶ driving" : "waiting");
    const age = Math.max(0, (page.over || !page.live ? decoder.frames.at(-1).ms : serverNow() * 1000) - (updates.get(robot.name)?.ms ?? 0)) / 1000;
    const texts = [state, `${robot.driven_m.toFixed(1)} m`,
      robot.goal && !robot.lost ? `${robot.goal[0].toFixed(1)}, ${robot.goal[1].toFixed(1)}` : "–", `${seconds(age)} ago`];
    texts.forEach((text, i) => { if (row.cells[i + 1].textContent !== text) row.cells[i + 1].textContent = text; });
  });
  const { frames } = decoder, isNewest = page.live || decoder.at === frames.length - 1;
  showFigures({
    frames, index: decoder.at, clock: page.clock, robots, knownM2: decoder.known * decoder.grid.resolution ** 2,
    ageS: page.over ? null : Math.max(0, serverNow() - frames.at(-1).ms / 1000), end: !page.over || !isNewest ? "" : page.outcome.startsWith("✓") ? "complete" : "stopped",
  });
  get("time").max = decoder.end;
  if (page.live || page.playing) get("time").value = page.clock;
  get("at").textContent = `${seconds(page.clock)} of ${seconds(decoder.end)}`;
  get("time").setAttribute("aria-valuetext", get("at").textContent);
  get("map").setAttribute("aria-label",
    `Map after ${seconds(frame.s)}: ${robots.length} robots, ${frame.frontiers.length} frontiers left, ${Math.round(decoder.known * decoder.grid.resolution ** 2)} m² known`);
  markLaterSteps();
}

// Draws only what has changed, so that an open page needs little processor time. Returns its state for the pace.
let before = performance.now(), drawing = false, drawn = {};
async function draw(now) {
  let isLoaded = true;
  for (const [kind, fields] of added.splice(0)) entries.add(kind, fields);
  for (const request of reached) chips(request);
  reached.clear();
  if (performance.now() - timelined >= paced(TIMELINE_MS) && !(page.over && timelinedOf === shownOf())) showTimeline();
  const passed = (now - before) / 1000;
  before = now;
  if (decoder.frames.length && !drawing) {
    drawing = true;
    try {
      if (page.live) page.clock = Math.min(decoder.end, page.clock + passed * page.catchUp);
      else if (page.playing) page.clock = Math.min(decoder.end, page.clock + passed * Number(get("speed").value));
      if (page.playing && page.clock >= decoder.end) play(false);
      isLoaded = await decoder.thin(LOADING_MS);
      leftOut.at(page.clock, page.playing ? Number(get("speed").value) : 0);
      const index = isLoaded ? decoder.indexAt(page.clock) : decoder.lastThinned;
      if (index !== decoder.at) view.cells(decoder, await decoder.show(index));
      else if (view.isStale) view.cells(decoder, null);
      const frame = decoder.frames[index], robots = robotsAt(index), moving = index < decoder.frames.length - 1 || !page.over;
      const { dataset } = get("map");
      if (dataset.frame !== `${index}`) dataset.frame = index;
      if (dataset.frames !== `${decoder.frames.length}`) dataset.frames = decoder.frames.length;
      if (view.changed || page.clock !== drawn.clock || frame !== drawn.frame || moving !== drawn.moving) {
        drawn = { clock: page.clock, frame, moving };
        view.draw({ frames: decoder.frames, index, clock: page.clock, robots, moving });
        tools.offer(robots);
        tools.refresh();
        leftOut.show(isLoaded);
      }
      table(frame, robots);
    } finally { drawing = false; }
  }
  if (page.playing) return "playing";
  const isThere = !page.live || (page.over && page.clock >= decoder.end);
  return isLoaded && isThere ? "still" : "moving";
}

function play(on) {
  page.playing = on;
  get("play").textContent = on ? "Pause" : "Play";
  get("play").setAttribute("aria-pressed", String(on));
}
function live(on) { page.live = on; page.catchUp = (decoder.end - page.clock) / CATCH_UP_S; showLive(); }
function showLive() {
  get("live").textContent = isLive() || page.over ? "Live" : "Newest";
  get("live").setAttribute("aria-pressed", String(page.live));
}

get("play").addEventListener("click", () => {
  if (!page.playing && page.clock >= decoder.end) page.clock = 0;
  live(false);
  play(!page.playing);
});
get("live").addEventListener("click", () => { play(false); live(true); });
get("time").addEventListener("input", () => { live(false); play(false); page.clock = Number(get("time").value); });

resume();
new Pace(draw, pagesHere);
