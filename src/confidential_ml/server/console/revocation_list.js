// CRLs of the SGX PKI, read strictly (RFC 5280, 5; docs/attestation.md 4).

import { equal, hex } from "./bytes.js";
import { ECDSA_SHA256, checkedName, parseExtensions } from "./certificates.js";
import {
  DerError,
  GENERALIZED_TIME,
  INTEGER,
  SEQUENCE,
  UTC_TIME,
  elements,
  integer,
  shortest,
  single,
  time,
  typed,
  wholeBits,
} from "./der.js";
import { isSignedBy, rawSignature } from "./ecdsa.js";
import { AttestationError } from "./refusal.js";

const CRL_NUMBER = "551d14";
const AUTHORITY_KEY_IDENTIFIER = "551d23";
const CONTEXT_0 = 0xa0;
const VERSION_2 = 1;
const MAX_NUMBER_BYTES = 20; // RFC 5280, 5.2.3

/**
 * @typedef {import("./certificates.js").Certificate} Certificate
 * @typedef {import("./certificates.js").Validity} Validity
 */

/**
 * Reads a CRL and checks everything but its dates.
 * @param {Uint8Array} der @param {string} what for errors @param {Certificate} issuer
 * @returns {Promise<{ serials: Set<string>, validity: Validity }>}
 */
export async function checkedCrl(der, what, issuer) {
  const crl = readable(() => parse(der), `${what} cannot be read: it is not DER of a CRL`);
  if (!equal(crl.issuer, issuer.subject)) throw new AttestationError("crl-issuer", `${what} is of another issuer`);
  const signature = rawSignature(crl.signature);
  const isRight =
    crl.algorithm === ECDSA_SHA256 &&
    signature !== null &&
    issuer.key !== null &&
    (await isSignedBy(issuer.key, signature, crl.body));
  if (!isRight) throw new AttestationError("crl-signature", `${what} has a wrong signature`);
  const serials = readable(() => revoked(crl), `${what} holds what this page does not know, or lacks a number`);
  const { thisUpdate: start, nextUpdate: end } = crl;
  if (end === null || start < 0) throw new AttestationError("crl-format", `${what} has no next update`);
  return { serials, validity: { what, start, end, tooEarly: "crl-not-yet-valid", tooLate: "crl-expired" } };
}

/** @template T @param {() => T} read @param {string} sentence @returns {T} */
function readable(read, sentence) {
  try {
    return read();
  } catch (error) {
    if (error instanceof DerError) throw new AttestationError("crl-format", sentence);
    throw error;
  }
}

/** @param {Uint8Array} der */
function parse(der) {
  const [body, algorithm, signature, ...rest] = elements(single(der, SEQUENCE));
  const fields = elements(typed(body, SEQUENCE));
  typed(algorithm, SEQUENCE);
  if (integer(typed(fields.shift(), INTEGER), VERSION_2) !== VERSION_2) throw new DerError("not of version 2");
  const innerAlgorithm = fields.shift();
  if (rest.length !== 0 || innerAlgorithm === undefined || !equal(innerAlgorithm.whole, algorithm.whole))
    throw new DerError("two algorithms");
  const issuer = fields.shift();
  const thisUpdate = time(fields.shift());
  const hasNext = fields[0]?.tag === UTC_TIME || fields[0]?.tag === GENERALIZED_TIME;
  const nextUpdate = hasNext ? time(fields.shift()) : null;
  const entries = fields[0]?.tag === SEQUENCE ? elements(typed(fields.shift(), SEQUENCE)) : [];
  const extensions = parseExtensions(typed(fields.shift(), CONTEXT_0));
  if (fields.length !== 0 || issuer === undefined) throw new DerError("something is left over");
  return {
    body: body.whole,
    algorithm: hex(algorithm.whole),
    signature: wholeBits(signature),
    issuer: checkedName(issuer),
    thisUpdate,
    nextUpdate,
    entries,
    extensions,
  };
}

/** The serial numbers; not of a list that may be a part of one or hold entries of another issuer. */
function revoked(/** @type {ReturnType<typeof parse>} */ crl) {
  const number = crl.extensions.get(CRL_NUMBER);
  const isKnown = crl.extensions.size === 2 && crl.extensions.has(AUTHORITY_KEY_IDENTIFIER);
  if (number === undefined || !isKnown) throw new DerError("unknown extensions");
  const [found, ...rest] = elements(number.value);
  const digits = shortest(found);
  if (rest.length !== 0 || digits[0] >= 0x80 || digits.length > MAX_NUMBER_BYTES) throw new DerError("the number");
  return new Set(crl.entries.map(serialOf));
}

/** @param {import("./der.js").Element} entry @returns {string} */
function serialOf(entry) {
  const [serial, date, extensions, ...rest] = elements(typed(entry, SEQUENCE));
  time(date);
  const isKnown =
    extensions === undefined || [...parseExtensions(extensions.whole).values()].every((one) => !one.critical);
  if (rest.length !== 0 || !isKnown) throw new DerError("an entry is malformed or holds what is not known");
  return hex(shortest(serial));
}
