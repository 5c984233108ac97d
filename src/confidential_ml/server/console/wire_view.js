// What went over the wire, byte for byte, and what only the two ends could read.

import { hex } from "./bytes.js";
import { byId, element } from "./dom.js";

const SHOWN = 128; // bytes of a part

/** @typedef {{ name: string, size: number, kind: "clear" | "sealed" | "private", means: string }} Part */

/** @param {import("./session.js").Prediction} done @param {import("./claims.js").ModelClaim} model */
export function showWire(done, model) {
  const legend = element(
    "p",
    "legend",
    element("span", "clear", "anybody on the way can read it"),
    element("span", "sealed", "encrypted: only the enclave and this page"),
    element("span", "private", "in this browser only, never sent"),
  );
  const { message, reply, request, answer } = done;
  byId("wire").replaceChildren(
    legend,
    element(
      "div",
      "wire",
      stream("Sent", `POST /confidential, ${message.length} bytes`, message, requestParts(message, model)),
      stream("Before it was encrypted", `${request.plaintext.length} bytes`, request.plaintext, rowsParts(done, model)),
      stream("Received", `${reply.length} bytes`, reply, answerParts(reply)),
      stream("Once decrypted", `${answer.plaintext.length} bytes`, answer.plaintext, contentParts(done)),
    ),
  );
}

/** @param {Uint8Array} message @param {import("./claims.js").ModelClaim} model @returns {Part[]} */
function requestParts(message, model) {
  return [
    clear("message", 4, "version 1, a request"),
    clear("header", 8, "version, suite, kind: predict"),
    clear("key id", 8, "of the epoch key in the evidence"),
    clear("model digest", 32, model.modelId),
    clear("answer size", 8, "a bucket size"),
    clear("enc", 32, "ephemeral X25519 key, of this request alone"),
    clear("nonce", 16, "random"),
    sealed("ciphertext", message.length - 4 - 104 - 16, "rows, options, zeros up to a bucket size"),
    sealed("tag", 16, "AES-256-GCM"),
  ];
}

/** @param {import("./session.js").Prediction} done @param {import("./claims.js").ModelClaim} model @returns {Part[]} */
function rowsParts({ request, values, columns }, model) {
  const rowCount = values.length / columns;
  const rowsSize = rowCount * model.nFeatures * 4;
  return [
    hidden("options", 40, "flags, rounds, features, rows, time"),
    hidden("rows", rowsSize, `${rowCount} × ${model.nFeatures} float32`),
    hidden("padding", request.plaintext.length - 40 - rowsSize, "zeros up to a bucket size"),
  ];
}

/** @param {Uint8Array} reply @returns {Part[]} */
function answerParts(reply) {
  return [
    clear("reply", 4, "version 1, result 0"),
    clear("header", 8, "version, kind"),
    clear("key id", 8, "of the request"),
    clear("answer nonce", 32, "random"),
    sealed("ciphertext", reply.length - 4 - 48 - 16, "status, predictions, receipt, zeros"),
    sealed("tag", 16, "AES-256-GCM"),
  ];
}

/** @param {import("./session.js").Prediction} done @returns {Part[]} */
function contentParts({ answer, values, columns }) {
  const { content, receipt, plaintext } = answer;
  return [
    hidden("status and sizes", 16, `status ${answer.status}`),
    hidden("blind", 32, receipt.length === 0 ? "zeros without a receipt" : "opens the receipt's hash"),
    hidden("predictions", content.length, `${values.length / columns} × ${columns} float32`),
    ...(receipt.length === 0 ? [] : [hidden("receipt", receipt.length, "hashes, signed by the enclave")]),
    hidden("padding", plaintext.length - 48 - content.length - receipt.length, "zeros"),
  ];
}

/** @param {string} name @param {number} size @param {string} means @returns {Part} */
function clear(name, size, means) {
  return { name, size, kind: "clear", means };
}

/** @param {string} name @param {number} size @param {string} means @returns {Part} */
function sealed(name, size, means) {
  return { name, size, kind: "sealed", means };
}

/** @param {string} name @param {number} size @param {string} means @returns {Part} */
function hidden(name, size, means) {
  return { name, size, kind: "private", means };
}

/** @param {string} title @param {string} note @param {Uint8Array} bytes @param {Part[]} parts */
function stream(title, note, bytes, parts) {
  const made = element("section", "stream", element("h3", "", title, element("span", "", note)));
  let start = 0;
  for (const { name, size, kind, means } of parts) {
    if (size !== 0) made.append(part(name, size, kind, means, bytes.subarray(start, start + size)));
    start += size;
  }
  // What is shown must be all there is.
  if (start !== bytes.length) throw new RangeError(`${title}: the parts do not add up`);
  return made;
}

/** @param {string} name @param {number} size @param {string} kind @param {string} means @param {Uint8Array} bytes */
function part(name, size, kind, means, bytes) {
  const rest = size > SHOWN ? ` … ${(size - SHOWN).toLocaleString("en")} more` : "";
  const about = element("div", "", element("b", "", name), element("small", "", `${size.toLocaleString("en")} bytes`));
  const body = element(
    "div",
    "",
    element("code", "", hex(bytes.subarray(0, SHOWN)) + rest),
    element("div", "means", means),
  );
  return element("div", `part ${kind}`, about, body);
}
