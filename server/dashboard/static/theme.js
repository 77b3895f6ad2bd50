// Light or dark: as the system says, until the reader says otherwise. The server reads the cookie, so that nothing flashes.
export function startTheme() {
  const button = document.getElementById("theme");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const system = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const now = document.documentElement.dataset.theme || system;
    const next = now === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    document.cookie = `omium_theme=${next}; path=/; max-age=31536000; samesite=strict`;
    document.dispatchEvent(new CustomEvent("omium:theme"));
  });
}
