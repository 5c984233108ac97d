// Verify evidence: a genuine enclave of some kind signed it, and how its machine stands (docs/attestation.md 4).

import { concat, equal, isZero, sha256 } from "./bytes.js";
import { PCK_CHAIN, checkValidity, checkedChain } from "./certificates.js";
import { parseClaims } from "./claims.js";
import { checkedCollateral } from "./collateral.js";
import { DerError } from "./der.js";
import { importP256, isSignedBy } from "./ecdsa.js";
import { SGX_EXTENSION, parsePckExtension } from "./pck_extension.js";
import { parseEvidence } from "./quote.js";
import { AttestationError } from "./refusal.js";
import { checkQuotingEnclave, levelOf, mergedStatus } from "./tcb.js";

/**
 * @typedef {import("./certificates.js").Chain} Chain
 * @typedef {import("./collateral.js").CheckedCollateral} CheckedCollateral
 * @typedef {import("./pck_extension.js").PckExtension} PckExtension
 * @typedef {import("./quote.js").Quote} Quote
 * @typedef {Awaited<ReturnType<typeof checked>>} VerifiedEvidence
 */

/**
 * Verifies evidence; an AttestationError with reason and steps, if anything is not right.
 * @param {Uint8Array} evidence
 * @param {import("./collateral.js").Collateral} collateral from whoever delivers it
 * @param {import("./trust_root.js").TrustRoot} root whom to believe
 * @param {number} now milliseconds since 1970
 * @returns {Promise<VerifiedEvidence>}
 */
export async function verify(evidence, collateral, root, now) {
  /** @type {string[]} */
  const steps = [];
  try {
    return await checked(evidence, collateral, root, now, steps);
  } catch (error) {
    if (error instanceof AttestationError) error.steps = steps;
    throw error;
  }
}

/**
 * @param {Uint8Array} evidence @param {import("./collateral.js").Collateral} collateral
 * @param {import("./trust_root.js").TrustRoot} root @param {number} now @param {string[]} steps
 */
async function checked(evidence, collateral, root, now, steps) {
  const { quote, claims: claimsBytes } = parseEvidence(evidence);
  const claims = await parseClaims(claimsBytes);
  steps.push(`quote of ${quote.size} bytes: version 3, ECDSA P-256, SGX`);
  const chain = await checkedChain(quote.certificates, PCK_CHAIN, root, "the quote");
  const pck = pckExtension(chain);
  steps.push(`PCK certificate chain up to ${root.name}; FMSPC ${pck.fmspc}, PCE id ${pck.pceId}`);
  const documents = await checkedCollateral(collateral, root, steps);
  const validities = [...chain.validities, ...documents.validities];
  for (const validity of validities) checkValidity(validity, now);
  const earliestExpiry = Math.min(...validities.map((validity) => validity.end));
  steps.push(`all of it valid now; the first expires at ${new Date(earliestExpiry).toISOString().slice(0, 19)}Z`);
  checkRevocation(chain, documents);
  steps.push("PCK, PCK CA and TCB signing certificates not revoked");
  await checkSignatures(quote, chain.certificates[0].key);
  steps.push("quoting enclave signed by the PCK, attestation key by the quoting enclave, quote by the attestation key");
  const level = tcbLevel(quote, pck, documents);
  steps.push(`TCB status ${level.status}, advisories ${level.advisories.join(", ") || "none"}`);
  checkAttributes(quote);
  steps.push(`enclave initialised, 64-bit, ${quote.report.isDebug ? "DEBUG: its memory can be read" : "not debug"}`);
  await checkBinding(quote, claimsBytes);
  steps.push(
    `claims bound by the report data: epoch ${claims.epoch}, ${claims.models.length} models, ${claims.platform}`,
  );
  return {
    report: quote.report,
    claims,
    root,
    tcbStatus: level.status,
    advisories: level.advisories,
    tcbDate: level.date,
    tcbEvaluationNumber: Math.min(documents.tcbInfo.evaluationNumber, documents.qeIdentity.evaluationNumber),
    ppid: pck.ppid,
    fmspc: pck.fmspc,
    pceId: pck.pceId,
    verifiedAt: now,
    earliestExpiry,
    steps,
  };
}

/** @param {Chain} chain @returns {PckExtension} */
function pckExtension(chain) {
  const found = chain.certificates[0].extensions.get(SGX_EXTENSION);
  try {
    return parsePckExtension(found === undefined ? new Uint8Array() : found.value);
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw new AttestationError(
      "pck-extension",
      `the SGX extension of the PCK certificate is malformed: ${error.message}`,
    );
  }
}

/** @param {Chain} chain @param {CheckedCollateral} documents */
function checkRevocation(chain, documents) {
  const [leaf, pckCa, root] = chain.certificates;
  if (!equal(pckCa.subject, documents.pckCa.subject) || !equal(pckCa.spki, documents.pckCa.spki)) {
    throw new AttestationError("crl-issuer", "the PCK CRL is not of the CA that issued the PCK certificate");
  }
  const isRevoked = (/** @type {string} */ serial) => documents.rootCrl.serials.has(serial);
  if ([root.serial, ...documents.roots].some(isRevoked)) {
    throw new AttestationError("root-untrusted", "the root has revoked itself: trust nothing of it");
  }
  if ([pckCa.serial, documents.pckCa.serial].some(isRevoked)) {
    throw new AttestationError("pck-ca-revoked", "the PCK CA's certificate is revoked");
  }
  if (documents.tcbSigners.some(isRevoked)) {
    throw new AttestationError("tcb-signer-revoked", "the TCB signing certificate is revoked");
  }
  if (documents.pckCrl.serials.has(leaf.serial)) {
    throw new AttestationError("pck-revoked", "the PCK certificate of this machine is revoked: do not trust it");
  }
}

/** @param {Quote} quote @param {CryptoKey | null} pck */
async function checkSignatures(quote, pck) {
  if (pck === null || !(await isSignedBy(pck, quote.qeReportSignature, quote.qeReportBytes))) {
    throw new AttestationError("qe-report-signature", "the quoting enclave's report is not signed by the PCK");
  }
  const bound = await sha256(concat(quote.attestationKey, quote.qeAuth));
  if (!isBound(quote.qeReport.reportData, bound)) {
    throw new AttestationError("qe-report-data", "the quoting enclave does not vouch for this attestation key");
  }
  const key = await importP256(concat(Uint8Array.of(4), quote.attestationKey));
  if (key === null) throw new AttestationError("attestation-key", "the attestation key is no point of P-256");
  if (!(await isSignedBy(key, quote.signature, quote.signed))) {
    throw new AttestationError("quote-signature", "the quote is not signed by the attestation key: it was changed");
  }
}

/** Whether report data are a digest and 32 zero bytes. @param {Uint8Array} reportData @param {Uint8Array} digest */
function isBound(reportData, digest) {
  return equal(reportData.slice(0, 32), digest) && isZero(reportData.slice(32));
}

/**
 * The level of platform and quoting enclave together.
 * @param {Quote} quote
 * @param {PckExtension} pck
 * @param {CheckedCollateral} documents
 */
function tcbLevel(quote, pck, { tcbInfo, qeIdentity }) {
  if (tcbInfo.fmspc !== pck.fmspc) {
    throw new AttestationError(
      "tcb-info-fmspc",
      `the TCB info is for FMSPC ${tcbInfo.fmspc}, the machine has ${pck.fmspc}`,
    );
  }
  if (tcbInfo.pceId !== pck.pceId) {
    throw new AttestationError(
      "tcb-info-pceid",
      `the TCB info is for PCE id ${tcbInfo.pceId}, the machine has ${pck.pceId}`,
    );
  }
  checkQuotingEnclave(qeIdentity, quote.qeReport);
  const platform = levelOf(tcbInfo.levels, pck.components, pck.pceSvn);
  const quotingEnclave = levelOf(qeIdentity.levels, [], quote.qeReport.isvSvn);
  if (platform === null || quotingEnclave === null) {
    throw new AttestationError(
      "tcb-level-unknown",
      "platform or quoting enclave reaches no TCB level that Intel lists",
    );
  }
  const status = mergedStatus(platform.status, quotingEnclave.status);
  if (status === "Revoked") {
    throw new AttestationError("tcb-revoked", "Intel has revoked the TCB level of this machine: do not trust it");
  }
  return {
    status,
    advisories: [...new Set([...platform.advisories, ...quotingEnclave.advisories])].sort(),
    date: Math.min(platform.date, quotingEnclave.date),
  };
}

/** @param {Quote} quote */
function checkAttributes({ report }) {
  if (!report.isInitialised || !report.is64Bit || report.hasProvisionKey) {
    throw new AttestationError(
      "enclave-attributes",
      `the enclave has attributes 0x${report.flags.toString(16)}; INIT and MODE64 must be set, PROVISION_KEY must not`,
    );
  }
}

/** @param {Quote} quote @param {Uint8Array} claims */
async function checkBinding(quote, claims) {
  if (!isBound(quote.report.reportData, await sha256(claims))) {
    throw new AttestationError("claims-mismatch", "the claims are not those that the enclave's report binds");
  }
}
