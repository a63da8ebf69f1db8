// How robots are told apart: by number, by shape and by colour. Eight colours and eight shapes make 64.

// A test computes the contrast of each against the map.
export const TRAILS = {
  light: ["#0060a8", "#a03f00", "#00684a", "#9b2d7f", "#5b3fb5", "#7a5200", "#b0153a", "#46535f"],
  dark: ["#8ccdf5", "#ffb98a", "#66d9b4", "#f9b3e0", "#d0c2ff", "#f2d057", "#ffb3ba", "#dde6ea"],
};
// Of the fields of view, which lie below the trails.
export const SCAN_ALPHA = 0.12;
// Of the oldest part of a trail; its contrast is that of this mixture.
export const FADED_ALPHA = 0.85;

const dark = matchMedia("(prefers-color-scheme: dark)");
export const onThemeChange = (call) => dark.addEventListener("change", call);

export function colourOf(slot) {
  const colours = TRAILS[dark.matches ? "dark" : "light"];
  return colours[slot % colours.length];
}

const polygon = (corners, turn = 0) => Array.from({ length: corners }, (_, i) => {
  const angle = turn + (2 * Math.PI * i) / corners;
  return [Math.cos(angle), Math.sin(angle)];
});
const star = (points, depth) => Array.from({ length: 2 * points }, (_, i) => {
  const angle = (Math.PI * i) / points, far = i % 2 ? depth : 1;
  return [far * Math.cos(angle), far * Math.sin(angle)];
});

// Outlines in units of the robot's size; the first corner is its front.
const SHAPES = [
  [[1.1, 0], [-0.75, 0.8], [-0.3, 0], [-0.75, -0.8]],
  polygon(4),
  [[0.9, 0.7], [-0.9, 0.7], [-0.9, -0.7], [0.9, -0.7]],
  polygon(3),
  polygon(12),
  star(5, 0.45),
  [[1, 0], [0, 0.95], [-0.95, 0.95], [-0.95, -0.95], [0, -0.95]],
  star(4, 0.3),
];

export const shapeOf = (slot) => SHAPES[Math.floor(slot / TRAILS.light.length) % SHAPES.length];

// The number of a robot in the fleet, as its name has it; the whole name if it has none.
export const numberOf = (robot) => robot.name.match(/\d+$/)?.[0] ?? robot.name;

// The mark of a robot in a table: its shape and colour, pointing up.
export function markOf(slot) {
  const image = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const outline = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
  image.setAttribute("viewBox", "-1.3 -1.3 2.6 2.6");
  image.setAttribute("class", "shape");
  image.setAttribute("aria-hidden", "true");
  outline.setAttribute("points", shapeOf(slot).map(([x, y]) => `${-y},${-x}`).join(" "));
  const paint = () => outline.setAttribute("fill", colourOf(slot));
  paint();
  onThemeChange(paint);
  image.append(outline);
  return image;
}
