// Appraise: is verified evidence of an enclave that the visitor wants? (docs/attestation.md 4, policy)

import { equal } from "./bytes.js";
import { AttestationError } from "./refusal.js";

/** Says in a policy that any value will do. @type {unique symbol} */
export const ANY = Symbol("ANY");

/**
 * What is wanted; null asks for nothing.
 * @typedef {Set<string> | typeof ANY | null} Accepted
 * @typedef {object} Policy
 * @property {Accepted} mrenclave
 * @property {Accepted} mrsigner
 * @property {number | typeof ANY | null} isvProdId
 * @property {number | null} minIsvSvn
 * @property {Set<string>} acceptedTcb
 * @property {Set<string> | typeof ANY} acceptedAdvisories
 * @property {number | null} minTcbEvaluationNumber
 * @property {boolean} allowDebug
 * @property {Accepted} modelDigest
 * @property {Set<string> | null} modelOwner
 * @property {bigint | null} minModelVersion
 * @property {number | null} maxAge seconds
 * @property {Set<string> | null} ppids
 * @property {Set<string> | null} configDigest
 * @property {Set<string> | null} rollback
 * @typedef {import("./verify.js").VerifiedEvidence} VerifiedEvidence
 * @typedef {import("./claims.js").ModelClaim} ModelClaim
 */

/** Whether a value is among those accepted. @param {string} value @param {Accepted} accepted @returns {boolean} */
export function isAmong(value, accepted) {
  return accepted === null || accepted === ANY || accepted.has(value);
}

/**
 * Compares verified evidence with a policy; an AttestationError if the enclave is not wanted.
 * @param {VerifiedEvidence} verified @param {Policy} policy
 * @param {Uint8Array} nonce what the evidence was asked for with
 * @param {number} now milliseconds since 1970
 * @returns {{ models: ModelClaim[], steps: string[] }} the models that the policy accepts
 */
export function appraise(verified, policy, nonce, now) {
  const steps = [...verified.steps];
  try {
    checkEnclave(verified, policy, steps);
    checkPlatform(verified, policy, steps);
    checkFreshness(verified, policy, nonce, now, steps);
    const models = acceptedModels(verified.claims.models, policy);
    steps.push(`models accepted: ${models.map((one) => one.modelId).join(", ") || "none asked for"}`);
    checkConfiguration(verified, policy, steps);
    return { models, steps };
  } catch (error) {
    if (error instanceof AttestationError) error.steps = steps;
    throw error;
  }
}

/** @param {VerifiedEvidence} verified @param {Policy} policy @param {string[]} steps */
function checkEnclave({ report }, policy, steps) {
  if (report.isDebug && policy.allowDebug !== true) {
    throw new AttestationError("debug-enclave", "the enclave is a debug enclave: its memory can be read");
  }
  if (!isAmong(report.mrenclave, policy.mrenclave)) {
    throw new AttestationError("mrenclave", `MRENCLAVE ${report.mrenclave} is not the one you pinned`);
  }
  if (!isAmong(report.mrsigner, policy.mrsigner)) {
    throw new AttestationError("mrsigner", `MRSIGNER ${report.mrsigner} is not the one you pinned`);
  }
  if (policy.isvProdId !== null && policy.isvProdId !== ANY && policy.isvProdId !== report.isvProdId) {
    throw new AttestationError(
      "isv-prod-id",
      `the enclave has product id ${report.isvProdId}, not ${policy.isvProdId}`,
    );
  }
  if (report.isvSvn < (policy.minIsvSvn ?? 0)) {
    throw new AttestationError(
      "isv-svn",
      `the enclave has SVN ${report.isvSvn}, at least ${policy.minIsvSvn} is wanted`,
    );
  }
  steps.push(`MRENCLAVE ${report.mrenclave} ${how(policy.mrenclave)}`);
  steps.push(`MRSIGNER ${report.mrsigner} ${how(policy.mrsigner)}`);
  steps.push(`product id ${report.isvProdId} ${how(policy.isvProdId)}, SVN ${report.isvSvn} ${how(policy.minIsvSvn)}`);
}

/** @param {VerifiedEvidence} verified @param {Policy} policy @param {string[]} steps */
function checkPlatform(verified, policy, steps) {
  if (!policy.acceptedTcb.has(verified.tcbStatus)) {
    throw new AttestationError(
      "tcb-status",
      `the machine's TCB status is ${verified.tcbStatus}, which you do not accept`,
    );
  }
  const { acceptedAdvisories } = policy;
  const missing = acceptedAdvisories === ANY ? [] : verified.advisories.filter((one) => !acceptedAdvisories.has(one));
  if (missing.length !== 0) {
    throw new AttestationError("tcb-advisory", `advisories that you do not accept apply: ${missing.join(", ")}`);
  }
  if (verified.tcbEvaluationNumber < (policy.minTcbEvaluationNumber ?? 0)) {
    throw new AttestationError(
      "tcb-evaluation-number",
      `the collateral has TCB evaluation data number ${verified.tcbEvaluationNumber}; newer collateral is wanted`,
    );
  }
  if (!isAmong(verified.ppid, policy.ppids)) {
    throw new AttestationError("ppid", `the machine with PPID ${verified.ppid} is not one you pinned`);
  }
  steps.push(`TCB status ${verified.tcbStatus} and advisories accepted; machine ${verified.ppid} ${how(policy.ppids)}`);
}

/**
 * @param {VerifiedEvidence} verified
 * @param {Policy} policy
 * @param {Uint8Array} nonce
 * @param {number} now
 * @param {string[]} steps
 */
function checkFreshness(verified, policy, nonce, now, steps) {
  if (!equal(verified.claims.nonce, nonce)) {
    throw new AttestationError(
      "nonce",
      "the claims hold another nonce than was asked for: this answers another question",
    );
  }
  if (now > verified.earliestExpiry) {
    throw new AttestationError("too-old", "what it was verified with has expired since; attest again");
  }
  const age = (now - verified.verifiedAt) / 1000;
  if (age < 0) {
    throw new AttestationError("too-old", "it was verified for a later time than it is appraised for; check the clock");
  }
  if (policy.maxAge !== null && age > policy.maxAge) {
    throw new AttestationError("too-old", `it was verified ${age} s ago, at most ${policy.maxAge} s are wanted`);
  }
  steps.push(`nonce as asked for; verified ${age} s ago ${how(policy.maxAge)}`);
}

/** @param {ModelClaim[]} claimed @param {Policy} policy @returns {ModelClaim[]} */
function acceptedModels(claimed, policy) {
  let models = claimed.filter((one) => isAmong(one.modelDigest, policy.modelDigest));
  if (models.length === 0 && policy.modelDigest !== null && policy.modelDigest !== ANY) {
    throw new AttestationError("model", "the enclave has not loaded a model that you pinned");
  }
  const owners = policy.modelOwner;
  if (owners === null) return models;
  models = models.filter((one) => one.owner !== null && owners.has(one.owner));
  if (models.length === 0)
    throw new AttestationError("model-owner", "the enclave has loaded no such model of that owner");
  const least = policy.minModelVersion ?? 0n;
  models = models.filter((one) => one.version >= least);
  if (models.length === 0) {
    throw new AttestationError("model-version", `the enclave has loaded no such model of version ${least} or later`);
  }
  return models;
}

/** @param {VerifiedEvidence} verified @param {Policy} policy @param {string[]} steps */
function checkConfiguration({ claims }, policy, steps) {
  if (!isAmong(claims.configDigest, policy.configDigest)) {
    throw new AttestationError("config", `the enclave's config digest ${claims.configDigest} is not one you pinned`);
  }
  if (!isAmong(claims.rollback, policy.rollback)) {
    throw new AttestationError("rollback", `the enclave says "${claims.rollback}" of rollback, which is not wanted`);
  }
  steps.push(`config digest ${claims.configDigest} ${how(policy.configDigest)}; rollback ${claims.rollback}`);
}

/**
 * How a value came to be accepted, so that nobody takes one that was not looked at for a checked one.
 * @param {unknown} wanted
 */
function how(wanted) {
  if (wanted === null) return "(not asked for)";
  return wanted === ANY ? "(any)" : "as pinned";
}
