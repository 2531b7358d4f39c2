// The other side of rows.py: foretells each row in the same way, and adds by how much it differs.

const NONE = null;

function decodeRows({ header, columns: stored }) {
  const rows = header.rows;
  const unit = BigInt(header.unit_ns);
  const mask = Object.fromEntries(Object.entries(header.seen).map(([name, bit]) => [name, BigInt(bit)]));
  const column = Object.fromEntries(
    ["seq_begin", "seq_end", "t_begin", "t_end", "t_applied", "request", "offset", "length", "size_begin", "size_end",
      "size_applied", "result", "pid", "tid"].map((name) => [name, new BigInt64Array(rows)]),
  );
  const last = new Map(); // request -> its last row
  let [seq, begun, guest, serial, size, pid] = [0n, 0n, 0n, 0n, 0n, 0n];
  for (let i = 0; i < rows; i++) {
    const seen = (name) => (stored.seen[i] & mask[name]) !== 0n;
    column.seq_begin[i] = seq += stored.seq_begin[i];
    column.seq_end[i] = seq + stored.seq_end[i];
    column.t_begin[i] = begun += stored.t_begin[i];
    guest += stored.request_guest[i];
    serial += stored.request_serial[i];
    column.request[i] = (guest << 32n) | serial;
    const request = column.request[i];
    const before = request === 0n ? undefined : last.get(request);
    last.set(request, i);
    column.t_end[i] = stored.t_end[i] + (before === undefined ? begun : column.t_end[before]);
    column.t_applied[i] = column.t_end[i] - stored.t_applied[i];
    column.offset[i] = stored.offset[i] + (before === undefined ? 0n : column.offset[before]);
    column.length[i] = stored.length[i] + (before === undefined ? 0n : column.length[before]);
    const label = Number(stored.op[i]);
    column.size_begin[i] = seen("size_begin") ? size + stored.size_begin[i] : -1n;
    if (seen("size_begin")) size = column.size_begin[i];
    const end = column.offset[i] + column.length[i];
    column.size_end[i] = stored.size_end[i] + (column.size_begin[i] > end ? column.size_begin[i] : end);
    column.size_applied[i] = stored.size_applied[i] + column.size_begin[i];
    const told = header.writes.includes(label) ? column.length[i] : label === header.wait ? request : 0n;
    column.result[i] = stored.result[i] + told;
    column.pid[i] = pid += stored.pid[i];
    column.tid[i] = pid + stored.tid[i];
  }
  return new Rows(header, stored, column, mask, unit);
}

// Operations of one file. What is drawn is in arrays of doubles; a field is exact.
class Rows {
  constructor(header, stored, column, mask, unit) {
    Object.assign(this, { header, stored, column, mask, unit, count: header.rows });
    const ns = (values) => Float64Array.from(values, (value) => Number(value * unit));
    this.begin = ns(column.t_begin);
    this.end = ns(column.t_end);
    this.bottom = Float64Array.from(column.offset, Number);
    this.top = Float64Array.from(column.offset, (offset, i) => Number(offset + column.length[i]));
    this.op = Uint8Array.from(stored.op, Number);
    this.sequence = Float64Array.from(column.seq_begin, Number);
  }

  seen(i, name) {
    return (this.stored.seen[i] & this.mask[name]) !== 0n;
  }

  inFlight(i) {
    return !this.seen(i, "ended");
  }

  // The row of a sequence number of a begin; -1: it is not held.
  find(number) {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sequence[middle] < number) low = middle + 1;
      else high = middle;
    }
    return low < this.count && this.sequence[low] === number ? low : -1;
  }

  field(i, name) {
    const { stored, column } = this;
    switch (name) {
      case "comm": return this.header.comms[Number(stored.comm[i])];
      case "seq_end": case "t_end": return this.inFlight(i) ? NONE : this.value(i, name);
      case "cpu_end": return this.inFlight(i) ? NONE : stored.cpu_end[i];
      case "cpu_begin": return this.seen(i, name) ? stored.cpu_begin[i] : NONE;
      case "flags": return stored.flags[i];
      case "request": return column.request[i] === 0n ? NONE : BigInt.asUintN(64, column.request[i]);
      case "t_applied": case "size_begin": case "size_end": case "size_applied": case "result":
        return this.seen(i, name) ? this.value(i, name) : NONE;
      default: return this.value(i, name);
    }
  }

  value(i, name) {
    if (name.startsWith("seq_")) return BigInt.asUintN(64, this.column[name][i]);
    return name.startsWith("t_") ? this.column[name][i] * this.unit : this.column[name][i];
  }

  // What was seen of the file's size, [ns, bytes], in order of time, without repetitions. Not what a write saw when it
  // began: of several that io_submit(2) takes at once, that is when the kernel came to it, which has no time.
  sizes() {
    const found = [];
    for (let i = 0; i < this.count; i++) {
      if (this.seen(i, "size_begin") && !this.header.writes.includes(this.op[i])) found.push([this.begin[i], Number(this.column.size_begin[i])]);
      if (this.seen(i, "size_end") && !this.inFlight(i)) found.push([this.end[i], Number(this.column.size_end[i])]);
    }
    found.sort((one, other) => one[0] - other[0]);
    return found.filter(([, size], i) => i === 0 || i === found.length - 1 || size !== found[i - 1][1]);
  }
}
