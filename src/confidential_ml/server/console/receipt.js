// Receipts of predictions: what an enclave signs of what it did, hashes only (docs/protocol.md 6).

import { Reader, ascii, concat, equal, hex, isZero, latin1, sha256 } from "./bytes.js";
import { KIND_PREDICT, RECEIPT_SIZE } from "./protocol.js";
import { RemoteError } from "./refusal.js";

const LABEL = ascii("confidential_ml receipt v1");
const CONTENT_LABEL = ascii("confidential_ml content v1");
const SIGNED_SIZE = 280;

/** @typedef {ReturnType<typeof parseReceipt>} Receipt */

/** Takes a receipt of a prediction apart, strictly; nothing is verified. @param {Uint8Array} data */
export function parseReceipt(data) {
  const read = new Reader(data);
  if (data.length !== RECEIPT_SIZE || latin1(read.take(8)) !== "CMLRCPT\0") throw wrong("it is none");
  const version = read.u32();
  const [kind, policy] = [read.u16(), read.u16()];
  const instance = read.take(16);
  const [counter, time, modelVersion] = [read.u64(), read.u64(), read.u64()];
  const modelDigest = hex(read.take(32));
  const owner = read.take(32);
  const epochDigest = read.take(32);
  const mrenclave = hex(read.take(32));
  const requestDigest = read.take(32);
  const contentDigest = read.take(32);
  if (version !== 1 || kind !== KIND_PREDICT || policy !== 0 || counter === 0n || !isZero(read.take(32))) {
    throw wrong("a field has a value that version 1 does not know");
  }
  return {
    instance,
    counter,
    time,
    modelVersion,
    modelDigest,
    owner: isZero(owner) ? null : hex(owner),
    epochDigest,
    mrenclave,
    requestDigest,
    contentDigest,
    signature: read.take(64),
    data,
  };
}

/**
 * Verifies that the enclave signed it, and that it is of this request and these predictions.
 * @param {Uint8Array} data
 * @param {{ claims: import("./claims.js").Claims, mrenclave: string }} enclave of verified evidence
 * @param {import("./claims.js").ModelClaim} model @param {bigint} time as the request gave it
 * @param {Uint8Array} request @param {import("./answer.js").Answer} answer
 * @returns {Promise<Receipt>}
 */
export async function verifyReceipt(data, { claims, mrenclave }, model, time, request, answer) {
  const receipt = parseReceipt(data);
  const isOfEnclave =
    receipt.mrenclave === mrenclave &&
    equal(receipt.instance, claims.instance) &&
    equal(receipt.epochDigest, claims.epochDigest);
  if (!isOfEnclave) throw wrong("it is of another enclave, another run or another epoch");
  if (!(await isSigned(receipt, claims.receiptPublicKey))) throw wrong("it is not signed by the enclave's receipt key");
  if (!equal(await sha256(request), receipt.requestDigest)) throw wrong("it is of another request");
  if (!equal(await sha256(concat(CONTENT_LABEL, answer.blind, answer.content)), receipt.contentDigest)) {
    throw wrong("it is of other predictions");
  }
  // Of several that are loaded with this digest any may have answered: what they predict is the same.
  const isOfModel = claims.models.some(
    (one) =>
      one.modelDigest === model.modelDigest &&
      one.modelDigest === receipt.modelDigest &&
      one.owner === receipt.owner &&
      one.version === receipt.modelVersion,
  );
  if (!isOfModel || receipt.time !== time) throw wrong("model, owner, version or time differ from what was asked for");
  return receipt;
}

/** @param {Receipt} receipt @param {Uint8Array} publicKey */
async function isSigned(receipt, publicKey) {
  let key;
  try {
    key = await crypto.subtle.importKey("raw", publicKey, { name: "Ed25519" }, true, ["verify"]);
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotSupportedError") {
      throw wrong("this browser has no Ed25519 and cannot verify it");
    }
    return false;
  }
  return crypto.subtle.verify(
    { name: "Ed25519" },
    key,
    receipt.signature,
    concat(LABEL, receipt.data.slice(0, SIGNED_SIZE)),
  );
}

/** @param {string} problem */
function wrong(problem) {
  return new RemoteError(`the receipt is refused: ${problem}`, "receipt");
}
