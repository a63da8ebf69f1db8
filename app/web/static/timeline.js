// The whole mission on one time axis: steps and attempts as bars, stages as marks, compensations in their lane, the known
// area as a curve, and the time that the map shows. Times are real ones, in seconds since the Unix epoch.

import { root } from "./connection.js";
import { seconds } from "./page.js";

// Of one request; also what a page keeps of it.
export const MAX_MARKS = 200;
const SVG = "http://www.w3.org/2000/svg", MIN_STEP_S = 0.5, WIDTH_STEPS = 500, TICKS = 6, CURVE_PX = 46, MIN_SHARE = 0.4;

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class Timeline {
  #place; #start = 0; #end = 1; #drawn = "";

  // seek: called with a time when an operator chooses it.
  constructor(place, seek) {
    this.#place = place;
    place.addEventListener("click", (event) => {
      const track = event.target.closest("svg.track");
      if (!track || event.target.closest("a")) return;
      const box = track.getBoundingClientRect();
      seek(this.#start + ((event.clientX - box.left) / box.width) * (this.#end - this.#start));
    });
  }

  // steps: the part of the page with the steps; stages: request id -> [[ms, status], ...]; frames: of the recording.
  update({ steps, stages, frames, at, now, isOver }) {
    const rows = rowsOf(steps);
    if (!rows.length) return;
    this.#start = Math.min(...rows.flatMap(({ bars }) => bars.map((bar) => bar.from)));
    const ends = rows.flatMap(({ bars }) => bars.map((bar) => bar.to ?? now));
    this.#end = Math.max(this.#start + 0.1, ...ends, isOver ? 0 : now);
    const marks = rows.reduce((sum, { bars }) => sum + bars.reduce((count, bar) => count + (stages.get(bar.request)?.length ?? 0), 0), 0);
    const step = Math.max(MIN_STEP_S, (this.#end - this.#start) / WIDTH_STEPS);
    // A mission that has ended is drawn once; of a running one only what has changed.
    const state = JSON.stringify([rows, marks, isOver && frames.at(-1)?.number, Math.round(this.#end / step)]);
    if (state !== this.#drawn) {
      this.#drawn = state;
      const focused = document.activeElement?.getAttribute("href");
      this.#place.replaceChildren(...rows.map((row) => this.#row(row, stages)), this.#curve(frames), this.#ticks());
      if (focused) this.#place.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    }
    const x = this.#percent(at);
    for (const cursor of this.#place.querySelectorAll(".cursor")) { cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); }
  }

  #share(time) { return (100 * (time - this.#start)) / (this.#end - this.#start); }
  #percent(time) { return `${Math.min(100, Math.max(0, this.#share(time))).toFixed(2)}%`; }

  #row({ name, isUndo, bars }, stages) {
    const track = svg("svg", { class: "track", width: "100%", height: 18 });
    for (const bar of bars) {
      const left = this.#share(bar.from), width = Math.max(MIN_SHARE, this.#share(bar.to ?? this.#end) - left);
      const link = svg(bar.isWait ? "g" : "a", bar.isWait ? { role: "img" } : { href: `${root}/operator/request?id=${encodeURIComponent(bar.request)}` });
      const took = `${seconds((bar.to ?? this.#end) - bar.from)}`, what = bar.isWait ? "wait" : `request ${bar.number}`;
      link.setAttribute("aria-label", `${isUndo ? "undo " : ""}${name}, ${what}: ${bar.status}, ${took}`);
      const title = svg("title", {});
      title.textContent = `${what}: ${bar.status}, ${took}`;
      link.append(title, svg("rect", { class: `bar-${bar.status}`, x: `${Math.min(left, 100 - MIN_SHARE)}%`, width: `${width}%`, y: 2, height: 14, rx: 2 }));
      track.append(link);
      for (const [ms, status] of (stages.get(bar.request) ?? [])) {
        const x = this.#percent(ms / 1000);
        track.append(svg("line", { class: `stage stage-${status}`, x1: x, x2: x, y1: 2, y2: status === "progress" ? 7 : 16 }));
      }
    }
    return labelled(`${isUndo ? "↩ undo " : ""}${name}`, track, isUndo ? "is-undo" : "");
  }

  #curve(frames) {
    const track = svg("svg", { class: "track curve", width: "100%", height: CURVE_PX });
    const areas = frames.map(({ fraction, grid }) => fraction * grid.rows * grid.cols * grid.resolution ** 2);
    const most = Math.max(1, ...areas);
    const plot = svg("svg", { viewBox: `0 0 1000 ${CURVE_PX}`, preserveAspectRatio: "none", width: "100%", height: CURVE_PX });
    const points = frames.map(({ ms }, i) => `${(10 * this.#share(ms / 1000)).toFixed(1)},${(CURVE_PX - 2 - (areas[i] / most) * (CURVE_PX - 5)).toFixed(1)}`);
    plot.append(svg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
    track.append(plot);
    return labelled(`known area, up to ${Math.round(areas.length ? most : 0)} m²`, track, "");
  }

  #ticks() {
    const axis = document.createElement("div");
    axis.className = "ticks";
    for (let i = 0; i < TICKS; i += 1) {
      const tick = document.createElement("span");
      tick.textContent = i ? seconds(((this.#end - this.#start) * i) / (TICKS - 1)) : "0";
      axis.append(tick);
    }
    return labelled("", axis, "");
  }
}

function labelled(name, track, kind) {
  const row = document.createElement("div"), label = document.createElement("span");
  row.className = `axis-row ${kind}`;
  label.className = "axis-name";
  label.textContent = name;
  if (track.classList.contains("track")) track.append(svg("line", { class: "cursor", y1: 0, y2: "100%" }));
  row.append(label, track);
  return row;
}

function rowsOf(steps) {
  return [...steps.querySelectorAll("[data-step]")].map((item) => ({
    name: item.dataset.step,
    isUndo: item.closest(".lane") !== null,
    bars: [...item.querySelectorAll("[data-request]")].map(({ dataset }, i) => ({
      request: dataset.request, number: i + 1, isWait: "wait" in dataset, status: dataset.status,
      from: Number(dataset.started), to: dataset.ended ? Number(dataset.ended) : null,
    })),
  })).filter(({ bars }) => bars.length);
}
