// Restores a mission's frames from their pieces, as app/missions/frames.py encodes them.

const SNAPSHOT_EVERY = 64;

async function inflate(base64) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int8Array(await new Response(stream).arrayBuffer());
}

export class FrameDecoder {
  frames = [];       // {s, ms, fraction, robots, frontiers, grid, pieces}
  at = -1;           // the frame that `cells` shows
  grid = null;       // {rows, cols, resolution, origin_x, origin_y}
  cells = null;      // Int8Array, row by row from the lowest y: -1, 0, 100
  #grid = null;      // the grid of the frames being decoded
  #pieces = [];      // cells of the incomplete frame
  #paths = {};       // paths of the incomplete frame, by robot
  #keyFrame = false;
  #snapshots = new Map();

  // Applies a piece; ms is the time of its entry. A frame is added with its last piece.
  decode(piece, ms) {
    if (piece.grid) { this.#grid = piece.grid; this.#keyFrame = true; this.#pieces = []; this.#paths = {}; }
    if (!this.#grid) return;
    if (piece.cells) this.#pieces.push(piece.cells);
    for (const [name, points] of Object.entries(piece.paths ?? {})) (this.#paths[name] ??= []).push(...points);
    if (!("simulated_s" in piece)) return;
    const paths = this.#paths;
    this.#paths = {};
    const last = this.frames.at(-1);
    this.frames.push({
      s: Math.max(piece.simulated_s, last?.s ?? 0),
      ms, fraction: piece.fraction, frontiers: piece.frontiers,
      // Recordings of the first version have no paths.
      robots: piece.robots.map((robot) => ({ ...robot, path: piece.paths && (paths[robot.name] ?? []) })),
      grid: this.#grid, pieces: this.#pieces, keyFrame: this.#keyFrame,
    });
    this.#pieces = [];
    this.#keyFrame = false;
  }

  get end() { return this.frames.at(-1)?.s ?? 0; }

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
    let from = this.at + 1, everything = false;
    if (index < this.at || this.at < 0) {
      everything = true;
      from = Math.floor(index / SNAPSHOT_EVERY) * SNAPSHOT_EVERY;
      while (from > 0 && !this.#snapshots.has(from)) from -= SNAPSHOT_EVERY;
      const snapshot = this.#snapshots.get(from);
      if (snapshot) { this.cells = snapshot.cells.slice(); this.grid = snapshot.grid; from += 1; }
    }
    const boxes = [];
    for (let i = from; i <= index; i += 1) {
      const frame = this.frames[i];
      if (frame.keyFrame) {
        this.grid = frame.grid;
        this.cells = new Int8Array(frame.grid.rows * frame.grid.cols).fill(-1);
        everything = true;
      }
      for (const piece of frame.pieces) boxes.push(await this.#applyCells(piece));
      if (i % SNAPSHOT_EVERY === 0) this.#snapshots.set(i, { cells: this.cells.slice(), grid: this.grid });
    }
    this.at = index;
    return everything ? null : boxes;
  }

  async #applyCells({ row0, col0, shape: [rows, cols], data }) {
    const values = await inflate(data);
    for (let row = 0; row < rows; row += 1) {
      this.cells.set(values.subarray(row * cols, (row + 1) * cols), (row0 + row) * this.grid.cols + col0);
    }
    return { row0, col0, rows, cols };
  }
}
