// Rows as people write them, and numbers as they are.

import { InputError } from "./refusal.js";

const NUMBER = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/;
const INFINITE = /^([-+]?)(?:inf|infinity)$/i;
const MAX_ROWS = 100_000;

/**
 * Reads rows, one a line, values with commas, semicolons, tabs or spaces; empty and "nan" are missing values.
 * @param {string} text @param {number} features columns of the model
 * @returns {Float32Array} row-major, rounded to float32 as numpy does
 */
export function parseRows(text, features) {
  const lines = text
    .split(/\r?\n/)
    .map((line) =>
      line
        .trim()
        .replace(/^\[+/, "")
        .replace(/\]+,?$/, ""),
    )
    .filter((line) => line !== "");
  if (lines.length === 0) throw new InputError("Type at least one row.");
  if (lines.length > MAX_ROWS) throw new InputError(`At most ${MAX_ROWS} rows go into one request of this page.`);
  const rows = new Float32Array(lines.length * features);
  for (const [at, line] of lines.entries()) {
    const values = line.split(/[,;\t]/.test(line) ? /[,;\t]/ : /\s+/).map((value) => value.trim());
    if (values.length !== features) {
      throw new InputError(`Row ${at + 1} has ${values.length} values, the model has ${features} features.`);
    }
    values.forEach((value, column) => {
      rows[at * features + column] = parseValue(value, at + 1, column + 1);
    });
  }
  return rows;
}

/** @param {string} text @param {number} row @param {number} column @returns {number} */
function parseValue(text, row, column) {
  if (text === "" || /^(?:nan|null|none)$/i.test(text)) return NaN;
  const infinite = INFINITE.exec(text);
  if (infinite !== null) return infinite[1] === "-" ? -Infinity : Infinity;
  if (!NUMBER.test(text)) throw new InputError(`Row ${row}, column ${column} is not a number.`);
  return Number(text);
}

/**
 * The shortest decimal that is this float32 and no other.
 * @param {number} value a float32 @returns {string}
 */
export function exactDecimal(value) {
  if (Object.is(value, -0)) return "-0";
  if (!Number.isFinite(value)) return String(value);
  for (let digits = 1; digits < 9; digits += 1) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}

/** The bits of a float32 in hexadecimal, most significant first. @param {number} value @returns {string} */
export function bits(value) {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return view.getUint32(0).toString(16).padStart(8, "0");
}
