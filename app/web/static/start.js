// The form that starts a mission: the picture of the chosen map, and what would be refused, before it is sent.

const form = document.getElementById("start"), picture = document.getElementById("area-picture"), refused = document.getElementById("refused");
const value = (name) => form.elements[name].value;

function check() {
  if (picture && picture.dataset.area !== value("area")) {
    picture.dataset.area = value("area");
    picture.src = `${picture.dataset.root}/areas/${encodeURIComponent(value("area"))}.png`;
    picture.alt = `The map ${value("area")}`;
  }
  const free = Number(document.getElementById("free-robots")?.dataset.free), robots = Number(value("robots"));
  const reasons = [];
  if (!value("area")) reasons.push("there is no map to explore");
  if (Number.isFinite(free) && robots > free) reasons.push(`${robots} robots are asked for, and ${free} ${free === 1 ? "is" : "are"} free`);
  for (const field of form.elements) if (field.name && !field.checkValidity()) reasons.push(`${field.labels[0]?.firstChild.textContent.trim()}: ${field.validationMessage}`);
  const text = reasons.length ? `Before you start: ${reasons.join("; ")}.` : "";
  if (refused.textContent !== text) refused.textContent = text;
}

form.addEventListener("input", check);
document.addEventListener("htmx:after:swap", check);
check();
