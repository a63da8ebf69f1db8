// Puts a mission together from the pieces of its frames, as app/exploration/frames.py writes them.

const SNAPSHOT_EVERY = 64;

async function inflate(base64) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int8Array(await new Response(stream).arrayBuffer());
}

export class Player {
  frames = [];       // {s, ms, fraction, robots, frontiers, grid, pieces}
  at = -1;           // the frame that `cells` shows
  grid = null;       // {rows, cols, resolution, origin_x, origin_y}
  cells = null;      // Int8Array, row by row from the lowest y: -1, 0, 100
  #told = null;      // the grid of what is taken
  #pieces = [];      // of the frame that is being taken
  #paths = {};       // likewise
  #fresh = false;
  #kept = new Map();

  // A piece; ms is when it was written. A frame is there once its last piece is.
  take(piece, ms) {
    if (piece.grid) { this.#told = piece.grid; this.#fresh = true; this.#pieces = []; this.#paths = {}; }
    if (!this.#told) return;
    if (piece.cells) this.#pieces.push(piece.cells);
    for (const [name, points] of Object.entries(piece.paths ?? {})) (this.#paths[name] ??= []).push(...points);
    if (!("simulated_s" in piece)) return;
    const paths = this.#paths;
    this.#paths = {};
    const last = this.frames.at(-1);
    this.frames.push({
      s: Math.max(piece.simulated_s, last?.s ?? 0),
      ms, fraction: piece.fraction, frontiers: piece.frontiers,
      // What was recorded before paths were has none.
      robots: piece.robots.map((robot) => ({ ...robot, path: piece.paths && (paths[robot.name] ?? []) })),
      grid: this.#told, pieces: this.#pieces, fresh: this.#fresh,
    });
    this.#pieces = [];
    this.#fresh = false;
  }

  get end() { return this.frames.at(-1)?.s ?? 0; }

  // The last frame of a mission second or before, the first frame before there is one.
  indexAt(s) {
    let low = 0, high = this.frames.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.frames[middle].s <= s) low = middle; else high = middle - 1;
    }
    return low;
  }

  // Have `cells` show a frame. Gives the boxes that changed, or null for everything.
  async show(index) {
    if (index === this.at) return [];
    let from = this.at + 1, whole = false;
    if (index < this.at || this.at < 0) {
      whole = true;
      from = Math.floor(index / SNAPSHOT_EVERY) * SNAPSHOT_EVERY;
      while (from > 0 && !this.#kept.has(from)) from -= SNAPSHOT_EVERY;
      const kept = this.#kept.get(from);
      if (kept) { this.cells = kept.cells.slice(); this.grid = kept.grid; from += 1; }
    }
    const boxes = [];
    for (let i = from; i <= index; i += 1) {
      const frame = this.frames[i];
      if (frame.fresh) {
        this.grid = frame.grid;
        this.cells = new Int8Array(frame.grid.rows * frame.grid.cols).fill(-1);
        whole = true;
      }
      for (const piece of frame.pieces) boxes.push(await this.#lay(piece));
      if (i % SNAPSHOT_EVERY === 0) this.#kept.set(i, { cells: this.cells.slice(), grid: this.grid });
    }
    this.at = index;
    return whole ? null : boxes;
  }

  async #lay({ row0, col0, shape: [rows, cols], data }) {
    const values = await inflate(data);
    for (let row = 0; row < rows; row += 1) {
      this.cells.set(values.subarray(row * cols, (row + 1) * cols), (row0 + row) * this.grid.cols + col0);
    }
    return { row0, col0, rows, cols };
  }
}
