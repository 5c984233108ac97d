// Collateral: the signed and dated documents that a verifier needs besides the quote (docs/attestation.md 3).

import { ascii } from "./bytes.js";
import { PCK_CRL_ISSUER_CHAIN, TCB_SIGNER_CHAIN, checkedChain } from "./certificates.js";
import { isSignedBy } from "./ecdsa.js";
import { AttestationError } from "./refusal.js";
import { checkedCrl } from "./revocation_list.js";
import { parseObject } from "./strict_json.js";
import { parseQeIdentity, parseTcbInfo } from "./tcb.js";

export const MAX_COLLATERAL_SIZE = 2 << 20;
const MAX_CHAIN_SIZE = 16 << 10;
const MAX_DOCUMENT_SIZE = 256 << 10; // of a CRL too
const SIGNATURE_SIZE = 64;
const TEXTS = ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "tcb_info", "qe_identity_issuer_chain", "qe_identity"];
const HEXADECIMALS = ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"];

/**
 * @typedef {Record<string, Uint8Array>} Collateral by the names of docs/attestation.md 3
 * @typedef {import("./trust_root.js").TrustRoot} TrustRoot
 * @typedef {Awaited<ReturnType<typeof checkedCollateral>>} CheckedCollateral
 */

/** Reads the JSON form; nothing in it is verified. @param {Uint8Array} document @returns {Collateral} */
export function parseCollateral(document) {
  if (document.length > MAX_COLLATERAL_SIZE) throw malformed(`it has ${document.length} bytes`);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(document);
  } catch {
    throw malformed("it is not UTF-8");
  }
  const found = parseObject(text, "the collateral", "collateral-format");
  const names = [...TEXTS, ...HEXADECIMALS];
  if (found.values.size !== names.length || !names.every((name) => found.values.has(name))) {
    throw malformed(`its keys must be ${names.join(", ")}`);
  }
  /** @type {Collateral} */
  const values = {};
  for (const name of TEXTS) {
    if (!/^[\x00-\x7f]*$/.test(found.text(name))) throw malformed(`${name} holds a character that is not ASCII`);
    values[name] = ascii(found.text(name));
  }
  for (const name of HEXADECIMALS) values[name] = found.hexadecimal(name);
  for (const name of names) checkSize(name, values[name].length);
  return values;
}

/**
 * Checks all that does not depend on the time or the quote.
 * @param {Collateral} collateral @param {TrustRoot} root @param {string[]} steps is added to
 */
export async function checkedCollateral(collateral, root, steps) {
  const issuer = await checkedChain(collateral.pck_crl_issuer_chain, PCK_CRL_ISSUER_CHAIN, root, "the collateral");
  const rootCrl = await checkedCrl(collateral.root_ca_crl, "the root CA CRL", issuer.certificates[1]);
  const pckCrl = await checkedCrl(collateral.pck_crl, "the PCK CRL", issuer.certificates[0]);
  steps.push(`CRLs signed: root CA, ${rootCrl.serials.size} revoked; PCK, ${pckCrl.serials.size} revoked`);
  const tcbChain = await checkSigned(collateral, "tcb_info", "tcb-info-signature", root);
  const tcbInfo = parseTcbInfo(latin(collateral.tcb_info));
  const qeChain = await checkSigned(collateral, "qe_identity", "qe-identity-signature", root);
  const qeIdentity = parseQeIdentity(latin(collateral.qe_identity));
  steps.push(
    "TCB info and QE identity signed by a TCB signing certificate of the root; evaluation data numbers " +
      `${tcbInfo.evaluationNumber} and ${qeIdentity.evaluationNumber}`,
  );
  const chains = [issuer, tcbChain, qeChain];
  return {
    rootCrl,
    pckCrl,
    pckCa: issuer.certificates[0],
    tcbSigners: [tcbChain, qeChain].map((chain) => chain.certificates[0].serial),
    roots: chains.map((chain) => chain.certificates[chain.certificates.length - 1].serial),
    tcbInfo,
    qeIdentity,
    validities: [
      ...chains.flatMap((chain) => chain.validities),
      rootCrl.validity,
      pckCrl.validity,
      dates("the TCB info", "tcb-info", tcbInfo),
      dates("the QE identity", "qe-identity", qeIdentity),
    ],
  };
}

/** @param {Collateral} collateral @param {string} name @param {string} reason @param {TrustRoot} root */
async function checkSigned(collateral, name, reason, root) {
  const what = name === "tcb_info" ? "the TCB info" : "the QE identity";
  const chain = await checkedChain(collateral[`${name}_issuer_chain`], TCB_SIGNER_CHAIN, root, what);
  const { key } = chain.certificates[0];
  if (key === null || !(await isSignedBy(key, collateral[`${name}_signature`], collateral[name]))) {
    throw new AttestationError(reason, `${what} has a wrong signature: its text is not the one that was signed`);
  }
  return chain;
}

/** @param {string} what @param {string} reason @param {{ issueDate: number, nextUpdate: number }} document */
function dates(what, reason, { issueDate, nextUpdate }) {
  return { what, start: issueDate, end: nextUpdate, tooEarly: `${reason}-not-yet-valid`, tooLate: `${reason}-expired` };
}

/** @param {string} name @param {number} size */
function checkSize(name, size) {
  const limit = name.endsWith("_chain") ? MAX_CHAIN_SIZE : MAX_DOCUMENT_SIZE;
  if (size > limit) throw malformed(`${name} has ${size} bytes; at most ${limit} are read`);
  if (name.endsWith("_signature") && size !== SIGNATURE_SIZE) throw malformed(`${name} has ${size} bytes, not 64`);
}

/** @param {Uint8Array} bytes ASCII */
function latin(bytes) {
  return new TextDecoder().decode(bytes);
}

/** @param {string} problem */
function malformed(problem) {
  return new AttestationError("collateral-format", `the collateral is malformed: ${problem}`);
}
