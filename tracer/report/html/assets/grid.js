// What is drawn of more than can be drawn.

// Of many [ns, bytes], the first, smallest, largest and last of each of so many stretches of time.
function thinned(points, times) {
  const kept = [];
  const span = points[points.length - 1][0] - points[0][0] || 1;
  let from = 0;
  for (let at = 1; at <= points.length; at++) {
    const place = (point) => Math.floor(((point[0] - points[0][0]) / span) * (times - 1));
    if (at < points.length && place(points[at]) === place(points[from])) continue;
    const some = points.slice(from, at);
    const sizes = some.map(([, size]) => size);
    const ends = [0, sizes.indexOf(Math.min(...sizes)), sizes.indexOf(Math.max(...sizes)), some.length - 1];
    kept.push(...[...new Set(ends)].sort((one, other) => one - other).map((i) => some[i]));
    from = at;
  }
  return kept;
}

// Counts of a trace that is not held whole (choose.py).
class Grid {
  constructor({ header, columns }) {
    Object.assign(this, header);
    this.wide = header.span_ns / header.times;
    this.high = header.span_bytes / header.offsets;
    const filled = header.rows - header.size_count;
    this.index = new Float64Array(filled);
    this.count = new Float64Array(filled);
    for (let i = 0, at = 0; i < filled; i++) {
      this.index[i] = at += Number(columns.steps[i]);
      this.count[i] = Number(columns.count[i]);
    }
    this.seen = [];
    for (let i = filled; i < header.rows; i++) {
      const time = (Number(columns.time[i]) + 0.5) * this.wide;
      for (const size of new Set([Number(columns.smallest[i]), Number(columns.largest[i])])) this.seen.push([time, size]);
    }
  }

  sizes(exact) {
    return [...this.seen, ...exact].sort((one, other) => one[0] - other[0]);
  }

  places(area) {
    const found = [];
    for (let i = 0; i < this.index.length; i++) {
      const offset = this.index[i] % this.offsets;
      const time = Math.floor(this.index[i] / this.offsets) % this.times;
      const [left, bottom] = [time * this.wide, offset * this.high];
      const [right, top] = [left + this.wide, bottom + this.high];
      if (left > area.right || right < area.left || bottom > area.top || top < area.bottom) continue;
      found.push({ layer: Math.floor(this.index[i] / this.offsets / this.times), left, right, bottom, top, count: this.count[i] });
    }
    return found;
  }
}
