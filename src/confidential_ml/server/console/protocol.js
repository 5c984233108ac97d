// Numbers of docs/protocol.md that more than one module needs, padding, and messages (7).

import { Reader, concat, littleEndian } from "./bytes.js";
import { RemoteError } from "./refusal.js";

export const VERSION = 1;
export const SUITE = 1;
export const KIND_PREDICT = 1;
export const RECEIPT_SIZE = 344;
export const ANSWER_PREFIX_SIZE = 48;
export const MAX_CONTENT = 16 << 20; // of the padded plaintext of a prediction, and of an answer
const SMALLEST_BUCKET = 256;
const BUCKETS_PER_OCTAVE = 8;
const OPERATION_REQUEST = 2;
const RESULTS = new Map([
  [1, "unreadable"],
  [2, "refused"],
  [3, "try-later"],
]);

/**
 * The smallest m x 2^k, m in 8..15 and k >= 5, that holds `size` bytes (3.3).
 * @param {number} size
 * @returns {number}
 */
export function bucketSize(size) {
  if (size <= SMALLEST_BUCKET) return SMALLEST_BUCKET;
  const step = 2 ** (32 - Math.clz32(size - 1)) / (2 * BUCKETS_PER_OCTAVE);
  return Math.ceil(size / step) * step;
}

/** What the host is sent. @param {Uint8Array} request @returns {Uint8Array} */
export function requestMessage(request) {
  return concat(littleEndian(VERSION, 2), littleEndian(OPERATION_REQUEST, 2), request);
}

/**
 * The answer in a reply of the host; a RemoteError with the result as its code for every other reply.
 * @param {Uint8Array} reply @returns {Uint8Array}
 */
export function answerOf(reply) {
  const read = new Reader(reply);
  if (reply.length < 4 || read.u16() !== VERSION) throw new RemoteError("the reply is not one of the protocol");
  const result = read.u16();
  if (result === 0) return read.take(read.left);
  const code = RESULTS.get(result);
  if (code === undefined || read.left !== 0) throw new RemoteError("the reply is not one of the protocol");
  throw new RemoteError(
    {
      unreadable: "the enclave cannot read the request: it was changed, sent twice, or is for a key that is gone",
      refused: "the host refused the message before the enclave saw it: too long, or of a kind it does not take",
    }[code] ?? "the host has no room for this now or is replacing its enclave; try again later",
    code,
  );
}
