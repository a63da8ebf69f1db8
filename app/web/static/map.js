// Draws a mission: cells, driven paths, robots and their fields of view.
// World coordinates are in metres, x to the right and y up, as in the messages.

export const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a900"];
const MARGIN_M = 1, RANGE_M = 8, BEAMS = 90, SIZE_PX = 9;

const rgb = (text) => {
  const value = parseInt(text.trim().slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
};

// The number of a robot in the fleet, as its name has it; the whole name if it has none.
export const numberOf = (robot) => robot.name.match(/\d+$/)?.[0] ?? robot.name;

export class MapView {
  #box = null; #grid = null; #image = null; #off = document.createElement("canvas");
  #floor; #trails; #robots; #place; #ink = "#000"; #scale = 1; #left = 0; #top = 0; #ratio = 1; #dark;

  constructor(place) {
    this.#place = place;
    [this.#floor, this.#trails, this.#robots] = ["floor", "trails", "robots"].map(
      (id) => place.querySelector(`#${id}`).getContext("2d"));
    this.#dark = matchMedia("(prefers-color-scheme: dark)");
    this.resized = true;
    new ResizeObserver(() => { this.resized = true; }).observe(place);
    this.#dark.addEventListener("change", () => { this.resized = true; });
  }

  // Draws the cells that a decoder shows; boxes as returned by its `show`.
  cells(decoder, boxes) {
    const { grid, cells } = decoder;
    if (!boxes || grid !== this.#grid) {
      this.#grid = grid;
      this.#off.width = grid.cols;
      this.#off.height = grid.rows;
      this.#image = new ImageData(grid.cols, grid.rows);
      this.#box = null;
      boxes = [{ row0: 0, col0: 0, rows: grid.rows, cols: grid.cols }];
    }
    const style = getComputedStyle(document.documentElement);
    const [unknown, free, wall] = ["--unknown", "--free", "--wall"].map((n) => rgb(style.getPropertyValue(n)));
    this.#ink = style.getPropertyValue("--ink");
    for (const box of boxes) this.#paint(cells, box, unknown, free, wall);
    this.#fit();
  }

  #paint(cells, box, unknown, free, wall) {
    const { cols, rows } = this.#grid, data = this.#image.data, known = this.#box ??= { row0: rows, col0: cols, row1: 0, col1: 0 };
    for (let row = box.row0; row < box.row0 + box.rows; row += 1) {
      let i = ((rows - 1 - row) * cols + box.col0) * 4;
      for (let col = box.col0; col < box.col0 + box.cols; col += 1, i += 4) {
        const value = cells[row * cols + col], colour = value < 0 ? unknown : value ? wall : free;
        data[i] = colour[0]; data[i + 1] = colour[1]; data[i + 2] = colour[2]; data[i + 3] = 255;
        if (value >= 0) {
          if (row < known.row0) known.row0 = row;
          if (row >= known.row1) known.row1 = row + 1;
          if (col < known.col0) known.col0 = col;
          if (col >= known.col1) known.col1 = col + 1;
        }
      }
    }
    this.#off.getContext("2d").putImageData(this.#image, 0, 0, box.col0, rows - box.row0 - box.rows, box.cols, box.rows);
  }

  // Computes the position of the known cells on the canvas, in whole device pixels.
  #fit() {
    const ratio = devicePixelRatio || 1, box = this.#place.getBoundingClientRect();
    const width = Math.round(box.width * ratio), height = Math.round(box.height * ratio);
    const { rows, cols, resolution } = this.#grid, margin = Math.ceil(MARGIN_M / resolution), known = this.#box;
    const row0 = Math.max(0, known.row0 - margin), row1 = Math.min(rows, known.row1 + margin);
    const col0 = Math.max(0, known.col0 - margin), col1 = Math.min(cols, known.col1 + margin);
    const high = Math.max(row1 - row0, 1), wide = Math.max(col1 - col0, 1);
    const scale = Math.min(width / wide, height / high);
    const left = (width - wide * scale) / 2 - col0 * scale, top = (height - high * scale) / 2 - (rows - row1) * scale;
    const moved = width !== this.#floor.canvas.width || height !== this.#floor.canvas.height
      || scale !== this.#scale || left !== this.#left || top !== this.#top;
    if (moved) {
      for (const layer of [this.#floor, this.#trails, this.#robots]) { layer.canvas.width = width; layer.canvas.height = height; }
      [this.#scale, this.#left, this.#top, this.#ratio] = [scale, left, top, ratio];
      this.redrawn = true;
    }
    const floor = this.#floor;
    floor.imageSmoothingEnabled = false;
    floor.setTransform(1, 0, 0, 1, 0, 0);
    floor.clearRect(0, 0, width, height);
    floor.drawImage(this.#off, left, top, cols * scale, rows * scale);
    Object.assign(this.#place.dataset, { scale, left, top, rows, cols });
  }

  repaint(player) {
    if (!this.resized || !player.cells) return;
    this.resized = false;
    this.cells(player, null);
    this.redrawn = true;
  }

  #x(x) { return this.#left + ((x - this.#grid.origin_x) / this.#grid.resolution) * this.#scale; }
  #y(y) { return this.#top + (this.#grid.rows - (y - this.#grid.origin_y) / this.#grid.resolution) * this.#scale; }

  clearTrails() { this.#trails.clearRect(0, 0, this.#trails.canvas.width, this.#trails.canvas.height); }

  trail(path, slot) {
    if (path.length < 2) return;
    const ctx = this.#trails;
    ctx.strokeStyle = COLOURS[slot % COLOURS.length];
    ctx.lineWidth = 1.5 * this.#ratio;
    ctx.globalAlpha = 0.7;
    ctx.beginPath();
    ctx.moveTo(this.#x(path[0][0]), this.#y(path[0][1]));
    for (const [x, y] of path.slice(1)) ctx.lineTo(this.#x(x), this.#y(y));
    ctx.stroke();
    ctx.globalAlpha = 1;
  }

  // robots: {name, pose, goal, lost, apart}; moving: whether to draw their fields of view
  robots(robots, frontiers, cells, moving) {
    const ctx = this.#robots, ink = this.#ink;
    ctx.clearRect(0, 0, ctx.canvas.width, ctx.canvas.height);
    const unit = this.#ratio;
    ctx.lineWidth = 1.5 * unit;
    ctx.strokeStyle = ink;
    ctx.beginPath();
    for (const [fx, fy] of frontiers) {
      const x = this.#x(fx), y = this.#y(fy), r = 4 * unit;
      ctx.moveTo(x, y - r); ctx.lineTo(x + r, y); ctx.lineTo(x, y + r); ctx.lineTo(x - r, y); ctx.closePath();
    }
    ctx.stroke();
    robots.forEach((robot, slot) => {
      if (robot.apart) return;
      const colour = COLOURS[slot % COLOURS.length];
      if (moving && !robot.lost) this.#view(ctx, robot.pose, cells, colour);
      if (robot.goal && !robot.lost) this.#goal(ctx, robot, colour, unit);
    });
    robots.forEach((robot, slot) => { if (!robot.apart) this.#robot(ctx, robot, slot, ink, unit); });
  }

  #goal(ctx, { pose, goal }, colour, unit) {
    const x = this.#x(goal[0]), y = this.#y(goal[1]);
    ctx.strokeStyle = colour;
    ctx.setLineDash([4 * unit, 4 * unit]);
    ctx.beginPath(); ctx.moveTo(this.#x(pose[0]), this.#y(pose[1])); ctx.lineTo(x, y); ctx.stroke();
    ctx.setLineDash([]);
    for (const r of [3, 6]) { ctx.beginPath(); ctx.arc(x, y, r * unit, 0, 2 * Math.PI); ctx.stroke(); }
  }

  #robot(ctx, { name, pose: [rx, ry, heading], lost }, slot, ink, unit) {
    const x = this.#x(rx), y = this.#y(ry), r = SIZE_PX * unit;
    ctx.fillStyle = lost ? "transparent" : COLOURS[slot % COLOURS.length];
    ctx.strokeStyle = ink;
    ctx.beginPath();
    for (const [turn, far] of [[0, 1], [2.5, 0.8], [Math.PI, 0.3], [-2.5, 0.8]]) {
      ctx.lineTo(x + r * far * Math.cos(heading + turn), y - r * far * Math.sin(heading + turn));
    }
    ctx.closePath(); ctx.fill(); ctx.stroke();
    ctx.fillStyle = ink;
    ctx.font = `bold ${12 * unit}px system-ui, sans-serif`;
    ctx.fillText(`${numberOf({ name })}${lost ? " lost" : ""}`, x + r, y - r * 0.6);
  }

  // Draws the field of view of a lidar at a pose, limited by the known walls.
  #view(ctx, [rx, ry], cells, colour) {
    const { rows, cols, resolution, origin_x, origin_y } = this.#grid;
    const col0 = (rx - origin_x) / resolution, row0 = (ry - origin_y) / resolution, most = RANGE_M / resolution;
    ctx.beginPath();
    for (let beam = 0; beam < BEAMS; beam += 1) {
      const angle = (beam / BEAMS) * 2 * Math.PI, dx = Math.cos(angle), dy = Math.sin(angle);
      let far = 1;
      for (; far < most; far += 1) {
        const col = Math.floor(col0 + dx * far), row = Math.floor(row0 + dy * far);
        if (col < 0 || row < 0 || col >= cols || row >= rows || cells[row * cols + col] !== 0) break;
      }
      ctx.lineTo(this.#left + (col0 + dx * far) * this.#scale, this.#top + (rows - row0 - dy * far) * this.#scale);
    }
    ctx.closePath();
    ctx.globalAlpha = 0.15;
    ctx.fillStyle = colour;
    ctx.fill();
    ctx.globalAlpha = 1;
  }
}
