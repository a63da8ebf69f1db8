// Which part of the world is on the map, and how large: world metres (x right, y up) to device pixels.

const MARGIN_M = 1, GROWTH = 0.2, MAX_PX_PER_M = 400, MIN_VISIBLE = 0.25;

export class Camera {
  scale = 1;            // device pixels per metre
  x = 0; y = 0;         // the world point at the centre
  width = 1; height = 1;
  fitted = true;        // shows all that is known, until an operator pans or zooms
  #frame = null;        // the part of the world that a fitted map shows: {x0, y0, x1, y1}

  resize(width, height) { [this.width, this.height] = [Math.max(1, width), Math.max(1, height)]; }

  toX(x) { return this.width / 2 + (x - this.x) * this.scale; }
  toY(y) { return this.height / 2 - (y - this.y) * this.scale; }
  toWorld(px, py) { return [this.x + (px - this.width / 2) / this.scale, this.y - (py - this.height / 2) / this.scale]; }

  // Takes in the known part of the world. It grows in steps, and never shrinks, so that a map does not jump with each cell.
  show(known, limits) {
    const frame = this.#frame;
    if (!frame) this.#frame = grown(known, { x0: 0, y0: 0, x1: 0, y1: 0 }, limits);
    else if (known.x0 < frame.x0 || known.y0 < frame.y0 || known.x1 > frame.x1 || known.y1 > frame.y1) {
      const wide = frame.x1 - frame.x0, high = frame.y1 - frame.y0;
      this.#frame = grown({
        x0: Math.min(frame.x0, known.x0), y0: Math.min(frame.y0, known.y0),
        x1: Math.max(frame.x1, known.x1), y1: Math.max(frame.y1, known.y1),
      }, {
        x0: known.x0 < frame.x0 ? GROWTH * wide : 0, y0: known.y0 < frame.y0 ? GROWTH * high : 0,
        x1: known.x1 > frame.x1 ? GROWTH * wide : 0, y1: known.y1 > frame.y1 ? GROWTH * high : 0,
      }, limits);
    }
    if (this.fitted) this.fit();
  }

  // Another map: what is known of the old one no longer counts.
  forget() { this.#frame = null; }

  fit() {
    this.fitted = true;
    const frame = this.#frame;
    if (!frame) return;
    this.scale = this.#fittedScale();
    this.x = (frame.x0 + frame.x1) / 2;
    this.y = (frame.y0 + frame.y1) / 2;
  }

  zoomAt(factor, px, py) {
    if (!this.#frame) return;
    const [x, y] = this.toWorld(px, py);
    const scale = Math.min(MAX_PX_PER_M * (globalThis.devicePixelRatio || 1), Math.max(MIN_VISIBLE * this.#fittedScale(), this.scale * factor));
    this.scale = scale;
    this.x = x - (px - this.width / 2) / scale;
    this.y = y + (py - this.height / 2) / scale;
    this.#keepInSight();
  }

  pan(dx, dy) {
    if (!this.#frame) return;
    this.x -= dx / this.scale;
    this.y += dy / this.scale;
    this.#keepInSight();
  }

  centre(x, y) { this.fitted = false; [this.x, this.y] = [x, y]; }

  #fittedScale() {
    const { x0, y0, x1, y1 } = this.#frame;
    return Math.min(this.width / (x1 - x0), this.height / (y1 - y0));
  }

  // The map cannot be lost: its frame always covers the centre.
  #keepInSight() {
    this.fitted = false;
    this.x = Math.min(this.#frame.x1, Math.max(this.#frame.x0, this.x));
    this.y = Math.min(this.#frame.y1, Math.max(this.#frame.y0, this.y));
  }
}

function grown(box, by, limits) {
  return {
    x0: Math.max(limits.x0, box.x0 - by.x0) - MARGIN_M, y0: Math.max(limits.y0, box.y0 - by.y0) - MARGIN_M,
    x1: Math.min(limits.x1, box.x1 + by.x1) + MARGIN_M, y1: Math.min(limits.y1, box.y1 + by.y1) + MARGIN_M,
  };
}

// A round length for a scale bar that is at most `most` pixels long: 1, 2 or 5 times a power of ten, in metres.
export function barLength(scale, most) {
  const longest = most / scale, power = 10 ** Math.floor(Math.log10(longest));
  return [5, 2, 1].map((times) => times * power).find((length) => length <= longest);
}
