// Answers of an enclave to confidential requests (docs/protocol.md 4).

import { Reader, ascii, concat, equal, isZero, littleEndian } from "./bytes.js";
import { hkdfExpand, hkdfExtract } from "./hpke.js";
import { KIND_PREDICT, RECEIPT_SIZE, VERSION } from "./protocol.js";
import { RemoteError } from "./refusal.js";

const HEADER_SIZE = 16;
const NONCE_SIZE = 32;
const OVERHEAD = HEADER_SIZE + NONCE_SIZE + 16;

/**
 * @typedef {{ status: number, content: Uint8Array, receipt: Uint8Array, blind: Uint8Array, plaintext: Uint8Array }} Answer
 * @typedef {import("./request.js").Request} Request
 */

/**
 * Decrypts an answer; a RemoteError unless it is the enclave's answer to exactly this request.
 * @param {Request} request @param {Uint8Array} answer @returns {Promise<Answer>}
 */
export async function openAnswer(request, answer) {
  if (answer.length !== OVERHEAD + request.answerSize) {
    throw new RemoteError(
      `the answer has ${answer.length} bytes, not ${OVERHEAD + request.answerSize}; it was exchanged`,
    );
  }
  const header = answer.slice(0, HEADER_SIZE);
  const nonce = answer.slice(HEADER_SIZE, HEADER_SIZE + NONCE_SIZE);
  const keyId = request.message.slice(8, 16);
  if (!equal(header, concat(littleEndian(VERSION, 2), littleEndian(KIND_PREDICT, 2), new Uint8Array(4), keyId))) {
    throw new RemoteError("the answer's header is not that of an answer to this request; it was changed or exchanged");
  }
  const prk = await hkdfExtract(concat(request.message.slice(56, 88), nonce), request.answerSecret);
  const raw = await hkdfExpand(prk, ascii("key"), 32);
  const key = await crypto.subtle.importKey("raw", raw, { name: "AES-GCM" }, false, ["decrypt"]);
  const iv = await hkdfExpand(prk, ascii("nonce"), 12);
  let plaintext;
  try {
    const sealed = answer.slice(HEADER_SIZE + NONCE_SIZE);
    plaintext = new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData: header }, key, sealed));
  } catch {
    throw new RemoteError("the answer is not what the enclave sent for this request: it was changed or exchanged");
  }
  return parse(plaintext);
}

/** @param {Uint8Array} plaintext @returns {Answer} */
function parse(plaintext) {
  const read = new Reader(plaintext);
  const status = read.u32();
  const receiptSize = read.u32();
  const contentSize = read.u64();
  const blind = read.take(32);
  if ((receiptSize !== 0 && receiptSize !== RECEIPT_SIZE) || contentSize > BigInt(read.left - receiptSize)) {
    throw malformed("its sizes exceed it");
  }
  const content = read.take(Number(contentSize));
  const receipt = read.take(receiptSize);
  if (!isZero(read.take(read.left))) throw malformed("its padding is not zero");
  if (status !== 0 && (receiptSize !== 0 || contentSize !== 0n))
    throw malformed("it reports a failure and holds a result");
  if (receiptSize === 0 && !isZero(blind)) throw malformed("it has a blind and no receipt");
  return { status, content, receipt, blind, plaintext };
}

/** @param {string} problem */
function malformed(problem) {
  return new RemoteError(`the enclave's answer is malformed: ${problem}; page and enclave do not match`);
}
