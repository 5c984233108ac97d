// The SGX extension of a PCK certificate: which machine it is and what TCB the certificate is for.

import { hex } from "./bytes.js";
import {
  BOOLEAN,
  DerError,
  ENUMERATED,
  INTEGER,
  OBJECT_IDENTIFIER,
  OCTET_STRING,
  SEQUENCE,
  boolean,
  elements,
  integer,
  single,
  typed,
} from "./der.js";

export const SGX_EXTENSION = "2a864886f84d010d01"; // 1.2.840.113741.1.13.1
const [PPID, TCB, PCE_ID, FMSPC, SGX_TYPE, INSTANCE, CONFIGURATION] = [1, 2, 3, 4, 5, 6, 7];
const MAX_SGX_TYPE = 2;
const PCE_SVN = 17;
const CPU_SVN = 18;

/** @typedef {ReturnType<typeof parsePckExtension>} PckExtension */

/** Reads the extension's value; a DerError if anything is missing, unknown, there twice or of another type. */
export function parsePckExtension(/** @type {Uint8Array} */ data) {
  const fields = numbered(single(data, SEQUENCE), SGX_EXTENSION);
  const isOfPlatformCa = fields.has(INSTANCE);
  checkNumbers(fields, isOfPlatformCa ? CONFIGURATION : SGX_TYPE);
  const tcb = numbered(typed(fields.get(TCB), SEQUENCE), `${SGX_EXTENSION}02`);
  checkNumbers(tcb, CPU_SVN);
  octets(tcb.get(CPU_SVN), 16);
  if (isOfPlatformCa) {
    octets(fields.get(INSTANCE), 16);
    checkConfiguration(typed(fields.get(CONFIGURATION), SEQUENCE));
  }
  integer(typed(fields.get(SGX_TYPE), ENUMERATED), MAX_SGX_TYPE);
  return {
    ppid: hex(octets(fields.get(PPID), 16)),
    pceId: hex(octets(fields.get(PCE_ID), 2)),
    fmspc: hex(octets(fields.get(FMSPC), 6)),
    components: Array.from({ length: 16 }, (_, at) => integer(typed(tcb.get(at + 1), INTEGER), 255)),
    pceSvn: integer(typed(tcb.get(PCE_SVN), INTEGER), 65535),
  };
}

/**
 * The (OID, value) pairs of a sequence, by the number that follows `prefix` in their OIDs.
 * @param {Uint8Array} content @param {string} prefix
 */
function numbered(content, prefix) {
  const fields = new Map();
  for (const pair of elements(content)) {
    const [oid, value, ...rest] = elements(typed(pair, SEQUENCE));
    const name = hex(typed(oid, OBJECT_IDENTIFIER));
    if (value === undefined || rest.length !== 0) throw new DerError("a field is not an OID with a value");
    if (!name.startsWith(prefix) || name.length !== prefix.length + 2)
      throw new DerError("an OID does not belong here");
    const number = parseInt(name.slice(-2), 16);
    if (fields.has(number)) throw new DerError("a field is there twice");
    fields.set(number, value);
  }
  return fields;
}

/** Refuses fields that are not numbered 1 to `last`. @param {Map<number, unknown>} fields @param {number} last */
function checkNumbers(fields, last) {
  const isWhole = Array.from({ length: last }, (_, at) => fields.has(at + 1)).every((has) => has);
  if (fields.size !== last || !isWhole) throw new DerError("fields are missing or unknown");
}

/** @param {Uint8Array} content */
function checkConfiguration(content) {
  for (const [number, value] of numbered(content, `${SGX_EXTENSION}07`)) {
    if (number < 1 || number > 3) throw new DerError("a configuration field is unknown");
    boolean(typed(value, BOOLEAN));
  }
}

/** @param {import("./der.js").Element | undefined} element @param {number} size */
function octets(element, size) {
  const content = typed(element, OCTET_STRING);
  if (content.length !== size) throw new DerError(`a field has ${content.length} bytes, expected ${size}`);
  return content;
}
