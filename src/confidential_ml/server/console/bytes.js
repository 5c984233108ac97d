// Bytes: hexadecimal, base64, comparison, hashing, and little-endian fields in their order.

/** @param {Uint8Array} bytes @returns {string} */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Bytes of hexadecimal text, or null. @param {string} text @returns {Uint8Array | null} */
export function fromHex(text) {
  if (!/^(?:[0-9a-fA-F]{2})*$/.test(text)) return null;
  return Uint8Array.from({ length: text.length / 2 }, (_, at) => parseInt(text.slice(2 * at, 2 * at + 2), 16));
}

/** Bytes of canonical base64, or null. @param {string} text @returns {Uint8Array | null} */
export function fromBase64(text) {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const binary = atob(text);
  // Spare bits that are not zero would make two texts of the same bytes.
  return btoa(binary) === text ? Uint8Array.from(binary, (character) => character.charCodeAt(0)) : null;
}

/** Text whose characters are the bytes, one each. @param {Uint8Array} bytes @returns {string} */
export function latin1(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return text;
}

/** @param {string} text ASCII @returns {Uint8Array} */
export function ascii(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** @param {...Uint8Array} parts @returns {Uint8Array} */
export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let start = 0;
  for (const part of parts) {
    whole.set(part, start);
    start += part.length;
  }
  return whole;
}

/** @param {Uint8Array} a @param {Uint8Array} b @returns {boolean} */
export function equal(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

/** @param {Uint8Array} bytes @returns {boolean} */
export function isZero(bytes) {
  return bytes.every((byte) => byte === 0);
}

/** @param {Uint8Array} data @returns {Promise<Uint8Array>} */
export async function sha256(data) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}

/** Reads fields one after the other; beyond the end is a RangeError. */
export class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = 0;
  }

  /** @returns {number} */
  get left() {
    return this.bytes.length - this.position;
  }

  /** @param {number} size @returns {Uint8Array} a copy */
  take(size) {
    if (size > this.left) throw new RangeError("beyond the end");
    this.position += size;
    return this.bytes.slice(this.position - size, this.position);
  }

  /** @returns {number} */
  u16() {
    this.position += 2;
    return this.view.getUint16(this.position - 2, true);
  }

  /** @returns {number} */
  u32() {
    this.position += 4;
    return this.view.getUint32(this.position - 4, true);
  }

  /** @returns {bigint} */
  u64() {
    this.position += 8;
    return this.view.getBigUint64(this.position - 8, true);
  }
}

/** A whole number as little-endian bytes. @param {number | bigint} value @param {2 | 4 | 8} size */
export function littleEndian(value, size) {
  const bytes = new Uint8Array(size);
  let rest = BigInt(value);
  for (let at = 0; at < size; at += 1) {
    bytes[at] = Number(rest & 255n);
    rest >>= 8n;
  }
  if (rest !== 0n) throw new RangeError(`a number does not fit ${size} bytes`);
  return bytes;
}
