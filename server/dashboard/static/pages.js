// Getting pages of this server and putting parts of them in place of what is shown. The only place where text becomes
// elements: it is a page of this very server, in which everything that comes from a run is escaped.
const policy = window.trustedTypes ? window.trustedTypes.createPolicy("omium", { createHTML: (text) => text }) : null;

export async function load(url) {
  const answer = await fetch(url, { headers: { accept: "text/html", "x-omium": "1" }, credentials: "same-origin" });
  if (answer.status === 401) {
    location.reload();
    throw new Error("signed out");
  }
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const text = await answer.text();
  return new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, "text/html");
}

// What differs from one loading to the next although nothing has changed.
const settled = (element) => element.outerHTML.replace(/name="(key|proof)" value="[^"]*"/g, "");

function busy(region) {
  const active = document.activeElement;
  if (active && region.contains(active) && active.matches("input:not([type=checkbox]):not([type=radio]), textarea, select")) return true;
  return region.querySelector("details.drop[open], details.section[open] textarea:not(:placeholder-shown)") !== null;
}

function keep(region) {
  const active = document.activeElement;
  const held = active && region.contains(active) ? active.getAttribute("href") || active.id : null;
  return {
    held,
    open: [...region.querySelectorAll("details")].map((one) => one.open),
    ticked: new Set([...region.querySelectorAll("input[type=checkbox][name=run]:checked")].map((one) => one.value)),
    at: region.querySelector("[data-row].at [data-open]")?.getAttribute("href"),
    scrolls: [...region.querySelectorAll("pre, .scroll, ol")].map((one) => [one.scrollTop, one.scrollLeft]),
    own: [region.scrollTop, region.scrollLeft],
  };
}

function restore(region, kept) {
  const details = [...region.querySelectorAll("details")];
  if (details.length === kept.open.length) details.forEach((one, place) => { one.open = kept.open[place]; });
  for (const one of region.querySelectorAll("input[type=checkbox][name=run]")) one.checked = kept.ticked.has(one.value);
  if (kept.at) for (const one of region.querySelectorAll("[data-open]")) if (one.getAttribute("href") === kept.at) one.closest("[data-row]").classList.add("at");
  const scrolled = [...region.querySelectorAll("pre, .scroll, ol")];
  if (scrolled.length === kept.scrolls.length) scrolled.forEach((one, place) => { [one.scrollTop, one.scrollLeft] = kept.scrolls[place]; });
  [region.scrollTop, region.scrollLeft] = kept.own;
  if (kept.held) for (const one of region.querySelectorAll("a, button, input")) if ((one.getAttribute("href") || one.id) === kept.held) { one.focus({ preventScroll: true }); break; }
}

// Look again, and replace the live parts of this page that have changed; what somebody is writing in stays.
export async function refresh() {
  const fresh = await load(location.href);
  for (const region of document.querySelectorAll("[data-live][id]")) {
    const next = fresh.getElementById(region.id);
    if (!next || region.dataset.mode === "canvas" || settled(next) === settled(region) || busy(region)) continue;
    const kept = keep(region);
    const put = document.adoptNode(next);
    region.replaceWith(put);
    restore(put, kept);
  }
  const count = fresh.getElementById("waiting"), shown = document.getElementById("waiting");
  if (count && shown) shown.replaceWith(document.adoptNode(count));
  else if (shown && !count) shown.remove();
  else if (count) document.querySelector('.top nav a[href="/approvals"]')?.append(" ", document.adoptNode(count));
  const view = document.getElementById("view"), now = fresh.getElementById("view");
  if (view && now) view.dataset.over = now.dataset.over;
  document.dispatchEvent(new CustomEvent("omium:refreshed"));
}

// Going to another part of the same page: only what is below the tabs is replaced, and the graph stays where it is.
async function go(url, push) {
  const fresh = await load(url);
  const view = document.getElementById("view"), next = fresh.getElementById("view");
  if (!view || !next) { location.assign(url); return; }
  document.dispatchEvent(new CustomEvent("omium:leaving"));
  view.replaceChildren(...[...next.childNodes].map((one) => document.adoptNode(one)));
  document.title = fresh.title;
  if (push) history.pushState({ soft: true }, "", url);
  document.dispatchEvent(new CustomEvent("omium:arrived"));
  const panel = document.getElementById("panel");
  if (panel) {
    panel.tabIndex = -1;
    panel.focus({ preventScroll: window.innerWidth > 1000 });
  }
}

export function soft(url) { go(url, true).catch(() => location.assign(url)); }

// On a narrow screen the tabs are wider than it: the one that is shown is where it can be seen.
function showTab() {
  const tabs = document.querySelector(".tabs"), tab = tabs?.querySelector("[aria-current]");
  if (!tab) return;
  const [row, at] = [tabs.getBoundingClientRect(), tab.getBoundingClientRect()];
  if (at.left < row.left || at.right > row.right) tabs.scrollLeft += at.left - row.left - (row.width - at.width) / 2;
}

export function startPages() {
  showTab();
  history.replaceState({ soft: true }, "");
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const here = document.getElementById("view");
    const url = new URL(link.href?.baseVal ?? link.href, location.href);
    if (!here || !here.contains(link) || url.origin !== location.origin || url.pathname !== location.pathname || url.hash) return;
    event.preventDefault();
    soft(url.href);
  });
  window.addEventListener("popstate", (event) => { if (event.state?.soft) go(location.href, false).catch(() => location.reload()); });
}
