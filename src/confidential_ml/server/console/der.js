// A strict reader of DER (ITU-T X.690), as much of it as certificates, CRLs and the SGX extension need.

import { hex } from "./bytes.js";

export const BOOLEAN = 0x01;
export const INTEGER = 0x02;
export const BIT_STRING = 0x03;
export const OCTET_STRING = 0x04;
export const OBJECT_IDENTIFIER = 0x06;
export const ENUMERATED = 0x0a;
export const UTF8_STRING = 0x0c;
export const PRINTABLE_STRING = 0x13;
export const UTC_TIME = 0x17;
export const GENERALIZED_TIME = 0x18;
export const SEQUENCE = 0x30;
export const SET = 0x31;

/** The bytes are not DER, or not of the type that was expected. */
export class DerError extends Error {}

/** @typedef {{ tag: number, content: Uint8Array, whole: Uint8Array }} Element */

/** The elements that follow one another in `data`, to its end. @param {Uint8Array} data @returns {Element[]} */
export function elements(data) {
  const found = [];
  let position = 0;
  while (position < data.length) {
    const [tag, start, end] = bounds(data, position);
    found.push({ tag, content: data.subarray(start, end), whole: data.subarray(position, end) });
    position = end;
  }
  return found;
}

/** Content of the one element that `data` is. @param {Uint8Array} data @param {number} tag */
export function single(data, tag) {
  const found = elements(data);
  if (found.length !== 1) throw new DerError("expected one element");
  return typed(found[0], tag);
}

/** Content of an element of that tag. @param {Element | undefined} element @param {number} tag @returns {Uint8Array} */
export function typed(element, tag) {
  if (element === undefined || element.tag !== tag) throw new DerError(`expected an element of tag ${tag}`);
  return element.content;
}

/** Refuses an INTEGER that is not in its shortest form; its content. @param {Element | undefined} element */
export function shortest(element) {
  const content = typed(element, INTEGER);
  const isLong =
    content.length > 1 && (content[0] === 0 ? content[1] < 0x80 : content[0] === 0xff && content[1] >= 0x80);
  if (content.length === 0 || isLong) throw new DerError("an integer is not in its shortest form");
  return content;
}

/** Value of an INTEGER or ENUMERATED from 0 to `limit`. @param {Uint8Array} content @param {number} limit */
export function integer(content, limit) {
  shortest({ tag: INTEGER, content, whole: content });
  if (content[0] >= 0x80) throw new DerError("an integer is negative");
  const value = BigInt(`0x${hex(content)}`);
  if (value > BigInt(limit)) throw new DerError(`an integer is over ${limit}`);
  return Number(value);
}

/** Value of a BOOLEAN. @param {Uint8Array} content @returns {boolean} */
export function boolean(content) {
  if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) {
    throw new DerError("a boolean is neither 00 nor ff");
  }
  return content[0] === 0xff;
}

/** Bytes of a BIT STRING of whole bytes. @param {Element | undefined} element @returns {Uint8Array} */
export function wholeBits(element) {
  const content = typed(element, BIT_STRING);
  if (content[0] !== 0) throw new DerError("a bit string is not of whole bytes");
  return content.subarray(1);
}

/** A time as X.509 writes it, in milliseconds since 1970. @param {Element | undefined} element @returns {number} */
export function time(element) {
  const isShort = element !== undefined && element.tag === UTC_TIME;
  const text = String.fromCharCode(...typed(element, isShort ? UTC_TIME : GENERALIZED_TIME));
  const found = (isShort ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/).exec(
    text,
  );
  if (found === null) throw new DerError("a time has another form");
  const [written, month, day, hour, minute, second] = found.slice(1).map(Number);
  const year = isShort ? written + (written < 50 ? 2000 : 1900) : written;
  // RFC 5280, 4.1.2.5: each year has one form.
  if (!isShort && year < 2050) throw new DerError("a time has another form");
  return moment(year, month, day, hour, minute, second);
}

/**
 * Milliseconds since 1970 of a date that there is.
 * @param {number} year @param {number} month @param {number} day
 * @param {number} hour @param {number} minute @param {number} second
 * @returns {number}
 */
export function moment(year, month, day, hour, minute, second) {
  const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  const back = [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate()];
  const clock = [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
  if ([...back, ...clock].join() !== [year, month, day, hour, minute, second].join()) {
    throw new DerError("there is no such date");
  }
  return date.getTime();
}

/** @param {Uint8Array} data @param {number} position @returns {[number, number, number]} tag, start, end */
function bounds(data, position) {
  if (data.length - position < 2) throw new DerError("an element is cut short");
  const tag = data[position];
  let size = data[position + 1];
  let start = position + 2;
  if ((tag & 0x1f) === 0x1f) throw new DerError("a tag number over 30");
  if (size >= 0x80) {
    const octets = size & 0x7f;
    // The shortest form only: no leading zero, and long only where short will not do.
    if (octets < 1 || octets > 4 || data.length - start < octets || data[start] === 0) {
      throw new DerError("a length is not in its shortest form");
    }
    size = data.subarray(start, start + octets).reduce((sum, octet) => sum * 256 + octet, 0);
    if (size < 0x80) throw new DerError("a length is not in its shortest form");
    start += octets;
  }
  if (data.length - start < size) throw new DerError("an element is cut short");
  return [tag, start, start + size];
}
