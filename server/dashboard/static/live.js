// The feed of a run, and the word that something has changed. A lost connection goes on behind the last event that came.
import { refresh } from "./pages.js";

const LINES = 400, LEAST_MS = 350, SOON_MS = 60;
const feed = { source: null, run: null, after: 0, held: false, kept: [], missed: 0, over: false, tries: 0 };
let due = null, running = false, again = false, last = 0, took = 0;

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const shown = document.getElementById("feed-state");  // kept: what it stands in is replaced now and then

function tell(kind, text) {
  if (!shown) return;
  shown.hidden = false;
  shown.className = `feed ${kind}`;
  shown.textContent = text;
}

// --- looking again -----------------------------------------------------------------------------------------------

export function soon() {
  if (feed.held) return;
  if (running) { again = true; return; }
  if (due !== null) return;
  const wait = Math.max(SOON_MS, last + Math.max(LEAST_MS, took * 3) - performance.now());
  due = setTimeout(async () => {
    due = null;
    running = true;
    const began = performance.now();
    try { await refresh(); } catch (_) { /* the feed tells that the connection is lost */ }
    took = performance.now() - began;
    last = performance.now();
    running = false;
    if (again) { again = false; soon(); }
  }, wait);
}

// --- events of a run -----------------------------------------------------------------------------------------------

function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`);
}

function row(event) {
  const time = element("time", { datetime: event.at, title: event.at });
  time.textContent = event.at.slice(11, 23);
  const on = element("span", { class: "on" });
  const data = event.data || {};
  if (typeof data.node === "string") {
    const link = element("a", { href: `/runs/${encodeURIComponent(feed.run)}?node=${encodeURIComponent(data.node)}` });
    link.textContent = visible(data.node).slice(0, 120);
    on.append(link);
  }
  const kind = element("b"), by = element("span", { class: "by" }), actor = element("bdi"), seq = element("span", { class: "seq" });
  kind.textContent = visible(event.type);
  actor.textContent = visible(event.actor).slice(0, 60);
  seq.textContent = event.seq;
  by.append(actor);
  const told = element("pre", { class: "value" });
  const text = visible(JSON.stringify(data, null, 2));
  told.textContent = text.length > 2000 ? `${text.slice(0, 2000)}\n… ${text.length.toLocaleString()} characters` : text;
  const summary = element("summary");
  summary.textContent = "data";
  return element("li", { id: `e${event.seq}`, class: "fresh" }, seq, time, kind, on, by, element("details", {}, summary, told));
}

function show(event) {
  const list = document.getElementById("events");
  if (list?.dataset.newest && !document.getElementById(`e${event.seq}`)) {
    list.prepend(row(event));
    while (list.children.length > LINES) list.lastElementChild.remove();
  }
  soon();
}

function heard(event) {
  feed.after = Math.max(feed.after, event.seq);
  if (!feed.held) { show(event); return; }
  if (feed.kept.length < LINES) feed.kept.push(event);
  else feed.missed += 1;
  held();
}

function held() {
  const told = document.getElementById("feed-held"), count = feed.kept.length + feed.missed;
  if (told) told.textContent = feed.held ? `Paused, ${count} new` : "";
}

export function pause() {
  if (!feed.run || feed.over) return;
  feed.held = !feed.held;
  const button = document.getElementById("feed-pause");
  button?.setAttribute("aria-pressed", String(feed.held));
  if (button?.firstChild) button.firstChild.textContent = feed.held ? "Go on " : "Pause ";
  if (feed.held) tell("held", "Paused");
  else {
    const kept = feed.kept, missed = feed.missed;
    feed.kept = [];
    feed.missed = 0;
    if (missed) { location.reload(); return; }
    tell("", "Live");
    kept.forEach(show);
    soon();
  }
  held();
}

function close() { feed.source?.close(); feed.source = null; }

function over() {
  feed.over = true;
  close();
  tell("over", "Ended");
  const buttons = document.getElementById("feed-buttons");
  if (buttons) buttons.hidden = true;
}

function open() {
  if (feed.source || feed.over || document.hidden) return;
  const url = feed.run ? `/api/v1/runs/${encodeURIComponent(feed.run)}/events?after=${feed.after}` : "/changes";
  const source = feed.source = new EventSource(url);
  source.onopen = () => { feed.tries = 0; if (!feed.held) tell("", "Live"); };
  source.onmessage = (message) => {
    if (!feed.run) { soon(); return; }
    try { heard(JSON.parse(message.data)); } catch (_) { soon(); }
  };
  source.addEventListener("end", () => { soon(); over(); });
  source.onerror = () => {
    close();
    feed.tries += 1;
    tell("lost", "Connection lost, trying again");
    setTimeout(open, Math.min(15000, 400 * 2 ** Math.min(feed.tries, 6)) * (0.7 + Math.random() * 0.6));
  };
}

function place() {
  const slot = document.querySelector(".feed-slot");
  if (shown && slot && !slot.contains(shown)) slot.replaceChildren(shown);
  const buttons = document.getElementById("feed-buttons");
  if (buttons) buttons.hidden = !feed.run || feed.over;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
function ages() {
  for (const one of document.querySelectorAll("time[datetime]")) {
    if (!/ ago$|^in /.test(one.textContent)) continue;
    const ahead = Date.parse(one.dateTime) - Date.now(), seconds = Math.floor(Math.abs(ahead) / 1000);
    const [size, unit] = UNITS.find(([length]) => seconds >= length) || UNITS[3];
    const text = `${Math.floor(seconds / size)}${unit}`;
    const told = ahead > 0 ? `in ${text}` : `${text} ago`;
    if (told !== one.textContent) one.textContent = told;
  }
}

export function startLive() {
  const view = document.getElementById("view");
  if (view) {
    feed.run = view.dataset.run;
    feed.after = Number(view.dataset.seq) || 0;
    if (view.dataset.over) { place(); return; }
  } else if (!document.querySelector("[data-live]")) return;
  open();
  place();
  document.addEventListener("click", (event) => { if (event.target.closest?.("#feed-pause")) pause(); });
  document.addEventListener("omium:refreshed", place);
  document.addEventListener("omium:arrived", place);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else { open(); soon(); }
  });
  setInterval(ages, 10000);
}
