// HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 / AES-256-GCM, sender's side, by WebCrypto.

import { ascii, concat } from "./bytes.js";

const KEM_ID = Uint8Array.of(0x00, 0x20);
const KEM_SUITE = concat(ascii("KEM"), KEM_ID);
const HPKE_SUITE = concat(ascii("HPKE"), KEM_ID, Uint8Array.of(0x00, 0x01, 0x00, 0x02));
const VERSION_LABEL = ascii("HPKE-v1");
const BASE_MODE = Uint8Array.of(0);
const HASH_SIZE = 32;
const KEY_SIZE = 32;
const NONCE_SIZE = 12;
const NOTHING = new Uint8Array();

/** Encrypts messages to one recipient, one after the other. */
export class SenderContext {
  /** @param {CryptoKey} key @param {Uint8Array} baseNonce @param {Uint8Array} exporterSecret */
  constructor(key, baseNonce, exporterSecret) {
    this.key = key;
    this.baseNonce = baseNonce;
    this.exporterSecret = exporterSecret;
    this.sequence = 0;
  }

  /** Encrypts the next message; the 16-byte tag comes last. @param {Uint8Array} aad @param {Uint8Array} plaintext */
  async seal(aad, plaintext) {
    const iv = this.baseNonce.slice();
    const last = new DataView(iv.buffer, NONCE_SIZE - 4);
    // Counted before anything is awaited: two messages never share a nonce.
    last.setUint32(0, (last.getUint32(0) ^ this.sequence) >>> 0);
    this.sequence += 1;
    if (this.sequence >= 2 ** 32) throw new RangeError("too many messages for one context");
    const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData: aad }, this.key, plaintext);
    return new Uint8Array(sealed);
  }

  /** A secret that only both ends have (RFC 9180, 5.3). @param {Uint8Array} context @param {number} size */
  async export(context, size) {
    return labeledExpand(HPKE_SUITE, this.exporterSecret, "sec", context, size);
  }
}

/**
 * SetupBaseS of RFC 9180. Throws if the key is of low order: everybody would know the secret (RFC 7748, 6.1).
 * @param {Uint8Array} publicKey the recipient's, 32 bytes
 * @param {Uint8Array} info what both ends must agree on
 * @returns {Promise<{ enc: Uint8Array, context: SenderContext }>}
 */
export async function setupSender(publicKey, info) {
  const pair = /** @type {CryptoKeyPair} */ (
    await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"])
  );
  const enc = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  return setupSenderWith(publicKey, info, pair.privateKey, enc);
}

/**
 * Apart for the vectors of RFC 9180 alone: an ephemeral key that is used twice with the same info breaks the encryption.
 * @param {Uint8Array} publicKey @param {Uint8Array} info @param {CryptoKey} ephemeral @param {Uint8Array} enc
 */
export async function setupSenderWith(publicKey, info, ephemeral, enc) {
  const recipient = await crypto.subtle.importKey("raw", publicKey, { name: "X25519" }, true, []);
  const bits = await crypto.subtle.deriveBits({ name: "X25519", public: recipient }, ephemeral, 8 * HASH_SIZE);
  const dh = new Uint8Array(bits);
  // Browsers refuse this themselves; one that did not would encrypt to everybody.
  if (dh.every((byte) => byte === 0)) throw new RangeError("a key of low order");
  const prk = await labeledExtract(KEM_SUITE, NOTHING, "eae_prk", dh);
  const shared = await labeledExpand(KEM_SUITE, prk, "shared_secret", concat(enc, publicKey), HASH_SIZE);
  return { enc, context: await keySchedule(shared, info) };
}

/** RFC 9180, 5.1. @param {Uint8Array} shared @param {Uint8Array} info */
async function keySchedule(shared, info) {
  const pskIdHash = await labeledExtract(HPKE_SUITE, NOTHING, "psk_id_hash", NOTHING);
  const infoHash = await labeledExtract(HPKE_SUITE, NOTHING, "info_hash", info);
  const schedule = concat(BASE_MODE, pskIdHash, infoHash);
  const secret = await labeledExtract(HPKE_SUITE, shared, "secret", NOTHING);
  const raw = await labeledExpand(HPKE_SUITE, secret, "key", schedule, KEY_SIZE);
  const key = await crypto.subtle.importKey("raw", raw, { name: "AES-GCM" }, false, ["encrypt"]);
  const baseNonce = await labeledExpand(HPKE_SUITE, secret, "base_nonce", schedule, NONCE_SIZE);
  return new SenderContext(key, baseNonce, await labeledExpand(HPKE_SUITE, secret, "exp", schedule, HASH_SIZE));
}

/** @param {Uint8Array} suite @param {Uint8Array} salt @param {string} label @param {Uint8Array} ikm */
async function labeledExtract(suite, salt, label, ikm) {
  return hkdfExtract(salt, concat(VERSION_LABEL, suite, ascii(label), ikm));
}

/**
 * @param {Uint8Array} suite
 * @param {Uint8Array} prk
 * @param {string} label
 * @param {Uint8Array} info
 * @param {number} size
 */
async function labeledExpand(suite, prk, label, info, size) {
  const length = Uint8Array.of(size >> 8, size & 0xff);
  return hkdfExpand(prk, concat(length, VERSION_LABEL, suite, ascii(label), info), size);
}

/** HKDF-Extract with SHA-256 (RFC 5869, 2.2). @param {Uint8Array} salt @param {Uint8Array} ikm */
export async function hkdfExtract(salt, ikm) {
  return hmac(salt, ikm);
}

/** HKDF-Expand with SHA-256 (RFC 5869, 2.3). @param {Uint8Array} prk @param {Uint8Array} info @param {number} size */
export async function hkdfExpand(prk, info, size) {
  let output = NOTHING;
  let block = NOTHING;
  for (let counter = 1; output.length < size; counter += 1) {
    block = await hmac(prk, concat(block, info, Uint8Array.of(counter)));
    output = concat(output, block);
  }
  return output.slice(0, size);
}

/** @param {Uint8Array} key @param {Uint8Array} data */
async function hmac(key, data) {
  // HMAC fills keys up with zeros, and WebCrypto takes no empty one.
  const raw = key.length === 0 ? new Uint8Array(HASH_SIZE) : key;
  const imported = await crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
}
