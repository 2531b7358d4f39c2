// The page: timelines are made when they come into view, links lead to places in them, and the theme can be chosen.

async function readBlock(name) {
  return unpackBlock(document.getElementById(`block-${name}`).textContent);
}

let library; // BokehJS, unpacked at most once
function bokeh() {
  library ??= (async () => {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await inflate(document.getElementById("block-bokeh").textContent));
    document.head.append(script);
    return (await readBlock("figure")).header.item;
  })();
  return library;
}

const timelines = new Map(); // id of a cell -> promise of its timeline

function timelineOf(id) {
  if (!timelines.has(id)) {
    const element = document.querySelector(`[data-timeline="${id}"]`);
    timelines.set(id, make(element, id).catch((error) => {
      trouble(error);
      throw error;
    }));
  }
  return timelines.get(id);
}

async function make(element, id) {
  const [item, data, packed] = await Promise.all([bokeh(), readBlock(`${id}-data`), readBlock(`${id}-pairs`)]);
  const { header, columns } = packed;
  const numbers = (name) => Array.from(columns[name], Number);
  const pairs = {
    count: header.rows, all: header.all, examples: header.examples,
    file: numbers("file"), first: numbers("first"), second: numbers("second"),
    outcomes: numbers("outcome").map((outcome) => header.outcomes[outcome]),
    rules: numbers("rule").map((rule) => header.rules[rule]),
  };
  const timeline = new Timeline(element, data.header, pairs);
  await timeline.start(item);
  element.classList.add("ready");
  return timeline;
}

function trouble(error) {
  const box = document.getElementById("trouble");
  box.textContent = `The timeline cannot be shown in this browser: ${error.message ?? error}. Everything else on this page is complete.`;
  box.hidden = false;
  console.error(error);
}

async function goToPair(link) {
  const { cell, pair } = link.dataset;
  const timeline = await timelineOf(cell);
  const number = timeline.pairs.examples[pair];
  if (timeline.pairs.file[number] !== timeline.file) {
    await timeline.open(timeline.pairs.file[number]);
    const select = timeline.element.querySelector("select[data-do=file]");
    if (select) select.value = String(timeline.file);
  }
  timeline.goTo(number);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  timeline.element.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
  timeline.element.querySelector(".plot").focus({ preventScroll: true });
}

function followHash() {
  const link = document.querySelector(`a.place[href="#${CSS.escape(location.hash.slice(1))}"]`);
  if (link !== null) goToPair(link).catch(trouble);
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

theme(() => {
  for (const timeline of timelines.values()) timeline.then((one) => one.theme(), () => {});
});
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    timelineOf(target.dataset.timeline).catch(() => {});
  }
}, { rootMargin: "200px" });
for (const element of document.querySelectorAll("[data-timeline]")) {
  control(element, () => timelineOf(element.dataset.timeline));
  watcher.observe(element);
}
for (const link of document.querySelectorAll("a.place")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    history.replaceState(null, "", link.hash);
    goToPair(link).catch(trouble);
  });
}
addEventListener("hashchange", followHash);
followHash();
