// Draws a mission in layers: cells, coverage by robot, fields of view, old trails, and what changes with a frame.
// Each layer is a hidden canvas, and is drawn only when it changes. The drawing that is shown is all of them with the robots
// above: a browser without a graphics card takes as long for each canvas that it shows as for all robots.
// World coordinates are in metres, x to the right and y up, as in the messages.

import { Camera } from "./camera.js";
import { FADED_ALPHA, SCAN_ALPHA, colourOf, numberOf, onThemeChange, shapeOf } from "./palette.js";

export { numberOf };
const LAYERS = { floor: 1, coverage: 0.35, scans: SCAN_ALPHA, trails: FADED_ALPHA, recent: 1 }; // opacity of the whole layer
const RANGE_M = 8, BEAMS = 90, SIZE_M = 0.3, SIZE_PX = [5, 9], FADE_S = 60, NEAR_PX = 16;
// Seconds of age up to which a part of a trail has a width, in pixels.
const AGES = [[15, 3.5], [30, 2.8], [FADE_S, 2.1]], OLD_PX = 1.4;
const MAX_NEW_POINTS = 20000; // of the trails, before they are collected anew from the frames that are kept
const SCANS_EVERY_MS = 200;   // fields of view follow their robots this often: they are large, and their edges are faint
const OPAQUE = { alpha: false };
const STATES = { "-1": "unknown", 0: "free", 100: "wall" };
// A colour as a pixel: red in the lowest byte, then green, blue, and opacity.
const pixelOf = (text) => {
  const value = parseInt(text.trim().slice(1), 16);
  return ((255 << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
};

export class MapView {
  camera = new Camera();
  layers = { trails: true, scans: true, frontiers: true, goals: true, plans: true, coverage: false };
  follow = "";          // the name of the robot that stays at the centre
  changed = true;       // whether something other than the mission requires a new drawing
  onResize = () => {};
  #place; #ratio = 1; #grid = null; #known = null; #colours = {};
  #off = document.createElement("canvas"); #image = null;
  #offTint = document.createElement("canvas"); #tintImage = null;
  #drawing; #below = document.createElement("canvas").getContext("2d", OPAQUE); #moved = []; #hasNewCells = false; #isTinted = false;
  #old = []; #oldTo = null; #points = 0; #pointsAnew = 0; #drawnOf = {}; #scannedMs = 0; #labels = new Map(); #labelStyle = ""; #robotsNow = []; #cells = null; #owners = null; #stale = true;

  constructor(place) {
    this.#place = place;
    this.canvases = Object.fromEntries(Object.keys(LAYERS).map((id) => [id, place.querySelector(`#${id}`).getContext("2d")]));
    this.#drawing = place.querySelector("#drawing").getContext("2d", OPAQUE);
    new ResizeObserver(() => { this.#resize(); }).observe(place);
    onThemeChange(() => { this.#stale = true; this.changed = true; });
    this.#resize();
  }

  #resize() {
    const ratio = devicePixelRatio || 1, { box } = this;
    const width = Math.round(box.width * ratio), height = Math.round(box.height * ratio);
    if (width === this.camera.width && height === this.camera.height && ratio === this.#ratio) return;
    this.#ratio = ratio;
    for (const { canvas } of [...Object.values(this.canvases), this.#below, this.#drawing]) { canvas.width = width; canvas.height = height; }
    this.camera.resize(width, height);
    if (this.camera.fitted) this.camera.fit();
    this.changed = true;
    this.onResize();
  }

  // Where the drawing is on the page, in CSS pixels.
  get box() { return this.#drawing.canvas.getBoundingClientRect(); }
  get ratio() { return this.#ratio; }
  get isStale() { return this.#stale && Boolean(this.#grid); }

  // Takes the cells that a decoder shows; boxes are as its `show` returns them.
  cells(decoder, boxes) {
    const { grid, cells, owners } = decoder;
    [this.#cells, this.#owners] = [cells, owners];
    if (!isSame(grid, this.#grid)) {
      this.#known = null;
      this.camera.forget();
      boxes = null;
    }
    this.#grid = grid;
    if (!boxes || this.#stale) {
      this.#stale = false;
      const style = getComputedStyle(document.documentElement);
      const names = ["unknown", "free", "wall", "ink"];
      this.#colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
      for (const canvas of [this.#off, this.#offTint]) { canvas.width = grid.cols; canvas.height = grid.rows; }
      this.#image = new ImageData(grid.cols, grid.rows);
      this.#tintImage = new ImageData(grid.cols, grid.rows);
      boxes = [{ row0: 0, col0: 0, rows: grid.rows, cols: grid.cols }];
    }
    for (const box of boxes) this.#paint(box);
    if (!this.layers.coverage) this.#isTinted = false;
    else if (this.#isTinted) for (const box of boxes) this.#tint(box);
    else this.#tintAll();
    const { x, y, scale } = this.camera;
    if (this.#known) this.camera.show(this.#world(this.#known), this.#world({ row0: 0, col0: 0, row1: grid.rows, col1: grid.cols }));
    if (x !== this.camera.x || y !== this.camera.y || scale !== this.camera.scale) this.changed = true;
    this.#hasNewCells = true;
  }

  #world({ row0, col0, row1, col1 }) {
    const { origin_x: x, origin_y: y, resolution: size } = this.#grid;
    return { x0: x + col0 * size, y0: y + row0 * size, x1: x + col1 * size, y1: y + row1 * size };
  }

  #paint(box) {
    const cells = this.#cells, pixels = new Uint32Array(this.#image.data.buffer);
    const [unknown, free, wall] = ["unknown", "free", "wall"].map((name) => pixelOf(this.#colours[name]));
    const known = this.#known ?? { row0: Infinity, col0: Infinity, row1: 0, col1: 0 };
    this.#put(this.#off, this.#image, box, (cell, pixel, row, col) => {
      const value = cells[cell];
      pixels[pixel] = value < 0 ? unknown : value ? wall : free;
      if (value < 0) return;
      if (row < known.row0) known.row0 = row;
      if (row >= known.row1) known.row1 = row + 1;
      if (col < known.col0) known.col0 = col;
      if (col >= known.col1) known.col1 = col + 1;
    });
    if (known.row1) this.#known = known;
  }

  // Colours cells by who saw them first.
  #tint(box) {
    const cells = this.#cells, owners = this.#owners, pixels = new Uint32Array(this.#tintImage.data.buffer), tints = [0];
    this.#put(this.#offTint, this.#tintImage, box, (cell, pixel) => {
      const owner = cells[cell] === 0 ? owners[cell] : 0;
      pixels[pixel] = tints[owner] ??= pixelOf(colourOf(owner - 1));
    });
  }

  #tintAll() {
    this.#tint({ row0: 0, col0: 0, rows: this.#grid.rows, cols: this.#grid.cols });
    this.#isTinted = true;
  }

  // Sets the pixels of a box of cells; set: called with each cell, its pixel, row and column.
  #put(canvas, image, box, set) {
    const { cols, rows } = this.#grid;
    for (let row = box.row0; row < box.row0 + box.rows; row += 1) {
      const cell0 = row * cols, pixel0 = (rows - 1 - row) * cols;
      for (let col = box.col0; col < box.col0 + box.cols; col += 1) set(cell0 + col, pixel0 + col, row, col);
    }
    canvas.getContext("2d").putImageData(image, 0, 0, box.col0, rows - box.row0 - box.rows, box.cols, box.rows);
  }

  // Draws what has changed: robots as they are now, the trails up to a frame and its frontiers.
  // moving: whether to draw fields of view.
  draw({ frames, index, clock, robots, moving }) {
    this.#robotsNow = robots;
    const followed = this.follow && robots.find((robot) => robot.name === this.follow && !robot.apart);
    if (followed && (followed.pose[0] !== this.camera.x || followed.pose[1] !== this.camera.y)) {
      this.camera.centre(followed.pose[0], followed.pose[1]);
      this.changed = true;
    }
    const added = this.#collectOldTrails(frames, index), frame = frames[index], second = Math.floor(clock);
    const isFloorNew = this.changed || this.#hasNewCells, isFrameNew = frame !== this.#drawnOf.frame || second !== this.#drawnOf.second;
    const areScansNew = moving !== this.#drawnOf.moving || performance.now() - this.#scannedMs >= SCANS_EVERY_MS;
    if (isFloorNew && this.layers.coverage && !this.#isTinted) this.#tintAll();
    if (isFloorNew) this.#drawFloor();
    if (this.changed || !added) this.#drawOldTrails(this.#old, true);
    else if (added.length) this.#drawOldTrails(added, false);
    if (this.changed || isFrameNew) this.#drawRecent(frames, index, clock, robots);
    if (this.changed || areScansNew) this.#drawScans(robots, moving);
    if (isFloorNew || isFrameNew || areScansNew || !added || added.length) this.#compose();
    for (const [x, y, width, height] of this.#moved) this.#drawing.drawImage(this.#below.canvas, x, y, width, height, x, y, width, height);
    this.#moved = [];
    robots.forEach((robot, slot) => { if (!robot.apart) this.#drawRobot(robot, slot); });
    this.#drawnOf = { frame, second, moving };
    this.changed = this.#hasNewCells = false;
  }

  // All layers into one, which is what is below the robots.
  #compose() {
    const { canvas } = this.#below;
    this.#below.fillStyle = this.#colours.unknown;
    this.#below.fillRect(0, 0, canvas.width, canvas.height);
    for (const [id, alpha] of Object.entries(LAYERS)) {
      if (this.layers[id] === false) continue;
      this.#below.globalAlpha = alpha;
      this.#below.drawImage(this.canvases[id].canvas, 0, 0);
    }
    this.#below.globalAlpha = 1;
    this.#moved = [[0, 0, canvas.width, canvas.height]];
  }

  // What changes with a frame.
  #drawRecent(frames, index, clock, robots) {
    clear(this.canvases.recent);
    if (this.layers.trails) this.#drawRecentTrails(frames, index, clock);
    if (this.layers.frontiers) this.#drawFrontiers(frames[index].frontiers);
    robots.forEach((robot, slot) => { if (robot.goal && !robot.apart && !robot.lost) this.#drawGoal(robot, slot); });
  }

  #drawScans(robots, moving) {
    this.#scannedMs = performance.now();
    clear(this.canvases.scans);
    if (!moving || !this.layers.scans) return;
    robots.forEach((robot, slot) => { if (!robot.apart && !robot.lost) this.#drawView(robot.pose, slot); });
  }

  #drawFloor() {
    const { camera } = this, grid = this.#grid, cell = grid.resolution * camera.scale;
    const left = camera.toX(grid.origin_x), top = camera.toY(grid.origin_y + grid.rows * grid.resolution);
    const layers = [[this.canvases.floor, this.#off, true], [this.canvases.coverage, this.#offTint, this.layers.coverage]];
    for (const [ctx, image, isShown] of layers) {
      ctx.imageSmoothingEnabled = false;
      ctx.clearRect(0, 0, ctx.canvas.width, ctx.canvas.height);
      if (isShown) ctx.drawImage(image, left, top, grid.cols * cell, grid.rows * cell);
    }
    Object.assign(this.#place.dataset, { scale: cell, left, top, rows: grid.rows, cols: grid.cols });
  }

  // ---- trails -----------------------------------------------------------------------------------

  // Adds the trails up to a frame to one outline per robot. Returns the outlines of what is new; null if they began anew.
  #collectOldTrails(frames, index) {
    // Frames that were left out since have shorter paths.
    if (this.#points > 2 * this.#pointsAnew + MAX_NEW_POINTS) this.#oldTo = null;
    let first = index, isAnew = false;
    while (first > 0 && !(this.#oldTo !== null && frames[first - 1].number <= this.#oldTo)) first -= 1;
    if (this.#oldTo === null || frames[index].number < this.#oldTo) {
      [this.#old, isAnew, this.#points] = [[], true, 0];
      for (first = index; first > 0 && !frames[first].newTrails;) first -= 1;
    } else if (frames[index].number === this.#oldTo) first = index + 1;
    const added = [];
    for (let i = first; i <= index; i += 1) {
      if (frames[i].newTrails) { [this.#old, isAnew, this.#points] = [[], true, 0]; added.length = 0; }
      frames[i].robots.forEach((_, slot) => {
        this.#points += addPart(this.#old[slot] ??= new Path2D(), frames, i, slot);
        if (!isAnew) addPart(added[slot] ??= new Path2D(), frames, i, slot);
      });
    }
    this.#oldTo = frames[index].number;
    if (isAnew) this.#pointsAnew = this.#points;
    return isAnew ? null : added;
  }

  #inWorld(ctx) {
    const { scale, x, y, width, height } = this.camera;
    ctx.setTransform(scale, 0, 0, -scale, width / 2 - x * scale, height / 2 + y * scale);
    ctx.lineJoin = ctx.lineCap = "round";
  }

  #stroke(ctx, path, slot, px) {
    const width = (px * this.#ratio) / this.camera.scale;
    if (this.layers.coverage) {
      // A casing separates a trail from the colours of the coverage.
      [ctx.strokeStyle, ctx.lineWidth] = [this.#colours.free, 2.2 * width];
      ctx.stroke(path);
    }
    [ctx.strokeStyle, ctx.lineWidth] = [colourOf(slot), width];
    ctx.stroke(path);
  }

  #drawOldTrails(paths, isAnew) {
    const ctx = this.canvases.trails;
    if (isAnew) clear(ctx);
    if (!this.layers.trails) return;
    this.#inWorld(ctx);
    paths.forEach((path, slot) => this.#stroke(ctx, path, slot, OLD_PX));
  }

  #drawRecentTrails(frames, index, clock) {
    const ctx = this.canvases.recent, parts = AGES.map(() => []);
    for (let i = index; i >= 0 && clock - frames[i].s < FADE_S; i -= 1) {
      const age = AGES.findIndex(([most]) => clock - frames[i].s < most);
      frames[i].robots.forEach((_, slot) => addPart(parts[age][slot] ??= new Path2D(), frames, i, slot));
      if (frames[i].newTrails) break;
    }
    this.#inWorld(ctx);
    parts.forEach((paths, age) => paths.forEach((path, slot) => this.#stroke(ctx, path, slot, AGES[age][1])));
    ctx.setTransform(1, 0, 0, 1, 0, 0);
  }

  // ---- robots -----------------------------------------------------------------------------------

  // Outlines only, so that what is below stays visible.
  #drawFrontiers(frontiers) {
    const ctx = this.canvases.recent, { camera } = this, r = 3.5 * this.#ratio;
    [ctx.lineWidth, ctx.strokeStyle] = [1.3 * this.#ratio, this.#colours.ink];
    ctx.beginPath();
    for (const [fx, fy] of frontiers) {
      const x = camera.toX(fx), y = camera.toY(fy);
      ctx.moveTo(x, y - r); ctx.lineTo(x + r, y); ctx.lineTo(x, y + r); ctx.lineTo(x - r, y); ctx.closePath();
    }
    ctx.stroke();
  }

  #drawGoal({ pose, goal, plan }, slot) {
    const ctx = this.canvases.recent, { camera } = this, unit = this.#ratio;
    [ctx.strokeStyle, ctx.lineWidth] = [colourOf(slot), 1.5 * unit];
    if (this.layers.plans) {
      ctx.setLineDash([4 * unit, 4 * unit]);
      ctx.beginPath();
      ctx.moveTo(camera.toX(pose[0]), camera.toY(pose[1]));
      // Older recordings, and robots with unknown poses, have no plan but its end.
      for (const [x, y] of plan?.length > 1 ? plan.slice(1) : [goal]) ctx.lineTo(camera.toX(x), camera.toY(y));
      ctx.stroke();
      ctx.setLineDash([]);
    }
    if (!this.layers.goals) return;
    for (const r of [2.5, 5.5]) {
      ctx.beginPath();
      ctx.arc(camera.toX(goal[0]), camera.toY(goal[1]), r * unit, 0, 2 * Math.PI);
      ctx.stroke();
    }
  }

  // Of a robot on the map: about its real size, within limits, so that many robots on a small map stay apart.
  get #size() {
    const [least, most] = SIZE_PX;
    return Math.min(most * this.#ratio, Math.max(least * this.#ratio, SIZE_M * this.camera.scale));
  }

  #drawRobot({ name, pose: [rx, ry, heading], lost }, slot) {
    const ctx = this.#drawing, x = this.camera.toX(rx), y = this.camera.toY(ry), unit = this.#ratio, r = this.#size;
    const { ink, free } = this.#colours, colour = colourOf(slot), cos = Math.cos(heading), sin = Math.sin(heading);
    ctx.beginPath();
    for (const [ahead, left] of shapeOf(slot)) ctx.lineTo(x + r * (ahead * cos - left * sin), y - r * (ahead * sin + left * cos));
    ctx.closePath();
    [ctx.fillStyle, ctx.strokeStyle, ctx.lineWidth] = [lost ? free : colour, lost ? colour : ink, (lost ? 2.5 : 1.3) * unit];
    ctx.fill(); ctx.stroke();
    if (!lost) {
      ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(x + 1.7 * r * cos, y - 1.7 * r * sin); ctx.stroke();
    }
    const label = this.#labelOf(`${numberOf({ name })}${lost ? " lost" : ""}`, r);
    const left = Math.round(x + 1.2 * r - label.left), top = Math.round(y - 0.7 * r - label.base), { width, height } = label.image;
    ctx.drawImage(label.image, left, top);
    // The smallest box around the outline, the line of its heading, and the number.
    const reach = Math.ceil(1.7 * r + 2 * unit), [x0, y0] = [Math.min(Math.floor(x) - reach, left), Math.min(Math.floor(y) - reach, top)];
    const [x1, y1] = [Math.max(Math.ceil(x) + reach, left + width), Math.max(Math.ceil(y) + reach, top + height)];
    this.#moved.push([x0, y0, x1 - x0, y1 - y0]);
  }

  // The picture of a robot's number: text is slow to draw, and 64 robots move in each frame.
  #labelOf(text, r) {
    const unit = this.#ratio, px = Math.max(10 * unit, Math.min(12 * unit, 1.6 * r)), style = `${px} ${this.#colours.ink}`;
    if (style !== this.#labelStyle) { this.#labels.clear(); this.#labelStyle = style; }
    if (this.#labels.has(text)) return this.#labels.get(text);
    const image = document.createElement("canvas"), ctx = image.getContext("2d"), edge = Math.ceil(2 * unit);
    const font = `bold ${px}px system-ui, sans-serif`;
    ctx.font = font;
    const base = Math.ceil(px) + edge;
    [image.width, image.height] = [Math.ceil(ctx.measureText(text).width) + 2 * edge, base + Math.ceil(px / 3) + edge];
    ctx.font = font;
    [ctx.fillStyle, ctx.strokeStyle, ctx.lineWidth, ctx.lineJoin] = [this.#colours.ink, this.#colours.free, 3 * unit, "round"];
    ctx.strokeText(text, edge, base);
    ctx.fillText(text, edge, base);
    const label = { image, left: edge, base };
    this.#labels.set(text, label);
    return label;
  }

  // Draws the field of view of a lidar at a pose, limited by the known walls.
  #drawView([rx, ry], slot) {
    const ctx = this.canvases.scans, { rows, cols, resolution, origin_x, origin_y } = this.#grid, { camera } = this;
    const col0 = (rx - origin_x) / resolution, row0 = (ry - origin_y) / resolution, most = RANGE_M / resolution;
    ctx.beginPath();
    for (let beam = 0; beam < BEAMS; beam += 1) {
      const angle = (beam / BEAMS) * 2 * Math.PI, dx = Math.cos(angle), dy = Math.sin(angle);
      let far = 1;
      for (; far < most; far += 1) {
        const col = Math.floor(col0 + dx * far), row = Math.floor(row0 + dy * far);
        if (col < 0 || row < 0 || col >= cols || row >= rows || this.#cells[row * cols + col] !== 0) break;
      }
      ctx.lineTo(camera.toX(rx + dx * far * resolution), camera.toY(ry + dy * far * resolution));
    }
    ctx.closePath();
    ctx.fillStyle = colourOf(slot);
    ctx.fill();
  }

  // What is at a point of the map, in device pixels: null outside of the grid.
  at(px, py) {
    if (!this.#grid) return null;
    const [x, y] = this.camera.toWorld(px, py), { origin_x, origin_y, resolution, rows, cols } = this.#grid;
    const col = Math.floor((x - origin_x) / resolution), row = Math.floor((y - origin_y) / resolution);
    const isInside = col >= 0 && row >= 0 && col < cols && row < rows, cell = row * cols + col;
    const slot = isInside && this.#cells[cell] === 0 ? this.#owners[cell] - 1 : -1;
    const near = (robot) => !robot.apart && Math.hypot(this.camera.toX(robot.pose[0]) - px, this.camera.toY(robot.pose[1]) - py) < NEAR_PX * this.#ratio;
    return { x, y, state: isInside ? STATES[this.#cells[cell]] ?? "wall" : "unknown", seenBy: this.#robotsNow[slot]?.name ?? "", robot: this.#robotsNow.find(near)?.name ?? "" };
  }
}

function clear(ctx) {
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.clearRect(0, 0, ctx.canvas.width, ctx.canvas.height);
}

const isSame = (one, other) => other && ["rows", "cols", "resolution", "origin_x", "origin_y"].every((name) => one[name] === other[name]);

// Adds what a robot has driven in a frame to an outline. Returns how many points.
function addPart(outline, frames, index, slot) {
  const robot = frames[index].robots[slot], before = frames[index].newTrails ? null : frames[index - 1]?.robots[slot];
  if (robot.apart) return 0;
  // Recordings of the first version have no paths.
  const points = robot.path ?? (before ? [before.pose, robot.pose] : []);
  points.forEach(([x, y], i) => (i ? outline.lineTo(x, y) : outline.moveTo(x, y)));
  return points.length;
}
