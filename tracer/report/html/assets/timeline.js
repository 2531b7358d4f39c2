// One timeline: puts the operations in view into Bokeh's sources, and says what is in view.

const MAX_BOXES = 3000; // more are not told apart on a screen, and would make panning slow
const ACROSS = 160, UPWARDS = 56; // places of a view, if they are counted instead
const MAX_SIZES = 3000;
const FONT = "system-ui, sans-serif";
const ENOUGH = 1; // views to either side that are there before they are panned to

class Timeline {
  constructor(element, data, pairs) {
    this.element = element;
    this.data = data; // of the recording
    this.pairs = pairs;
    this.layers = Object.keys(data.layers);
    this.layerOf = new Int8Array(256).fill(-1);
    for (const [number, label] of Object.entries(data.ops)) {
      this.layerOf[Number(number)] = this.layers.findIndex((layer) => data.layers[layer].includes(label));
    }
    this.hidden = new Set();
    this.chosen = -1; // pair
    this.operation = -1; // row that is told
    this.origin = 0; // ns that count as 0 on the axis
    this.loaded = null;
  }

  async start(item) {
    const plot = this.element.querySelector(".plot");
    const target = document.createElement("div");
    target.id = `${this.element.dataset.timeline}-bokeh`;
    plot.append(target);
    const views = await Bokeh.embed.embed_item({ ...item, target_id: target.id });
    this.document = (views.roots ?? [...views])[0]?.model?.document ?? [...views][0].model.document;
    this.plot = this.document.get_model_by_name("timeline");
    this.hover = this.document.get_model_by_name("hover");
    this.source = Object.fromEntries(
      ["density", ...this.layers, "eof", "pairs", "chosen", "marks"].map((name) => [name, this.document.get_model_by_name(`${name}-source`)]),
    );
    const axis = (formatter, format) => { formatter.doFormat = (ticks) => ticks.map((tick, i) => format(tick, ticks, i)); };
    axis(this.axis("below").formatter, (tick, ticks) =>
      timeText(tick, ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1, this.origin !== 0));
    axis(this.axis("left").formatter, roughBytes);
    this.theme();
    await this.open(0);
    for (const range of [this.plot.x_range, this.plot.y_range]) range.change.connect(() => this.moved());
    for (const [name, source] of Object.entries(this.source)) {
      source.inspect.connect(([, { geometry }]) => this.hovered(name, source, geometry));
    }
    plot.addEventListener("mouseleave", () => this.tell(null));
  }

  axis(side) {
    return this.plot[side].find((one) => one.formatter !== undefined);
  }

  // Shows a file of the recording.
  async open(number) {
    const file = this.data.files[number];
    this.file = number;
    this.rows = decodeRows(await readBlock(file.block));
    const { grid } = this.rows.header;
    this.grid = grid === null ? null : new Grid(await readBlock(grid), this.data.span_ns);
    this.whole = this.grid === null;
    this.sizes = this.whole ? this.rows.sizes() : this.grid.sizes(this.rows.sizes());
    this.exact = this.rows.header.stretches.map(([low, high]) => this.extent(low, high));
    this.mine = [];
    for (let pair = 0; pair < this.pairs.count; pair++) if (this.pairs.file[pair] === number) this.mine.push(pair);
    for (const button of this.element.querySelectorAll("[data-do=next], [data-do=previous]")) button.disabled = !this.mine.length;
    this.chosen = -1;
    this.reset();
  }

  // Between which times every operation is held: from the first begin to the last in a stretch of numbers.
  extent(low, high) {
    let [first, last] = [Infinity, -Infinity];
    this.rows.sequence.forEach((number, i) => {
      if (number < low || number > high) return;
      first = Math.min(first, this.rows.begin[i]);
      last = Math.max(last, this.rows.begin[i]);
    });
    // Nothing lies beyond the ends of the recording.
    return [low === 0 ? -Infinity : first, high >= 2 ** 63 ? Infinity : last];
  }

  // ------------------------------------------------------------ where it looks

  get view() {
    const { x_range: x, y_range: y } = this.plot;
    return { left: x.start + this.origin, right: x.end + this.origin, bottom: y.start, top: y.end };
  }

  show({ left, right, bottom, top }) {
    const least = 50; // ns
    if (right - left < least) [left, right] = [(left + right - least) / 2, (left + right + least) / 2];
    this.plot.x_range.setv({ start: left - this.origin, end: right - this.origin });
    this.plot.y_range.setv({ start: bottom, end: Math.max(top, bottom + 512) });
    this.draw();
  }

  reset() {
    this.choose(-1);
    const { span_ns: span, files } = this.data;
    const height = Math.max(files[this.file].bytes, 4096);
    this.show({ left: -0.01 * span, right: 1.01 * span, bottom: -0.02 * height, top: 1.05 * height });
  }

  zoom(factor) {
    const { left, right, bottom, top } = this.view;
    const [x, y] = this.anchor();
    const from = (place, edge) => place + (edge - place) * factor;
    this.show({ left: from(x, left), right: from(x, right), bottom: from(y, bottom), top: from(y, top) });
  }

  // What zooming leaves in its place: where the second operation of the chosen pair begins, if that is seen, or the middle.
  anchor() {
    const { left, right, bottom, top } = this.view;
    const x = Math.max(...this.chosenRows.map((i) => this.rows.begin[i]));
    const y = Math.max(...this.chosenRows.map((i) => this.rows.bottom[i]));
    const seen = x >= left && x <= right && y >= bottom && y <= top; // of no rows: -Infinity is not
    return seen ? [x, y] : [(left + right) / 2, (bottom + top) / 2];
  }

  pan(across, upwards) {
    const { left, right, bottom, top } = this.view;
    const [x, y] = [(right - left) * across, (top - bottom) * upwards];
    this.show({ left: left + x, right: right + x, bottom: bottom + y, top: top + y });
  }

  // Goes to a pair of a hazard: the axis counts from its first operation's begin, as its account does.
  goTo(pair) {
    const rows = [this.pairs.first[pair], this.pairs.second[pair]].map((number) => this.rows.find(number));
    if (rows.includes(-1)) {
      this.say("This pair lies outside the operations that the page holds one by one.");
      return;
    }
    const ends = rows.map((i) => (this.rows.inFlight(i) ? this.data.span_ns : this.rows.end[i]));
    const [left, right] = [Math.min(...rows.map((i) => this.rows.begin[i])), Math.max(...ends)];
    const bottom = Math.min(...rows.map((i) => this.rows.bottom[i]));
    const top = Math.max(...rows.map((i) => this.rows.top[i]), bottom + 4096);
    this.choose(pair, rows);
    const [x, y] = [(right - left) * 0.35 + 1000, (top - bottom) * 0.6];
    this.show({ left: left - x, right: right + x, bottom: bottom - y, top: top + y });
    this.tellRow(rows[0]);
  }

  choose(pair, rows = []) {
    const view = pair === -1 || this.loaded === null ? null : this.view;
    this.chosen = pair;
    this.chosenRows = rows;
    this.origin = pair === -1 ? 0 : this.rows.begin[rows[0]];
    const first = pair === -1 ? "recording" : this.data.ops[this.rows.op[rows[0]]];
    this.axis("below").axis_label = `time since the ${first} began`;
    if (view !== null) this.plot.x_range.setv({ start: view.left - this.origin, end: view.right - this.origin });
  }

  step(direction) {
    if (!this.mine.length) {
      this.say("No rule found a pair in this file.");
      return;
    }
    const at = this.mine.indexOf(this.chosen);
    const next = at === -1 ? (direction > 0 ? 0 : this.mine.length - 1) : at + direction;
    this.goTo(this.mine[(next + this.mine.length) % this.mine.length]);
  }

  moved() {
    if (this.waiting) return;
    this.waiting = true;
    // Not for every frame: what is loaded reaches beyond the view.
    setTimeout(() => { this.waiting = false; this.draw(false); }, 120);
  }

  // ------------------------------------------------------------ what it draws

  draw(always = true) {
    const view = this.view;
    const wide = view.right - view.left, high = view.top - view.bottom;
    const old = this.loaded;
    const inside = old !== null && view.left >= old.left && view.right <= old.right && view.bottom >= old.bottom && view.top <= old.top;
    if (always || !inside || wide < old.wide * 0.6) {
      this.loaded = { left: view.left - ENOUGH * wide, right: view.right + ENOUGH * wide, bottom: view.bottom - ENOUGH * high, top: view.top + ENOUGH * high, wide };
      this.load(view);
    }
    this.report(view);
  }

  load(view) {
    let area = this.loaded;
    let found = this.within(area);
    // A crowd around what is in view need not be there yet.
    if (found.length > MAX_BOXES && this.within(view).length <= MAX_BOXES) {
      found = this.within(view);
      this.loaded = area = { ...view, wide: area.wide };
    }
    this.dense = found.length > MAX_BOXES;
    const exact = this.whole || this.exact.some(([left, right]) => view.left >= left && view.right <= right);
    this.partial = !exact;
    const boxes = Object.fromEntries(this.layers.map((layer) => [layer, []]));
    if (!this.dense) for (const i of found) boxes[this.layers[this.layerOf[this.rows.op[i]]]].push(i);
    for (const layer of this.layers) this.fill(layer, boxes[layer]);
    this.fillDensity(this.dense || !exact ? this.density(view, area, found, exact) : []);
    this.fillSizes(area);
    const pairs = new Set(), places = new Map();
    for (const pair of this.mine) {
      const rows = [this.pairs.first[pair], this.pairs.second[pair]].map((number) => this.rows.find(number));
      for (const i of rows) if (i !== -1 && this.touches(i, area)) pairs.add(i);
      // Where an outline is too small to be seen, it has a mark; a hundred across a view are enough.
      if (this.dense && !rows.includes(-1)) places.set(Math.floor((this.rows.begin[rows[1]] / (view.right - view.left)) * 100), rows[1]);
    }
    this.fill("pairs", [...pairs]);
    this.fill("chosen", this.chosenRows);
    this.fill("marks", [...places.values()]);
  }

  within(area) {
    const found = [];
    for (let i = 0; i < this.rows.count; i++) {
      if (this.touches(i, area) && !this.hidden.has(this.layers[this.layerOf[this.rows.op[i]]])) found.push(i);
    }
    return found;
  }

  touches(i, { left, right, bottom, top }) {
    const { begin, end, bottom: low, top: high } = this.rows;
    return begin[i] <= right && low[i] <= top && high[i] >= bottom && (end[i] >= left || this.rows.inFlight(i));
  }

  fill(name, rows) {
    const columns = { left: [], right: [], bottom: [], top: [], alpha: [], row: rows };
    for (const i of rows) {
      columns.left.push(this.rows.begin[i] - this.origin);
      columns.right.push((this.rows.inFlight(i) ? this.data.span_ns : this.rows.end[i]) - this.origin);
      columns.bottom.push(this.rows.bottom[i]);
      columns.top.push(this.rows.top[i]);
      columns.alpha.push(this.rows.inFlight(i) ? 0.35 : 1); // nobody saw it end
    }
    this.source[name].data = columns;
  }

  // Counts by place and layer, of what is in view and around; of a trace that is not held whole, by its grid.
  density(view, area, found, exact) {
    const [wide, high] = [(view.right - view.left) / ACROSS, (view.top - view.bottom) / UPWARDS];
    const counts = new Map();
    const add = (layer, time, offset, count) => {
      const [x, y] = [Math.floor((time - area.left) / wide), Math.floor((offset - area.bottom) / high)];
      const key = `${layer} ${x} ${y}`;
      counts.set(key, (counts.get(key) ?? 0) + count);
    };
    const rows = this.rows;
    if (exact) {
      for (const i of found) add(this.layerOf[rows.op[i]], rows.begin[i], (rows.bottom[i] + rows.top[i]) / 2, 1);
    } else {
      const places = this.grid.places(area).filter(({ layer }) => !this.hidden.has(this.layers[layer]));
      if (this.grid.wide > wide || this.grid.high > high) return places;
      for (const { layer, left, right, bottom, top, count } of places) add(layer, (left + right) / 2, (bottom + top) / 2, count);
    }
    return [...counts].map(([key, count]) => {
      const [layer, x, y] = key.split(" ").map(Number);
      const [left, bottom] = [area.left + x * wide, area.bottom + y * high];
      return { layer, count, left, right: left + wide, bottom, top: bottom + high };
    });
  }

  fillDensity(places) {
    const most = Math.log1p(places.reduce((most, { count }) => Math.max(most, count), 1));
    const column = (get) => places.map(get);
    this.counted = places;
    this.source.density.data = {
      left: column((one) => one.left - this.origin), right: column((one) => one.right - this.origin),
      bottom: column((one) => one.bottom), top: column((one) => one.top),
      alpha: column((one) => 0.35 + 0.65 * (Math.log1p(one.count) / most)),
      color: column((one) => this.colours[this.layers[one.layer]]), row: column((_, i) => i),
    };
  }

  // The end of the file; `thinned` keeps where it went back.
  fillSizes({ left, right }) {
    let low = 0;
    while (low < this.sizes.length && this.sizes[low][0] < left) low++;
    let high = low;
    while (high < this.sizes.length && this.sizes[high][0] <= right) high++;
    const inside = this.sizes.slice(Math.max(0, low - 1), high + 1);
    const points = inside.length > MAX_SIZES ? thinned(inside, MAX_SIZES / 4) : inside;
    this.source.eof.data = { t: points.map(([time]) => time - this.origin), size: points.map(([, size]) => size) };
  }

  theme() {
    const style = getComputedStyle(this.element);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.colours = Object.fromEntries([...this.layers, "eof", "hazard", "chosen"].map((name) => [name, colour(name)]));
    const [ink, faint, ground] = [colour("ink"), colour("line"), colour("ground")];
    this.plot.setv({ background_fill_color: ground, outline_line_color: faint });
    for (const side of ["below", "left"]) {
      this.axis(side).setv({
        axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: faint, major_tick_line_color: faint, minor_tick_line_color: null,
        axis_label_text_font_style: "normal", axis_label_text_font: FONT, major_label_text_font: FONT,
      });
    }
    for (const renderer of this.plot.renderers) {
      const own = { pairs: "hazard", marks: "hazard" }[renderer.name] ?? renderer.name;
      const value = { value: this.colours[own] };
      if (renderer.name === "density") renderer.glyph.setv({ fill_color: { field: "color" } });
      else if (renderer.name === "eof") renderer.glyph.setv({ line_color: value });
      else if (renderer.name === "marks") renderer.glyph.setv({ line_color: { value: ground }, fill_color: value });
      else if (renderer.name in { pairs: 0, chosen: 0 }) renderer.glyph.setv({ line_color: value });
      else renderer.glyph.setv({ line_color: value, fill_color: value, hatch_color: { value: colour(`${own}-hatch`) || ink } });
    }
    for (const grid of this.plot.center) if (grid.grid_line_color !== undefined) grid.grid_line_color = colour("grid");
    if (this.loaded !== null) this.draw();
  }

  // ------------------------------------------------------------ what it says

  report(view) {
    const step = (view.right - view.left) / 10;
    const where = `${timeText(view.left, step)} to ${timeText(view.right, step)} since the recording began, ${roughBytes(Math.max(0, view.bottom))} to ${roughBytes(Math.max(0, view.top))}`;
    const there = this.within(view).length;
    let what = there === 1 ? "1 operation, a box" : `${grouped(there)} operations, each a box`;
    if (this.dense && this.whole) what = `${grouped(there)} operations, counted by place: zoom in to see each`;
    if (this.partial) {
      const shared = (low, high, from, to) => Math.max(0, (Math.min(high, to) - Math.max(low, from)) / (high - low));
      const inView = (one) => shared(one.left, one.right, view.left, view.right) * shared(one.bottom, one.top, view.bottom, view.top);
      const about = Math.max(there, Math.round(this.counted.reduce((sum, one) => sum + one.count * inView(one), 0)));
      what = `about ${grouped(about)} operations, counted by place; ${grouped(there)} of them are held one by one`;
    }
    const pair = this.chosen === -1 ? "" : ` Pair ${grouped(this.mine.indexOf(this.chosen) + 1)} of ${grouped(this.mine.length)} that are outlined: ${this.pairs.outcomes[this.chosen]}, ${this.pairs.rules[this.chosen]}.`;
    const lacking = this.pairs.all > this.pairs.count ? ` ${grouped(this.pairs.all - this.pairs.count)} more pairs are counted, and not outlined.` : "";
    this.say(`${where}: ${what}.${pair}${lacking}`);
  }

  say(text) {
    const status = this.element.querySelector(".status");
    if (status.textContent !== text) status.textContent = text;
  }

  hovered(name, source, geometry) {
    if (name === "eof") return;
    const at = source.inspected.indices[0];
    if (at === undefined) {
      if (this.told === name) this.tell(null);
      return;
    }
    this.told = name;
    if (name === "density") this.tellPlace(this.counted[at]);
    else this.tellRow(source.data.row[at]);
  }

  tellPlace({ layer, left, right, bottom, top, count }) {
    const step = (right - left) / 2;
    this.tell([
      ["here", `${grouped(count)} of ${this.layers[layer]}`],
      ["begun", `${timeText(left, step)} to ${timeText(right, step)}`],
      ["offset", `${roughBytes(bottom)} to ${roughBytes(top)}`],
    ]);
  }

  tellRow(i) {
    this.operation = i;
    this.tell(this.fields(i));
  }

  // Every field of an operation.
  fields(i) {
    const field = (name) => this.rows.field(i, name);
    const unseen = "not seen";
    const time = (name, missing = unseen) => {
      const value = field(name);
      if (value === NONE) return missing;
      const beside = this.origin === 0 ? "" : ` (${microseconds(Number(value) - this.origin, this.rows.unit, true)})`;
      return `${microseconds(Number(value), this.rows.unit)}${beside}`;
    };
    const bytes = (name) => (field(name) === NONE ? unseen : bytesText(field(name)));
    const plain = (name, missing = unseen) => (field(name) === NONE ? missing : String(field(name)));
    const request = (value) => (value === NONE ? "none" : `${value >> 32n}/${value & 0xffffffffn}`);
    const open = "still in flight at the end";
    const op = this.data.ops[this.rows.op[i]];
    const ended = !this.rows.inFlight(i);
    return [
      ["op", op], ["comm", field("comm")],
      ["offset", bytes("offset")], ["length", bytes("length")],
      ["t_begin", time("t_begin")], ["t_end", time("t_end", open)],
      ["in flight for", ended ? spanText(this.rows.end[i] - this.rows.begin[i]) : open], ["t_applied", time("t_applied")],
      ["size_begin", bytes("size_begin")], ["size_end", bytes("size_end")],
      ["size_applied", bytes("size_applied")],
      ["result", op === "mark_wait" && field("result") !== NONE ? `waited for ${request(field("result"))}` : plain("result", ended ? unseen : open)],
      ["flags", `0x${field("flags").toString(16)}`], ["request", request(field("request"))],
      ["pid/tid", `${field("pid")}/${field("tid")}`], ["cpu begin/end", `${plain("cpu_begin")}/${plain("cpu_end", ended ? unseen : open)}`],
      ["seq_begin", plain("seq_begin")], ["seq_end", plain("seq_end", open)],
      ["dev", this.data.files[this.file].dev], ["ino", this.data.files[this.file].ino],
    ];
  }

  tell(fields) {
    const box = this.element.querySelector(".operation");
    if (fields === null) return;
    box.replaceChildren(...fields.map(([name, value]) => {
      const [group, term, text] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      [term.textContent, text.textContent] = [name, value];
      group.append(term, text);
      return group;
    }));
  }

  // From operation to operation of those in view, by the keyboard.
  walk(direction) {
    const rows = this.within(this.view);
    if (!rows.length || this.dense) {
      this.say("Zoom in until each operation is a box.");
      return;
    }
    const at = rows.indexOf(this.operation);
    const i = rows[(Math.max(at, direction > 0 ? -1 : 0) + direction + rows.length) % rows.length];
    this.tellRow(i);
    this.fill("chosen", [i]);
  }

  toggle(layer, visible) {
    if (visible) this.hidden.delete(layer);
    else this.hidden.add(layer);
    this.draw();
  }
}
