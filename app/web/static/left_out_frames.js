// Loads the frames of a recording that the page has left out, when an operator looks at that part of it.

import { root } from "./connection.js";
import { seconds } from "./page.js";

const MIN_SHOWN_S = 0.5, RETRY_MS = 5000, ANSWER_MS = 15000;
const get = (id) => document.getElementById(id);

export class LeftOutFrames {
  #decoder; #saga; #loading = false; #loaded = null; #failed = { frame: null, ms: 0 }; #problem = "";

  constructor(decoder, saga) { [this.#decoder, this.#saga] = [decoder, saga]; }

  // Puts back what was loaded, and begins to load what is left out around a mission second, unless a replay at this speed is
  // past it at once.
  at(clock, speed) {
    if (this.#loaded) {
      const [frame, entries] = this.#loaded;
      this.#loaded = null;
      if (!this.#decoder.putBack(frame, entries)) this.#fail(frame, "the page has left out others since");
    }
    const { frames } = this.#decoder, index = this.#decoder.indexAt(clock), frame = frames[index], next = frames[index + 1];
    if (this.#loading || !next || !this.#decoder.leftOut(index)) return;
    if (speed && (next.s - frame.s) / speed < MIN_SHOWN_S) return;
    if (this.#failed.frame === frame && performance.now() - this.#failed.ms < RETRY_MS) return;
    this.#load(frame, next);
  }

  async #load(frame, next) {
    this.#loading = true;
    try {
      this.#loaded = [frame, await this.#between(frame.entryId, next.entryId)];
      this.#problem = "";
    } catch (error) {
      this.#fail(frame, error.message);
    } finally { this.#loading = false; }
  }

  #fail(frame, why) {
    this.#failed = { frame, ms: performance.now() };
    this.#problem = ` They cannot be loaded now: ${why}.`;
  }

  async #between(after, until) {
    const entries = [];
    while (after !== until) {
      const response = await fetch(`${root}/api/missions/${this.#saga}/frames?after=${after}&until=${until}`, { signal: AbortSignal.timeout(ANSWER_MS) });
      const body = await response.json();
      if (!response.ok) throw new Error(body.detail ?? response.statusText);
      if (!body.length) throw new Error("they are no longer kept");
      for (const { entry_id: entryId, payload: piece } of body) entries.push({ piece, ms: Number(entryId.split("-")[0]), entryId });
      after = entries.at(-1).entryId;
    }
    return entries;
  }

  // Says what is left out, and while a long recording is loaded, how much of it has been.
  show(isLoaded) {
    const { every, frames, lastThinned } = this.#decoder, first = frames[0], then = frames.find(({ number }) => number >= every);
    const share = frames[lastThinned].number / (frames.at(-1).number || 1);
    const text = !isLoaded ? `Loading the recording: ${Math.floor(100 * share)} %.` : every > 1 && then ? `Of the older part, the page keeps one moment in ${every}, every ${seconds(then.s - first.s)} or so. It loads those between when you stop there.${this.#problem}` : "";
    if (get("left-out").textContent !== text) get("left-out").textContent = text;
  }
}
