// Restores a mission's frames from their pieces, as app/missions/frames.py encodes them.

const SNAPSHOT_EVERY = 64, MAX_SNAPSHOTS = 16;

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
  owners = null;     // Uint8Array, as cells: 1 + the slot of the robot that was nearest when a cell became known
  #grid = null;      // the grid of the frames being decoded
  #pieces = [];      // cells of the incomplete frame
  #paths = {};       // paths of the incomplete frame, by robot
  #keyFrame = false;
  #snapshots = new Map();
  #every = SNAPSHOT_EVERY;

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
      ms, fraction: piece.fraction, frontiers: piece.frontiers, remaining: piece.remaining ?? null,
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
      if (snapshot) {
        [this.cells, this.owners, this.grid] = [snapshot.cells.slice(), snapshot.owners.slice(), snapshot.grid];
        from += 1;
      }
    }
    const boxes = [];
    for (let i = from; i <= index; i += 1) {
      const frame = this.frames[i];
      if (frame.keyFrame) {
        this.grid = frame.grid;
        this.cells = new Int8Array(frame.grid.rows * frame.grid.cols).fill(-1);
        this.owners = new Uint8Array(this.cells.length);
        everything = true;
      }
      for (const piece of frame.pieces) boxes.push(await this.#applyCells(piece, frame.robots));
      if (i % this.#every === 0) this.#keep(i);
    }
    this.at = index;
    return everything ? null : boxes;
  }

  // Keeps a snapshot; of a long recording fewer, so that they need no more memory.
  #keep(index) {
    this.#snapshots.set(index, { cells: this.cells.slice(), owners: this.owners.slice(), grid: this.grid });
    if (this.#snapshots.size <= MAX_SNAPSHOTS) return;
    this.#every *= 2;
    for (const kept of this.#snapshots.keys()) if (kept % this.#every) this.#snapshots.delete(kept);
  }

  async #applyCells({ row0, col0, shape: [rows, cols], data }, robots) {
    const values = await inflate(data), { resolution, origin_x, origin_y } = this.grid, { cells, owners } = this;
    const places = robots.flatMap(({ apart, pose: [x, y] }, slot) => (
      apart ? [] : [[slot + 1, (x - origin_x) / resolution, (y - origin_y) / resolution]]));
    for (let row = 0; row < rows; row += 1) {
      const first = (row0 + row) * this.grid.cols + col0;
      for (let col = 0; col < cols; col += 1) {
        const value = values[row * cols + col];
        if (cells[first + col] < 0 && value >= 0) owners[first + col] = nearest(places, col0 + col, row0 + row);
        cells[first + col] = value;
      }
    }
    return { row0, col0, rows, cols };
  }
}

function nearest(places, col, row) {
  let owner = 0, least = Infinity;
  for (const [slot, x, y] of places) {
    const distance = (x - col) ** 2 + (y - row) ** 2;
    if (distance < least) [owner, least] = [slot, distance];
  }
  return owner;
}
