// Whom the page believes in the end: a root, known by the SHA-256 of its public key.

import { fromHex, hex, sha256 } from "./bytes.js";
import { INTEL_ROOT_KEY } from "./compiled_in.js";

/** @typedef {{ name: string, fingerprint: string, isIntels: boolean }} TrustRoot */

/** Intel's, whose key is part of this page. @returns {Promise<TrustRoot>} */
export async function intelRoot() {
  const key = /** @type {Uint8Array} */ (fromHex(INTEL_ROOT_KEY));
  return { name: "Intel SGX Root CA", fingerprint: hex(await sha256(key)), isIntels: true };
}
