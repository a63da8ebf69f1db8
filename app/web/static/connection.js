// Shows whether the page is connected: its server answers, and the server behind that answers too.
// Times on the page are the server's. They stop with the connection, so that no stale page looks live.

export const root = document.documentElement.dataset.root;
const GONE = "No connection to mission control; trying again", EVERY_MS = 800, PATIENCE_MS = 1500;
const shown = document.getElementById("connection"), age = document.getElementById("age");
const since = Date.now();
let live = false, checking = false, reason = "", answered = 0, ahead = 0, pages = 0;

export const isLive = () => live;

// How many pages share the processors of the machine that serves them; 1 on any other machine, 0 until the server has told it.
export const pagesHere = () => pages;

// Seconds since the Unix epoch by the server's clock; while there is no connection, of its last answer.
export const serverNow = () => ((live || !answered ? Date.now() : answered) + ahead) / 1000;

function change(to, why) {
  const changed = live !== to || reason !== why;
  [live, reason] = [to, why];
  document.body.classList.toggle("is-stale", !live);
  if (changed) {
    shown.textContent = live ? "Live" : why;
    document.dispatchEvent(new CustomEvent("connection"));
  }
  showAge();
}

function showAge() {
  const text = live ? "" : `as of ${Math.round((Date.now() - (answered || since)) / 1000)} s ago`;
  if (age.textContent !== text) age.textContent = text;
}

async function answer() {
  const response = await fetch(`${root}/api/time`, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) return `Not logged in: open ${root}/login`;
  if (response.ok) return body;
  // An error without this detail is a proxy's: mission control has not answered it.
  return body.detail ? `No data: ${body.detail}` : GONE;
}

export async function check() {
  if (checking || document.hidden || !shown) return;
  checking = true;
  try {
    const asked = Date.now(), told = await answer();
    if (told.now) {
      answered = Date.now();
      pages = told.pages_here;
      ahead = told.now * 1000 - (asked + answered) / 2;
      change(true, "");
    } else change(false, told);
  } catch {
    change(false, GONE);
  } finally { checking = false; }
}

// A page that was hidden shows what it was then, until the server has answered again.
document.addEventListener("visibilitychange", () => {
  if (!shown) return;
  if (document.hidden) change(false, "Connecting");
  else check();
});
if (shown) {
  setInterval(check, EVERY_MS);
  setInterval(showAge, EVERY_MS);
  check();
}
