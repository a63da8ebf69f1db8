// What an operator does with the map: zoom, pan, full screen, follow, layers; what is under the pointer; the scale bar.

import { barLength } from "./camera.js";

const STEP = 1.25, PAN_SHARE = 0.15, WHEEL = 0.0015, BAR_PX = 120, TAP_PX = 6;
const get = (id) => document.getElementById(id);

export class MapTools {
  #view; #camera; #place; #pointers = new Map(); #moved = 0; #spread = 0; #pointed = null;

  constructor(view, place) {
    [this.#view, this.#camera, this.#place] = [view, view.camera, place];
    place.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    place.addEventListener("pointerdown", (event) => this.#onDown(event));
    place.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const name of ["pointerup", "pointercancel"]) place.addEventListener(name, (event) => this.#onUp(event));
    place.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && !this.#pointers.size) this.#point(null); });
    place.addEventListener("keydown", (event) => this.#onKey(event));
    place.addEventListener("blur", () => this.#point(null));
    const actions = { "zoom-in": () => this.#zoom(STEP), "zoom-out": () => this.#zoom(1 / STEP), fit: () => this.#fit(), full: () => this.#toggleFullScreen() };
    for (const [id, act] of Object.entries(actions)) get(id).addEventListener("click", act);
    for (const box of document.querySelectorAll("[data-layer]")) {
      box.addEventListener("change", () => { view.layers[box.dataset.layer] = box.checked; view.changed = true; });
      view.layers[box.dataset.layer] = box.checked;
    }
    get("follow").addEventListener("change", () => { view.follow = get("follow").value; view.changed = true; });
    document.addEventListener("fullscreenchange", () => {
      get("full").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
    });
    get("full").hidden = !document.fullscreenEnabled;
  }

  // Offers the robots of the mission to follow.
  offer(robots) {
    const select = get("follow");
    if (select.options.length === robots.length + 1) return;
    select.replaceChildren(select.options[0], ...robots.map(({ name }) => new Option(name, name)));
  }

  // Follows a robot, or no longer.
  follow(name) {
    get("follow").value = this.#view.follow = name;
    this.#view.changed = true;
  }

  // Shows the scale bar, and what is under the pointer, after a drawing.
  refresh() {
    const { ratio } = this.#view, length = barLength(this.#camera.scale, BAR_PX * ratio);
    const bar = get("scale-bar"), text = length < 1 ? `${Math.round(length * 100)} cm` : `${length} m`;
    const width = `${((length * this.#camera.scale) / ratio).toFixed(2)}px`;
    if (bar.style.width !== width) bar.style.width = width;
    if (bar.textContent !== text) bar.textContent = text;
    const there = this.#pointed && this.#view.at(...this.#pointed);
    let about = "";
    if (there) {
      const robot = there.robot ? ` · ${there.robot}` : there.seenBy ? ` · seen first by ${there.seenBy}` : "";
      about = `x ${there.x.toFixed(2)} m, y ${there.y.toFixed(2)} m · ${there.state}${robot}`;
    }
    if (get("pointed").textContent !== about) get("pointed").textContent = about;
  }

  #fit() { this.follow(""); this.#camera.fit(); this.#view.changed = true; }

  #zoom(factor, at = [this.#camera.width / 2, this.#camera.height / 2]) {
    this.#camera.zoomAt(factor, ...at);
    this.#view.changed = true;
  }

  #pan(dx, dy) {
    if (this.#view.follow) this.follow("");
    this.#camera.pan(dx, dy);
    this.#view.changed = true;
  }

  #point(at) {
    this.#pointed = at;
    get("crosshair").hidden = true;
    this.refresh();
  }

  #toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else get("stage").requestFullscreen();
  }

  #placeOf(event) {
    const { box, ratio } = this.#view;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  #onWheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1, pinch = event.ctrlKey ? 6 : 1;
    // While a robot is followed it stays at the centre.
    this.#zoom(Math.exp(-event.deltaY * lines * pinch * WHEEL), this.#view.follow ? undefined : this.#placeOf(event));
  }

  #onDown(event) {
    if (event.button || event.target.closest("button, select, input, summary")) return;
    this.#place.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#placeOf(event));
    this.#moved = this.#pointers.size > 1 ? Infinity : 0;
    this.#spread = this.#pinch().spread;
  }

  #onMove(event) {
    const at = this.#placeOf(event), before = this.#pointers.get(event.pointerId);
    if (!before) { if (event.pointerType === "mouse") this.#point(at); return; }
    const from = this.#pinch();
    this.#pointers.set(event.pointerId, at);
    const to = this.#pinch();
    this.#moved += Math.hypot(at[0] - before[0], at[1] - before[1]) / this.#view.ratio;
    if (this.#moved < TAP_PX) return;
    if (this.#pointers.size > 1 && this.#spread > 0) {
      this.#zoom(to.spread / this.#spread, from.middle);
      this.#spread = to.spread;
    }
    this.#pan(to.middle[0] - from.middle[0], to.middle[1] - from.middle[1]);
    if (event.pointerType === "mouse") this.#point(at);
  }

  #onUp(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    this.#spread = this.#pinch().spread;
    // A tap shows what is there, and follows a robot.
    if (event.type === "pointerup" && this.#moved < TAP_PX) {
      const at = this.#placeOf(event), robot = this.#view.at(...at)?.robot;
      this.#point(at);
      if (robot) this.follow(robot === this.#view.follow ? "" : robot);
    }
  }

  // The middle of all pointers, and how far the first two are apart.
  #pinch() {
    const all = [...this.#pointers.values()], [a, b] = all;
    const middle = [0, 1].map((axis) => all.reduce((sum, at) => sum + at[axis], 0) / (all.length || 1));
    return { middle, spread: b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0 };
  }

  #onKey(event) {
    if (event.target !== this.#place || event.ctrlKey || event.metaKey || event.altKey) return;
    const { width, height } = this.#camera, step = PAN_SHARE * Math.min(width, height);
    const keys = {
      "+": () => this.#zoom(STEP), "=": () => this.#zoom(STEP), "-": () => this.#zoom(1 / STEP),
      ArrowLeft: () => this.#pan(step, 0), ArrowRight: () => this.#pan(-step, 0),
      ArrowUp: () => this.#pan(0, step), ArrowDown: () => this.#pan(0, -step),
      0: () => this.#fit(), Home: () => this.#fit(), f: () => this.#toggleFullScreen(),
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
    // By keyboard, the centre is what is pointed at.
    this.#point([width / 2, height / 2]);
    get("crosshair").hidden = false;
  }
}
