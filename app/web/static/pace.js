// How often the map is drawn: with each frame of the display or, where the browser has not kept up, once a second.
// Each time that it has not kept up again, it is twice as long.
// A page that shares its processors with robots, or with other pages, leaves them to these.

const SLOW_MS = 34, USUAL_MS = 1000 / 60, LONGEST_MS = 200; // frames that come more slowly than this, for a second or so
const REST_MS = 1000, RESTS_MS = [20000, 320000], AWAKE_MS = 5000;
const SHARE = 0.08; // of a new interval in the average

export class Pace {
  #draw; #average = USUAL_MS; #before = 0; #restsUntil = 0; #restsMs = RESTS_MS[0]; #awakeUntil = 0; #timer = 0;

  // draw: an async function of the time in milliseconds, which returns whether it may be drawn less often.
  constructor(draw) {
    this.#draw = draw;
    for (const kind of ["pointerdown", "wheel", "keydown"]) addEventListener(kind, () => { this.#wake(); }, { passive: true, capture: true });
    this.#ask();
  }

  #ask() { requestAnimationFrame((now) => { this.#run(now); }); }

  async #run(now) {
    const interval = Math.min(now - this.#before, LONGEST_MS), mayRest = await this.#draw(now);
    this.#before = now;
    if (now >= this.#restsUntil && now >= this.#awakeUntil) {
      this.#average += SHARE * (interval - this.#average);
      if (this.#average > SLOW_MS) {
        this.#restsUntil = now + this.#restsMs;
        this.#restsMs = Math.min(2 * this.#restsMs, RESTS_MS[1]);
      }
    }
    if (now >= this.#restsUntil || !mayRest) { this.#ask(); return; }
    this.#average = USUAL_MS;
    this.#timer = setTimeout(() => { this.#timer = 0; this.#ask(); }, REST_MS);
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
