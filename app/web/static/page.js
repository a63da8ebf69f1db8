// Shared by all pages: running durations, copy buttons, confirmation dialogs, forms that call the API.

import { serverNow } from "./connection.js";

const ANSWER_MS = 15000;
const NO_ANSWER = "Mission control does not answer. Whether it has got this is unknown: look at the state when the page is live again.";

export function seconds(s) {
  if (s < 10) return `${s.toFixed(1)} s`;
  const whole = Math.round(s), minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  const two = (n) => String(n).padStart(2, "0");
  if (hours) return `${hours} h ${two(minutes)} min`;
  return minutes ? `${minutes} min ${two(whole % 60)} s` : `${whole} s`;
}

function tick() {
  const now = serverNow();
  for (const one of document.querySelectorAll(".took[data-started]:not([data-ended])")) {
    const text = seconds(Math.max(0, now - Number(one.dataset.started)));
    if (one.textContent !== text) one.textContent = text;
  }
}
setInterval(tick, 1000);

function fill(dialog, values) {
  for (const one of dialog.querySelectorAll("[data-fill]")) {
    const value = values[one.dataset.fill] ?? "";
    if ("value" in one) one.value = value;
    else one.textContent = value;
  }
  for (const form of dialog.querySelectorAll("form")) form.given = { ...values };
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "copied";
  } catch {
    button.textContent = "select it";  // the clipboard needs TLS, except on localhost
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.copy) copy(button);
  if (button.dataset.ask) {
    const dialog = document.getElementById(button.dataset.ask);
    fill(dialog, button.dataset);
    dialog.showModal();
  }
  if ("close" in button.dataset) button.closest("dialog").close();
});

const expandPath = (path, values) => path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(values[name]));

function valuesOf(form) {
  const values = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === "number") values[field.name] = Number(field.value);
    else if (field.type === "checkbox") values[field.name] = field.checked;
    else values[field.name] = field.value;
  }
  return values;
}

async function send(form) {
  const headers = { "content-type": "application/json" };
  if (form.dataset.key) headers["idempotency-key"] = form.dataset.key;
  const path = expandPath(form.dataset.api, form.given ?? {});
  const signal = AbortSignal.timeout(ANSWER_MS);
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(valuesOf(form)), signal }).catch(() => {
    throw new Error(NO_ANSWER);
  });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const trace = body.trace_id ? ` (trace ${body.trace_id})` : "";
    // An error without a detail is a proxy's.
    throw new Error(body.detail ? `${body.detail}${trace}` : NO_ANSWER);
  }
  return body;
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.api) return;
  event.preventDefault();
  const problem = form.querySelector(".problem"), button = form.querySelector("[type=submit]");
  problem.hidden = true;
  button.disabled = true;
  try {
    const body = await send(form);
    form.closest("dialog")?.close();
    if (form.dataset.then) location.assign(expandPath(form.dataset.then, body));
    else document.dispatchEvent(new CustomEvent("changed"));
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  } finally {
    button.disabled = false;
  }
});
