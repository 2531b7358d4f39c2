// The theme: as the system has it, or as a reader has chosen. `changed` is called when it has.

function theme(changed = () => {}) {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // as the system has it
  const apply = () => {
    const isDark = chosen ?? dark.matches;
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(isDark));
    changed();
  };
  button.addEventListener("click", () => {
    chosen = !(chosen ?? dark.matches);
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}
