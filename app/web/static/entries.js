// The entries of a mission's streams, the newest first: in words, with the raw entry behind them, and a filter. The page keeps
// the words; a raw entry, which may be large, is loaded when it is opened.

import { root } from "./connection.js";

// Progress comes several times a second: it must not drive out what comes once.
const MAX_ROWS = { progress: 100, other: 400 }, ANSWER_MS = 15000;
const get = (id) => document.getElementById(id);
const metres = (value) => `${Math.round(value)} m`;

// What an entry says.
function words(kind, { status = "", payload = {}, step, ...fields }) {
  if (kind === "move") return [step, fields.direction === "undo" ? "undo" : "", `the mission is ${status}`].filter(Boolean).join(", ");
  if (status === "failed") return `${payload.error_type ?? "failed"}: ${payload.message ?? ""}`;
  const parts = [];
  const robots = Object.values(payload.robots ?? {});
  const driven = robots.map((robot) => robot?.driven_m).filter(Number.isFinite);
  if (Number.isFinite(payload.known_m2)) parts.push(`${Math.round(payload.known_m2)} m² known`);
  else if (Number.isFinite(payload.fraction)) parts.push(`${Math.floor(payload.fraction * 100)} %`);
  if (Array.isArray(payload.robots)) parts.push(`robots ${payload.robots.join(", ")}`);
  if (driven.length) parts.push(`${robots.length} robots, ${metres(driven.reduce((a, b) => a + b, 0))} driven`);
  if (Array.isArray(payload.distances_m)) parts.push(`${payload.distances_m.length} robots, ${metres(payload.distances_m.reduce((a, b) => a + b, 0))} driven`);
  if (Number.isFinite(payload.coverage)) parts.push(`coverage ${(Math.floor(payload.coverage * 1000) / 10).toFixed(1)} %`);
  if (Number.isFinite(payload.deployed)) parts.push(`${payload.deployed} robots deployed`);
  if (Number.isFinite(payload.simulated_s)) parts.push(`after ${Math.round(payload.simulated_s)} s simulated`);
  const lost = Object.keys(payload.lost ?? {});
  if (lost.length) parts.push(`lost: ${lost.join(", ")}`);
  return parts.join(", ");
}

export class Entries {
  #body = get("log").tBodies[0]; #saga; #rows = { progress: [], other: [] };

  constructor(saga) {
    this.#saga = saga;
    get("filter").addEventListener("input", () => { for (const row of this.#body.rows) this.#fit(row); });
  }

  add(kind, fields) {
    const row = this.#body.insertRow(0);
    const { entry_id: id, request_id: request = "", status = "", event_type: eventType = "" } = fields;
    const time = new Date(Number(id.split("-")[0])).toLocaleTimeString([], { hourCycle: "h23" });
    for (const text of [time, eventType || "journal", kind === "move" ? "" : status, words(kind, fields)]) row.insertCell().textContent = text;
    const details = document.createElement("details"), summary = document.createElement("summary"), raw = document.createElement("pre");
    summary.textContent = id;
    const path = `${root}/api/missions/${this.#saga}/entries/${kind}/${id}`;
    details.addEventListener("toggle", () => { if (details.open && !raw.textContent) load(path, raw); });
    details.append(summary, raw);
    row.insertCell().append(details);
    row.dataset.text = `${id} ${request} ${[...row.cells].slice(1, 4).map((cell) => cell.textContent).join(" ")}`.toLowerCase();
    this.#fit(row);
    const importance = status === "progress" ? "progress" : "other", rows = this.#rows[importance];
    rows.push(row);
    if (rows.length > MAX_ROWS[importance]) {
      rows.shift().remove();
      get("more").textContent = `The newest ${MAX_ROWS.progress} entries of progress, and ${MAX_ROWS.other} others; the download has all.`;
    }
  }

  #fit(row) { row.hidden = !row.dataset.text.includes(get("filter").value.trim().toLowerCase()); }
}

async function load(path, shown) {
  try {
    const response = await fetch(path, { signal: AbortSignal.timeout(ANSWER_MS) }), body = await response.json();
    if (!response.ok) throw new Error(body.detail ?? response.statusText);
    shown.textContent = JSON.stringify(body, null, 1);
  } catch (error) {
    shown.textContent = `It cannot be loaded: ${error.message}. Close and open it to try again.`;
    shown.closest("details").addEventListener("toggle", () => { shown.textContent = ""; }, { once: true });
  }
}
