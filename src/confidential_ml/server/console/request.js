// Confidential requests: rows, encrypted to an enclave's epoch key (docs/protocol.md 3).

import { ascii, concat, fromHex, littleEndian } from "./bytes.js";
import { setupSender } from "./hpke.js";
import { ANSWER_PREFIX_SIZE, KIND_PREDICT, MAX_CONTENT, RECEIPT_SIZE, SUITE, VERSION, bucketSize } from "./protocol.js";
import { InputError, RemoteError } from "./refusal.js";

const LABEL = ascii("confidential_ml request v1");
const ANSWER_LABEL = ascii("confidential_ml answer v1");
const ANSWER_SECRET_SIZE = 32;
const NONCE_SIZE = 16;
const FLOAT32_SIZE = 4;
const OUTPUT_MARGIN = 1;
const WANTS_RECEIPT = 2;

/**
 * A request as it is sent, and what opens its answer.
 * @typedef {{ message: Uint8Array, plaintext: Uint8Array, contentSize: number, answerSize: number,
 *   answerSecret: Uint8Array }} Request
 * @typedef {{ outputMargin: boolean, wantsReceipt: boolean, time: bigint }} Options time: milliseconds since 1970, or 0
 */

/**
 * Encrypts rows to an enclave.
 * @param {import("./claims.js").Claims} claims **verified**
 * @param {import("./claims.js").ModelClaim} model
 * @param {Float32Array} rows row-major
 * @param {Options} options
 * @returns {Promise<Request>}
 */
export async function predictRequest(claims, model, rows, options) {
  const flags = (options.outputMargin ? OUTPUT_MARGIN : 0) | (options.wantsReceipt ? WANTS_RECEIPT : 0);
  const rowCount = rows.length / model.nFeatures;
  const fields = concat(
    littleEndian(flags, 4),
    littleEndian(0, 8), // all rounds
    littleEndian(model.nFeatures, 4),
    littleEndian(rowCount, 8),
    littleEndian(0, 8), // no base margin
    littleEndian(options.time, 8),
  );
  const columns = options.outputMargin ? model.nGroups : model.nValues;
  const contentSize = rowCount * columns * FLOAT32_SIZE;
  const answerSize = bucketSize(ANSWER_PREFIX_SIZE + contentSize + (options.wantsReceipt ? RECEIPT_SIZE : 0));
  const plaintext = padded(concat(fields, float32Bytes(rows)));
  if (plaintext.length > MAX_CONTENT || answerSize > MAX_CONTENT) {
    throw new InputError("These are too many rows for one request of this page.");
  }
  return encrypted(claims, model.modelDigest, plaintext, contentSize, answerSize);
}

/**
 * @param {import("./claims.js").Claims} claims @param {string} modelDigest @param {Uint8Array} plaintext
 * @param {number} contentSize @param {number} answerSize @returns {Promise<Request>}
 */
async function encrypted(claims, modelDigest, plaintext, contentSize, answerSize) {
  const header = concat(
    littleEndian(VERSION, 2),
    littleEndian(SUITE, 2),
    littleEndian(KIND_PREDICT, 2),
    littleEndian(0, 2),
    claims.keyId,
    /** @type {Uint8Array} */ (fromHex(modelDigest)),
    littleEndian(answerSize, 4),
    littleEndian(0, 4),
  );
  const nonce = crypto.getRandomValues(new Uint8Array(NONCE_SIZE));
  let sender;
  try {
    sender = await setupSender(claims.epochPublicKey, concat(LABEL, header, nonce, claims.epochDigest));
  } catch {
    throw new RemoteError("the enclave's epoch key is no X25519 key that can be encrypted to");
  }
  const message = concat(header, sender.enc, nonce, await sender.context.seal(header, plaintext));
  const answerSecret = await sender.context.export(ANSWER_LABEL, ANSWER_SECRET_SIZE);
  return { message, plaintext, contentSize, answerSize, answerSecret };
}

/** float32, little-endian whatever this machine is. @param {Float32Array} values @returns {Uint8Array} */
export function float32Bytes(values) {
  const view = new DataView(new ArrayBuffer(values.length * FLOAT32_SIZE));
  values.forEach((value, at) => view.setFloat32(at * FLOAT32_SIZE, value, true));
  return new Uint8Array(view.buffer);
}

/** @param {Uint8Array} content @returns {Uint8Array} with zeros up to a bucket size */
function padded(content) {
  return concat(content, new Uint8Array(bucketSize(content.length) - content.length));
}
