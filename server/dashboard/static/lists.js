// Lists: the row that keys act on, ticks, filters that apply when they are chosen.
export function rows() { return [...document.querySelectorAll("[data-rows] [data-row]")].filter((one) => one.offsetParent !== null); }

export function current() { return document.querySelector("[data-row].at"); }

export function move(step) {
  const all = rows();
  if (!all.length) return false;
  const here = all.indexOf(current());
  const next = all[here < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, here + step))];
  current()?.classList.remove("at");
  next.classList.add("at");
  next.querySelector("[data-open]")?.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
  return true;
}

function count() {
  const shown = document.getElementById("ticked");
  if (shown) shown.textContent = `(${document.querySelectorAll('input[name="run"]:checked').length})`;
}

export function tick() {
  const box = current()?.querySelector('input[name="run"]');
  if (!box) return false;
  box.checked = !box.checked;
  count();
  return true;
}

function ready() {
  const all = document.getElementById("pick-all");
  if (all) all.hidden = false;
  count();
}

export function startLists() {
  document.addEventListener("change", (event) => {
    const changed = event.target;
    if (changed.matches("[data-submit]")) changed.form.requestSubmit();
    else if (changed.id === "pick-all") for (const one of document.querySelectorAll('input[name="run"]')) one.checked = changed.checked;
    if (changed.id === "pick-all" || changed.name === "run") count();
  });
  document.addEventListener("submit", (event) => {
    // What is sent twice is done once; this only keeps a second click from looking like one.
    const form = event.target;
    if (form.method !== "post" || form.dataset.sent) { if (form.dataset.sent) event.preventDefault(); return; }
    form.dataset.sent = "1";
    setTimeout(() => { delete form.dataset.sent; }, 4000);
  });
  document.addEventListener("click", (event) => {
    for (const one of document.querySelectorAll("details.drop[open]")) if (!one.contains(event.target)) one.open = false;
  });
  document.addEventListener("omium:refreshed", ready);
  ready();
}
