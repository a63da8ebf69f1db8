// The cells of a mission's map at one moment, and the robot that saw each first.

async function through(bytes, stream) {
  // Not by a blob: that costs milliseconds, as another process has to register it.
  return new Uint8Array(await new Response(new Response(bytes).body.pipeThrough(stream)).arrayBuffer());
}
const TILE = 64; // cells
// Not all browsers have the first, which is some times faster.
const fromBase64 = (text) => Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

export class CellState {
  grid = null;       // {rows, cols, resolution, origin_x, origin_y}
  cells = null;      // Int8Array, row by row from the lowest y: -1, 0, 100
  owners = null;     // Uint8Array, as cells: 1 + the slot of the robot that was nearest when a cell became known

  known = 0;         // how many cells are known

  copy() {
    const made = new CellState();
    return Object.assign(made, { grid: this.grid, known: this.known, cells: this.cells?.slice() ?? null, owners: this.owners?.slice() ?? null });
  }

  // Applies what a frame changes. Returns the changed boxes, or null if everything changed.
  async apply({ grid, keyFrame, pieces, robots }) {
    if (keyFrame) {
      this.grid = grid;
      this.cells = new Int8Array(grid.rows * grid.cols).fill(-1);
      this.owners = new Uint8Array(this.cells.length);
      this.known = 0;
    }
    const boxes = [];
    for (const piece of pieces) boxes.push(...await this.#applyPiece(piece, robots));
    return keyFrame ? null : boxes;
  }

  async #applyPiece({ row0, col0, shape: [rows, cols], data }, robots) {
    const values = new Int8Array((await through(fromBase64(data), new DecompressionStream("deflate"))).buffer);
    const { cells, owners, grid } = this, { resolution, origin_x, origin_y } = grid;
    const places = robots.flatMap(({ apart, pose: [x, y] }, slot) => (
      apart ? [] : [[slot + 1, (x - origin_x) / resolution, (y - origin_y) / resolution]]));
    // The box of a piece has all cells of a map if robots are far apart: of it, only tiles with changes are returned.
    const across = Math.ceil(cols / TILE), isChanged = new Uint8Array(across * Math.ceil(rows / TILE));
    for (let row = 0; row < rows; row += 1) {
      const first = (row0 + row) * grid.cols + col0, tile0 = Math.floor(row / TILE) * across;
      for (let col = 0; col < cols; col += 1) {
        const value = values[row * cols + col];
        if (value === cells[first + col]) continue;
        const before = cells[first + col];
        if (before < 0 && value >= 0) owners[first + col] = nearest(places, col0 + col, row0 + row);
        this.known += (value >= 0) - (before >= 0);
        cells[first + col] = value;
        isChanged[tile0 + Math.floor(col / TILE)] = 1;
      }
    }
    const boxes = [];
    isChanged.forEach((changed, tile) => {
      if (!changed) return;
      const row = Math.floor(tile / across) * TILE, col = (tile % across) * TILE;
      boxes.push({ row0: row0 + row, col0: col0 + col, rows: Math.min(TILE, rows - row), cols: Math.min(TILE, cols - col) });
    });
    return boxes;
  }

  // Packs everything, for a moment that may be shown again.
  async pack() {
    const both = new Uint8Array(2 * this.cells.length);
    both.set(new Uint8Array(this.cells.buffer));
    both.set(this.owners, this.cells.length);
    return { grid: this.grid, known: this.known, bytes: await through(both, new CompressionStream("deflate")) };
  }

  static async unpack({ grid, known, bytes }) {
    const both = await through(bytes, new DecompressionStream("deflate")), size = grid.rows * grid.cols;
    return Object.assign(new CellState(), { grid, known, cells: new Int8Array(both.buffer, 0, size), owners: both.subarray(size) });
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
