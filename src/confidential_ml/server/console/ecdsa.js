// ECDSA on P-256 with SHA-256, by WebCrypto.

import { concat } from "./bytes.js";
import { DerError, SEQUENCE, elements, shortest, single } from "./der.js";

const SIZE = 32;

/** A public key of its uncompressed point (65 bytes); null if that is none. @param {Uint8Array} point */
export async function importP256(point) {
  try {
    return await crypto.subtle.importKey("raw", point, { name: "ECDSA", namedCurve: "P-256" }, true, ["verify"]);
  } catch {
    return null;
  }
}

/**
 * Whether a raw signature (r and s, 32 bytes each, big-endian) is right.
 * @param {CryptoKey} key @param {Uint8Array} signature @param {Uint8Array} data
 */
export async function isSignedBy(key, signature, data) {
  return crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, signature, data);
}

/** Raw form of a signature in DER, as certificates have it; null if it is none. @param {Uint8Array} der */
export function rawSignature(der) {
  try {
    const [r, s, ...rest] = elements(single(der, SEQUENCE)).map(shortest);
    return rest.length === 0 && r !== undefined && s !== undefined ? concat(padded(r), padded(s)) : null;
  } catch (error) {
    if (error instanceof DerError) return null;
    throw error;
  }
}

/** @param {Uint8Array} content of a positive INTEGER @returns {Uint8Array} */
function padded(content) {
  const digits = content[0] === 0 ? content.subarray(1) : content;
  if (content[0] >= 0x80 || digits.length > SIZE) throw new DerError("a number of a signature is out of range");
  return concat(new Uint8Array(SIZE - digits.length), digits);
}
