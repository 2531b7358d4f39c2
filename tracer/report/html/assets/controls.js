// Keys and buttons of a timeline.

const PAN = 0.2, ZOOM = 1.6;

const KEYS = {
  ArrowLeft: (one) => one.pan(-PAN, 0),
  ArrowRight: (one) => one.pan(PAN, 0),
  ArrowUp: (one) => one.pan(0, PAN),
  ArrowDown: (one) => one.pan(0, -PAN),
  "+": (one) => one.zoom(1 / ZOOM),
  "=": (one) => one.zoom(1 / ZOOM),
  "-": (one) => one.zoom(ZOOM),
  0: (one) => one.reset(),
  n: (one) => one.step(1),
  p: (one) => one.step(-1),
  "]": (one) => one.walk(1),
  "[": (one) => one.walk(-1),
};

const BUTTONS = { in: KEYS["+"], out: KEYS["-"], reset: KEYS[0], next: KEYS.n, previous: KEYS.p };

function control(element, ready) {
  element.querySelector(".plot").addEventListener("keydown", async (event) => {
    const act = KEYS[event.key];
    if (act === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act(await ready());
  });
  for (const button of element.querySelectorAll("button[data-do]")) {
    button.addEventListener("click", async () => BUTTONS[button.dataset.do](await ready()));
  }
  for (const box of element.querySelectorAll("input[data-layer]")) {
    box.addEventListener("change", async () => (await ready()).toggle(box.dataset.layer, box.checked));
  }
  const file = element.querySelector("select[data-do=file]");
  file?.addEventListener("change", async () => (await ready()).open(Number(file.value)));
}
