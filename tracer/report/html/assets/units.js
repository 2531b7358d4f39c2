// Numbers for people; the same words as tracer/report/units.py.

function bytesText(count) {
  const whole = BigInt(count);
  for (const [shift, unit] of [[40n, "TiB"], [30n, "GiB"], [20n, "MiB"], [10n, "KiB"]]) {
    if (whole !== 0n && (whole & ((1n << shift) - 1n)) === 0n) return `${whole >> shift} ${unit}`;
  }
  return whole === 0n ? "0" : `${grouped(whole)} B`;
}

function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

function unitOf(step) {
  return [[1e9, "s"], [1e6, "ms"], [1e3, "us"]].find(([ns]) => step >= ns * 0.999) ?? [1, "ns"];
}

// A time in a unit in which steps of `step` ns are whole numbers, or nearly.
function timeText(ns, step, signed = false) {
  const [size, unit] = unitOf(step);
  const digits = Math.max(0, Math.min(3, Math.ceil(-Math.log10(step / size) - 1e-9)));
  const [whole, rest] = Math.abs(ns / size).toFixed(digits).split(".");
  const isZero = !/[1-9]/.test(whole + (rest ?? ""));
  const sign = isZero ? "" : ns < 0 ? "-" : signed ? "+" : "";
  return `${sign}${grouped(whole)}${rest ? `.${rest}` : ""} ${unit}`;
}

// A time as accounts have it, to the unit that the page keeps.
function microseconds(ns, unit, signed = false) {
  const [whole, rest] = (Math.abs(ns) / 1000).toFixed(unit === 1n ? 3 : 1).split(".");
  return `${ns < 0 ? "-" : signed ? "+" : ""}${grouped(whole)}.${rest} us`;
}

// A time in the unit that suits the number itself.
function spanText(ns) {
  const [size, unit] = unitOf(Math.max(1, Math.abs(ns)));
  return `${(ns / size).toFixed(unit === "ns" ? 0 : 1)} ${unit}`;
}

// A place on an axis: not always a whole number of units.
function roughBytes(count) {
  for (const [size, unit] of [[2 ** 60, "EiB"], [2 ** 50, "PiB"], [2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (Math.abs(count) >= size) return `${Number((count / size).toFixed(2))} ${unit}`;
  }
  return `${Math.round(count)} B`;
}
