// JSON that is hostile until shown otherwise: bounded, nothing twice, whole numbers only.

import { fromHex } from "./bytes.js";
import { moment } from "./der.js";
import { AttestationError } from "./refusal.js";

const MAX_DEPTH = 16; // Intel's documents have 6, and some 500 containers
const MAX_CONTAINERS = 20_000;
const SAFE_DIGITS = 15; // integers this short are numbers, longer ones BigInt
const TOKEN =
  /[ \t\r\n]*(?:([[\]{}:,])|"((?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)"|(-?(?:0|[1-9][0-9]*))(?![.eE0-9])|(true|false|null))/y;
const SPACE = /[ \t\r\n]*/y;
const WORDS = new Map([
  ["true", true],
  ["false", false],
  ["null", null],
]);

/** @typedef {Map<string, unknown>} JsonObject */

class NotStrictError extends Error {}

class Parser {
  /** @param {string} text @param {number} maxDigits */
  constructor(text, maxDigits) {
    this.text = text;
    this.maxDigits = maxDigits;
    this.position = 0;
    this.containers = 0;
  }

  /** @returns {unknown} */
  document() {
    const value = this.value(this.token(), 0);
    SPACE.lastIndex = this.position;
    SPACE.test(this.text);
    if (SPACE.lastIndex !== this.text.length) throw new NotStrictError("something follows it");
    return value;
  }

  /** @returns {RegExpExecArray} */
  token() {
    TOKEN.lastIndex = this.position;
    const found = TOKEN.exec(this.text);
    if (found === null) throw new NotStrictError("it is not JSON, or holds a number that is not whole");
    this.position = TOKEN.lastIndex;
    return found;
  }

  /** @param {RegExpExecArray} token @param {number} depth @returns {unknown} */
  value(token, depth) {
    const [whole, mark, , number, word] = token;
    if (number !== undefined) return this.number(number);
    if (word !== undefined) return WORDS.get(word);
    if (mark === undefined) return JSON.parse(whole);
    if (mark !== "{" && mark !== "[") throw new NotStrictError("it is not JSON");
    this.containers += 1;
    if (depth === MAX_DEPTH || this.containers > MAX_CONTAINERS) {
      throw new NotStrictError("it is nested too deeply or holds too much");
    }
    return mark === "{" ? this.object(depth + 1) : this.array(depth + 1);
  }

  /** @param {string} text */
  number(text) {
    if (text.length > this.maxDigits) throw new NotStrictError("it holds a number with too many digits");
    return text.length > SAFE_DIGITS ? BigInt(text) : Number(text);
  }

  /** @param {number} depth @returns {JsonObject} */
  object(depth) {
    const values = new Map();
    let token = this.token();
    if (token[1] === "}") return values;
    for (;;) {
      if (token[1] ?? token[3] ?? token[4]) throw new NotStrictError("it is not JSON");
      const key = JSON.parse(token[0]);
      if (values.has(key)) throw new NotStrictError("a key appears twice in one object");
      this.mark(":");
      values.set(key, this.value(this.token(), depth));
      if (this.mark(",", "}") === "}") return values;
      token = this.token();
    }
  }

  /** @param {number} depth @returns {unknown[]} */
  array(depth) {
    /** @type {unknown[]} */
    const values = [];
    let token = this.token();
    if (token[1] === "]") return values;
    for (;;) {
      values.push(this.value(token, depth));
      if (this.mark(",", "]") === "]") return values;
      token = this.token();
    }
  }

  /** @param {...string} marks @returns {string} */
  mark(...marks) {
    const mark = this.token()[1];
    if (mark === undefined || !marks.includes(mark)) throw new NotStrictError("it is not JSON");
    return mark;
  }
}

/** The fields of a JSON object, each read as the type it must have. */
export class Fields {
  /** @param {unknown} values @param {string} what what errors call it @param {string} reason */
  constructor(values, what, reason) {
    this.what = what;
    this.reason = reason;
    if (!(values instanceof Map)) throw new AttestationError(reason, `${what} is not a JSON object`);
    /** @type {JsonObject} */
    this.values = values;
  }

  /** @param {string} name @returns {string} */
  text(name) {
    const value = this.values.get(name);
    return typeof value === "string" ? value : this.wrong(name, "text");
  }

  /** A whole number from 0 to `limit`. @param {string} name @param {number} limit @returns {number} */
  integer(name, limit) {
    const value = this.values.get(name);
    if (typeof value !== "number" || value < 0 || value > limit) this.wrong(name, `a whole number from 0 to ${limit}`);
    return /** @type {number} */ (value);
  }

  /** @param {string} name @param {number} [size] @returns {Uint8Array} */
  hexadecimal(name, size) {
    const bytes = fromHex(this.text(name));
    if (bytes === null || (size !== undefined && bytes.length !== size)) this.wrong(name, "bytes in hexadecimal");
    return /** @type {Uint8Array} */ (bytes);
  }

  /** A time in UTC (RFC 3339), in whole seconds. @param {string} name @returns {number} milliseconds since 1970 */
  time(name) {
    const found = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z$/.exec(this.text(name));
    try {
      if (found !== null) {
        const [year, month, day, hour, minute, second] = found.slice(1).map(Number);
        return moment(year, month, day, hour, minute, second);
      }
    } catch {
      // no such date
    }
    return this.wrong(name, "a time like 2025-06-19T10:56:11Z");
  }

  /** An array of objects. @param {string} name @returns {Fields[]} */
  objects(name) {
    const value = this.values.get(name);
    if (!Array.isArray(value)) return this.wrong(name, "an array");
    return value.map((one, index) => new Fields(one, `${this.what}: ${name}[${index}]`, this.reason));
  }

  /** An object. @param {string} name @returns {Fields} */
  inner(name) {
    return new Fields(this.values.get(name), `${this.what}: ${name}`, this.reason);
  }

  /** An array of strings that match, which may be absent. @param {string} name @param {RegExp} pattern */
  texts(name, pattern) {
    const value = this.values.has(name) ? this.values.get(name) : [];
    const isRight = Array.isArray(value) && value.every((one) => typeof one === "string" && pattern.test(one));
    if (!isRight) this.wrong(name, `an array of texts like ${pattern.source}`);
    return /** @type {string[]} */ (value);
  }

  /** @param {string} name @param {string} expected @returns {never} */
  wrong(name, expected) {
    throw new AttestationError(this.reason, `${this.what}: ${name} must be ${expected}`);
  }
}

/**
 * Reads a JSON object.
 * @param {string} text its size is bounded by the caller
 * @param {string} what for errors
 * @param {string} reason for errors
 * @param {number} [maxDigits] of its numbers; over 15 digits they come as BigInt
 * @returns {Fields}
 */
export function parseObject(text, what, reason, maxDigits = 10) {
  try {
    return new Fields(new Parser(text, maxDigits).document(), what, reason);
  } catch (error) {
    if (error instanceof AttestationError) throw error;
    const problem = error instanceof NotStrictError ? error.message : "it is not JSON";
    throw new AttestationError(reason, `${what} cannot be read: ${problem}`);
  }
}
