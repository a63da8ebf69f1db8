// How often the map is drawn: with each frame of the display, but less often where that would cost the robots time.
// The pages of the machine that serves them share its processors with the robots: two draw every third frame, ten one every two seconds.
// Until the server has told how many pages there are, a page that loads draws four times a second.
// Where the browser does not keep up, a page draws once a second, and twice as long each time that it has not kept up again.
// A page on which nothing moves asks for ten frames a second.

import { onThemeChange } from "./palette.js";

const USES = ["pointerdown", "wheel", "keydown", "change", "input", "resize"]; // what an operator does
const SLOW_MS = 34, USUAL_MS = 1000 / 60, LONGEST_MS = 200; // frames that come later than this, for a second or so
const SHARED_MS = 24, UNTOLD_MS = 250, STILL_MS = 100, REST_MS = 1000, RESTS_MS = [20000, 320000], AWAKE_MS = 5000;
const MOST_PAGES = 4; // that make it slower
const SHARE = 0.08; // of a new delay in the average

// Milliseconds between changes of the page beside the map, which are some where one page would have `ms`.
export const paced = (ms, pages) => ms * Math.max(1, Math.min(pages, MOST_PAGES));

export class Pace {
  #draw; #pages; #average = USUAL_MS; #asked = 0; #restsUntil = 0; #restsMs = RESTS_MS[0]; #awakeUntil = 0; #timer = 0;

  // draw: an async function of the time in milliseconds; it returns "playing", where each frame counts, "moving" or "still".
  // pages: how many pages share the processors of the machine that serves them; 1 on any other machine, 0 until it is known.
  constructor(draw, pages) {
    [this.#draw, this.#pages] = [draw, pages];
    for (const kind of USES) addEventListener(kind, () => { this.#wake(); }, { passive: true, capture: true });
    onThemeChange(() => { this.#wake(); });
    this.#ask();
  }

  #ask() {
    this.#asked = performance.now();
    requestAnimationFrame((now) => { this.#run(now); });
  }

  async #run(now) {
    const delay = Math.min(performance.now() - this.#asked, LONGEST_MS), state = await this.#draw(now);
    const least = state === "still" ? STILL_MS : 0, isAwake = state === "playing" || now < this.#awakeUntil;
    const pause = isAwake ? 0 : Math.max(least, this.#pause(now, delay));
    if (!pause) { this.#ask(); return; }
    this.#timer = setTimeout(() => { this.#timer = 0; this.#ask(); }, pause);
  }

  // Until the next frame is asked for, in milliseconds.
  #pause(now, delay) {
    if (now >= this.#restsUntil) {
      if (!this.#pages()) return UNTOLD_MS;
      this.#average += SHARE * (delay - this.#average);
      if (this.#average <= SLOW_MS) return (this.#pages() - 1) ** 2 * SHARED_MS;
      this.#restsUntil = now + this.#restsMs;
      this.#restsMs = Math.min(2 * this.#restsMs, RESTS_MS[1]);
    }
    this.#average = USUAL_MS;
    return REST_MS;
  }

  // Who looks closely sees each frame.
  #wake() {
    [this.#restsUntil, this.#restsMs, this.#average] = [0, RESTS_MS[0], USUAL_MS];
    this.#awakeUntil = performance.now() + AWAKE_MS;
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#ask();
  }
}
