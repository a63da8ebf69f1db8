// Restores a mission's frames from their pieces, as app/missions/frames.py encodes them, and keeps a bounded part of them:
// the newest ones, and of those before one in `every`, with all of its cells. What lies between two of these can be put
// back from its pieces.

import { CellState } from "./cell_state.js";

const MAX_BYTES = 8e6, MIN_NEWEST = 64, MIN_KEPT = 16, SNAPSHOT_EVERY = 64, MAX_BETWEEN = 512, MAX_POINTS = 24;
// Of what a frame takes beside its cells, measured in Chromium.
const ROBOT_BYTES = 400, POINT_BYTES = 70;

export class FrameDecoder {
  // {number, entryId, s, ms, fraction, remaining, robots, frontiers, grid, pieces, packed, bytes}; keyFrame: its pieces begin with
  // an unknown map; newTrails: that map, or one that was left out just before, begins the paths of its robots.
  frames = [];
  at = -1;           // the frame that `cells` shows
  every = 1;         // of the frames before the newest ones, each with a number that this divides is kept
  #state = new CellState();
  #base = new CellState();   // the cells before frames[#kept]
  #kept = 0;                 // how many frames at the start are kept with all of their cells, or were put back between these
  #bytes = 0;
  #count = 0;
  #piecewise = new Pieces();
  #between = null;           // {first, count}: the frames that were put back

  constructor(maxBytes = MAX_BYTES) { this.maxBytes = maxBytes; }

  get grid() { return this.#state.grid; }
  get cells() { return this.#state.cells; }
  get owners() { return this.#state.owners; }
  get known() { return this.#state.known; }
  get bytes() { return this.#bytes; }
  get end() { return this.frames.at(-1)?.s ?? 0; }

  // Applies a piece; ms is the time of its entry. A frame is added with its last piece.
  decode(piece, ms, entryId = "") {
    const frame = this.#piecewise.add(piece, ms, entryId, this.end);
    if (!frame) return;
    frame.number = this.#count;
    this.#count += 1;
    this.#bytes += frame.bytes;
    this.frames.push(frame);
  }

  // Returns the index of the last frame at or before a mission second; 0 if there is none.
  indexAt(s) {
    let low = 0, high = this.frames.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.frames[middle].s <= s) low = middle; else high = middle - 1;
    }
    return low;
  }

  // Makes `cells` show a frame. Returns the changed boxes, or null if everything changed.
  async show(index) {
    if (index === this.at) return [];
    // From frames[#kept] on, everything follows from the base: frames may have been left out just before.
    const first = index < this.#kept ? 0 : this.#kept;
    let from = index;
    while (from >= first && from !== this.at && !this.frames[from].packed) from -= 1;
    let everything = from < first || from !== this.at;
    if (everything) this.#state = from < first ? this.#base.copy() : await CellState.unpack(this.frames[from].packed);
    const boxes = [];
    for (let i = from + 1; i <= index; i += 1) {
      const frame = this.frames[i], changed = await this.#state.apply(frame);
      if (changed) boxes.push(...changed); else everything = true;
      if (i >= this.#kept && frame.number % SNAPSHOT_EVERY === 0) await this.#pack(frame, this.#state);
    }
    this.at = index;
    return everything ? null : boxes;
  }

  async #pack(frame, state) {
    if (frame.packed) return;
    frame.packed = await state.pack();
    this.#grow(frame, frame.packed.bytes.length);
  }

  #grow(frame, bytes) { frame.bytes += bytes; this.#bytes += bytes; }

  // Leaves out frames until the rest takes no more than `maxBytes`; the newest and a few others always stay. Returns whether
  // that is done: after `mostMs` it stops, so that a long recording is not loaded without a picture.
  async thin(mostMs = Infinity) {
    const until = performance.now() + mostMs;
    while (this.#bytes > this.maxBytes) {
      if (performance.now() > until) return false;
      const newest = this.frames.length - this.#kept;
      // Of a recording that comes at once, no more are packed than may be kept.
      const isEnough = this.every > 1 && newest / this.every <= MIN_NEWEST;
      if (isEnough && newest > MIN_NEWEST) { await this.#age(); continue; }
      if (this.#kept <= MIN_KEPT && newest <= MIN_NEWEST) return true;
      this.leaveBetween();
      this.every *= 2;
      for (let i = this.#kept - 1; i >= 0; i -= 1) if (this.frames[i].number % this.every) { this.#leaveOut(i); this.#kept -= 1; }
    }
    return true;
  }

  // The index of the last frame that has been thinned; until all have been, later ones cannot be shown soon.
  get lastThinned() { return Math.max(0, this.#kept - 1); }

  // The oldest of the newest frames gets all of its cells, or is left out.
  async #age() {
    if (this.#between && this.#between.first + this.#between.count === this.#kept) this.leaveBetween();
    const frame = this.frames[this.#kept];
    await this.#base.apply(frame);
    if (frame.number % this.every) { this.#leaveOut(this.#kept); return; }
    await this.#pack(frame, this.#base);
    this.#grow(frame, -sizeOf(frame.pieces));
    frame.pieces = [];
    this.#kept += 1;
  }

  // Leaves a frame out; the next one then has driven its paths, too.
  #leaveOut(index) {
    const [frame] = this.frames.splice(index, 1), next = this.frames[index];
    this.#bytes -= frame.bytes;
    if (!next.newTrails) {
      next.newTrails = frame.newTrails;
      next.robots.forEach((robot, slot) => {
        const before = frame.robots[slot]?.path;
        if (!robot.path || !before?.length) return;
        const path = simplified(before.concat(robot.path));
        this.#grow(next, POINT_BYTES * (path.length - robot.path.length));
        robot.path = path;
      });
    }
    if (index === this.at) this.at = -1;
    else if (index < this.at) this.at -= 1;
  }

  // How many frames are left out between a frame and the next one; 0 if they are too many to be put back.
  leftOut(index) {
    const frame = this.frames[index], next = this.frames[index + 1];
    const count = next ? next.number - frame.number - 1 : 0;
    return count <= MAX_BETWEEN ? count : 0;
  }

  // Puts the frames between a frame and the next one back; entries: their pieces, and those of the next one.
  putBack(frame, entries) {
    this.leaveBetween();
    const index = this.frames.indexOf(frame), next = this.frames[index + 1];
    if (index < 0 || !this.leftOut(index)) return false;
    const piecewise = new Pieces(frame.grid), made = [];
    for (const { piece, ms, entryId } of entries) {
      const one = piecewise.add(piece, ms, entryId, made.at(-1)?.s ?? frame.s);
      if (one) made.push(Object.assign(one, { number: frame.number + 1 + made.length }));
    }
    const last = made.pop();
    if (last?.entryId !== next.entryId || last.number !== next.number) return false;
    this.#between = { first: index + 1, count: made.length, robots: next.robots, newTrails: next.newTrails };
    // They are few, and do not count for the limit, so that they stay while new frames come.
    for (const one of made) one.bytes = 0;
    Object.assign(next, { robots: last.robots, newTrails: last.newTrails });
    this.frames.splice(index + 1, 0, ...made);
    if (index < this.#kept) this.#kept += made.length;
    if (this.at > index) this.at += made.length;
    return true;
  }

  // Leaves the frames that were put back out again.
  leaveBetween() {
    if (!this.#between) return;
    const { first, count, ...merged } = this.#between;
    this.#between = null;
    this.frames.splice(first, count);
    Object.assign(this.frames[first], merged);
    this.#kept -= count;
    if (this.at >= first + count) this.at -= count;
    else if (this.at >= first) this.at = -1;
  }
}

// Collects the pieces of one frame after the other.
class Pieces {
  #grid; #cells = []; #paths = {}; #keyFrame = false;

  constructor(grid = null) { this.#grid = grid; }

  // Returns the frame that a piece completes; leastS: the time of the frame before.
  add(piece, ms, entryId, leastS) {
    if (piece.grid) { this.#grid = piece.grid; this.#keyFrame = true; this.#cells = []; this.#paths = {}; }
    if (!this.#grid) return null;
    if (piece.cells) this.#cells.push(piece.cells);
    for (const [name, points] of Object.entries(piece.paths ?? {})) (this.#paths[name] ??= []).push(...points);
    if (!("simulated_s" in piece)) return null;
    const paths = this.#paths;
    const frame = {
      s: Math.max(piece.simulated_s, leastS),
      ms, entryId, fraction: piece.fraction, frontiers: piece.frontiers, remaining: piece.remaining ?? null,
      // Recordings of the first version have no paths.
      robots: piece.robots.map((robot) => ({ ...robot, path: piece.paths && (paths[robot.name] ?? []) })),
      grid: this.#grid, pieces: this.#cells, keyFrame: this.#keyFrame, newTrails: this.#keyFrame, packed: null,
    };
    const points = frame.robots.reduce((sum, { path, plan }) => sum + (path?.length ?? 0) + (plan?.length ?? 0), frame.frontiers.length);
    frame.bytes = sizeOf(frame.pieces) + ROBOT_BYTES * frame.robots.length + POINT_BYTES * points;
    [this.#cells, this.#paths, this.#keyFrame] = [[], {}, false];
    return frame;
  }
}

const sizeOf = (pieces) => pieces.reduce((sum, { data }) => sum + data.length, 0);

// Leaves out the points of a path that change its course least, until it is short.
function simplified(path) {
  const left = path.filter(([x, y], i) => !i || x !== path[i - 1][0] || y !== path[i - 1][1]);
  const area = (i) => {
    const [[x0, y0], [x1, y1], [x2, y2]] = [left[i - 1], left[i], left[i + 1]];
    return Math.abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0));
  };
  while (left.length > MAX_POINTS) {
    let least = 1;
    for (let i = 2; i < left.length - 1; i += 1) if (area(i) < area(least)) least = i;
    left.splice(least, 1);
  }
  return left;
}
