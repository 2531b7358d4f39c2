"use strict";
// The other side of pack.py: text of 85 characters -> deflate -> a header and columns of whole numbers.

const ALPHABET = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))
  .filter((character) => !"\"&'<>\\`{|".includes(character));

function bytesOf(text) {
  const digit = new Uint8Array(128);
  ALPHABET.forEach((character, value) => { digit[character.charCodeAt(0)] = value; });
  const bytes = new Uint8Array((text.length / 5) * 4);
  const view = new DataView(bytes.buffer);
  for (let at = 0, to = 0; at < text.length; at += 5, to += 4) {
    let number = 0;
    for (let i = 0; i < 5; i++) number = number * 85 + digit[text.charCodeAt(at + i)];
    view.setUint32(to, number);
  }
  return bytes;
}

async function inflate(text) {
  const padded = bytesOf(text.slice(1));
  const stream = new Blob([padded.subarray(0, padded.length - Number(text[0]))]).stream();
  return new Uint8Array(await new Response(stream.pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer());
}

async function unpackBlock(text) {
  const bytes = await inflate(text);
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const columns = {};
  let at = 4 + length;
  for (const { name, bytes: width, times } of header.columns) {
    const raw = new Uint8Array(header.rows * 8);
    for (let plane = 0; plane < width; plane++, at += header.rows) {
      for (let row = 0; row < header.rows; row++) raw[row * 8 + plane] = bytes[at + row];
    }
    const zigzag = new BigUint64Array(raw.buffer);
    const values = new BigInt64Array(header.rows);
    const factor = BigInt(times);
    for (let row = 0; row < header.rows; row++) {
      const value = zigzag[row];
      // Not by a sign: the lowest number has no positive counterpart.
      values[row] = BigInt.asIntN(64, (value >> 1n) ^ -(value & 1n)) * factor;
    }
    columns[name] = values;
  }
  return { header, columns };
}
