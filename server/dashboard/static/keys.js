// Keys. Single letters can be turned off, since voice input and slips of a finger produce them too.
import { move, tick, current } from "./lists.js";
import { pause } from "./live.js";
import { soft } from "./pages.js";

const OFF = "omium-keys-off";
const PLACES = { r: "/", i: "/approvals", w: "/workflows", c: "/compare" };
let leading = 0;

const typing = (target) => target.matches?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");
const off = () => { try { return localStorage.getItem(OFF) === "1"; } catch (_) { return false; } };

function say(text) { const shown = document.getElementById("live"); if (shown) shown.textContent = text; }

function decide(value) {
  const button = document.querySelector(`#decide button[value="${value}"]`);
  if (!button) { say("There is nothing to decide here."); return; }
  for (const one of document.querySelectorAll(".armed")) one.classList.remove("armed");
  button.classList.add("armed");
  button.focus();
  button.addEventListener("blur", () => button.classList.remove("armed"), { once: true });
  say(`${button.textContent.trim()}: Enter decides.`);
}

function escape(target) {
  if (typing(target)) { target.blur(); return; }
  for (const one of document.querySelectorAll("details.drop[open]")) { one.open = false; one.querySelector("summary").focus(); return; }
  const close = document.querySelector("[data-close]");
  if (close) soft(close.href);
}

function letter(key) {
  if (leading && Date.now() - leading < 1200) {
    leading = 0;
    if (PLACES[key]) { location.assign(PLACES[key]); return true; }
  }
  const inbox = document.getElementById("decide");
  const steps = {
    j: () => move(1), k: () => move(-1), x: tick, p: () => { pause(); return true; },
    g: () => { leading = Date.now(); return true; },
    "/": () => { const field = document.querySelector('input[type="search"]'); field?.focus(); field?.select(); return Boolean(field); },
    "?": () => { document.getElementById("keys")?.showModal(); return true; },
  };
  if (inbox) Object.assign(steps, {
    a: () => { decide("approve"); return true; }, r: () => { decide("reject"); return true; },
    f: () => { document.getElementById("feedback")?.focus(); return true; },
  });
  if (steps[key]) return steps[key]() !== false;
  const tab = /^[1-8]$/.test(key) && document.querySelector(`.tabs [data-key="${key}"]`);
  if (tab) { tab.click(); return true; }
  return false;
}

export function startKeys() {
  const dialog = document.getElementById("keys"), opener = document.getElementById("keys-open"), switched = document.getElementById("keys-off");
  if (opener && dialog) { opener.hidden = false; opener.addEventListener("click", () => dialog.showModal()); }
  if (switched) {
    switched.checked = off();
    switched.addEventListener("change", () => { try { localStorage.setItem(OFF, switched.checked ? "1" : "0"); } catch (_) { /* only for this page, then */ } });
  }
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || dialog?.open) return;
    if (event.key === "Escape") { escape(event.target); return; }
    if (typing(event.target)) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const link = document.getElementById(event.key === "ArrowLeft" ? "earlier" : "later");
      if (link && !event.target.closest?.("pre, .scroll, .graph, .tabs")) { event.preventDefault(); soft(link.href); }
      return;
    }
    if (event.key === "Enter" && event.target === document.body) { current()?.querySelector("[data-open]")?.click(); return; }
    if (event.key.length === 1 && !switched?.checked && letter(event.key)) event.preventDefault();
  });
}
