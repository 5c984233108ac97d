// What the visitor pins: read from the form, kept in this browser, made into a root and a policy.

import { ANY } from "./appraise.js";
import { InputError } from "./refusal.js";
import { ACCEPTABLE_STATUSES } from "./tcb.js";
import { intelRoot } from "./trust_root.js";

const MAX_UINT16 = 2 ** 16 - 1;
const MAX_UINT64 = 2n ** 64n - 1n;
const ADVISORY = /^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/;

/** Every pin, as text; what is kept. @typedef {typeof NOTHING} Pins */
export const NOTHING = {
  root: "",
  mrenclave: "",
  mrsigner: "",
  isvProdId: "",
  minIsvSvn: "",
  modelDigest: "",
  modelOwner: "",
  minModelVersion: "",
  advisories: "",
  maxAge: "3600",
  statuses: "UpToDate",
  debug: "",
};

/** Pins of one server as they were kept; none if there are none. @param {string} server @returns {Pins} */
export function loadPins(server) {
  try {
    const kept = JSON.parse(localStorage.getItem(keyOf(server)) ?? "{}");
    const known = Object.keys(NOTHING).filter((name) => typeof kept?.[name] === "string");
    return { ...NOTHING, ...Object.fromEntries(known.map((name) => [name, kept[name]])) };
  } catch {
    return { ...NOTHING };
  }
}

/** Whether they could be kept. @param {string} server @param {Pins} pins @returns {boolean} */
export function savePins(server, pins) {
  try {
    localStorage.setItem(keyOf(server), JSON.stringify(pins));
    return true;
  } catch {
    return false;
  }
}

/** @param {string} server */
export function forgetPins(server) {
  try {
    localStorage.removeItem(keyOf(server));
  } catch {
    // nothing was kept then
  }
}

/** The root that is pinned: Intel's, or the one of that fingerprint. @param {Pins} pins */
export async function rootOf(pins) {
  const fingerprint = rootFingerprint(pins);
  return fingerprint === null ? intelRoot() : { name: "the root you pinned", fingerprint, isIntels: false };
}

/** @param {Pins} pins @returns {string | null} */
function rootFingerprint(pins) {
  const found = digests(pins.root, "Root key");
  if (found === null) return null;
  if (found === ANY || found.size !== 1) throw new InputError("Root key must be one fingerprint of 64 digits.");
  return [...found][0];
}

/** Refuses pins that cannot be used, naming the field. @param {Pins} pins */
export function checkPins(pins) {
  rootFingerprint(pins);
  policyOf(pins);
}

/** What is missing for a policy, as a sentence; "" if nothing. @param {Pins} pins @returns {string} */
export function missingPins(pins) {
  const hasEnclave = pins.mrenclave.trim() !== "" || pins.mrsigner.trim() !== "";
  const hasModel = pins.modelDigest.trim() !== "" || pins.modelOwner.trim() !== "";
  if (!hasEnclave && !hasModel) return "Pin which enclave (MRENCLAVE or MRSIGNER) and which model you expect.";
  if (!hasEnclave) return "Pin which enclave you expect: MRENCLAVE or MRSIGNER.";
  if (!hasModel) return "Pin which model you expect: its digest or its owner, or type ANY as digest.";
  return "";
}

/**
 * The policy; an InputError that names the field, if one cannot be used.
 * @param {Pins} pins @returns {import("./appraise.js").Policy}
 */
export function policyOf(pins) {
  const mrenclave = digests(pins.mrenclave, "MRENCLAVE");
  const mrsigner = digests(pins.mrsigner, "MRSIGNER");
  const modelOwner = digests(pins.modelOwner, "Model owner");
  const minModelVersion = whole(pins.minModelVersion, "Least version", MAX_UINT64);
  const isvProdId = pins.isvProdId.trim() === "ANY" ? ANY : number(pins.isvProdId, "Product id", MAX_UINT16);
  const minIsvSvn = number(pins.minIsvSvn, "Least SVN", MAX_UINT16);
  if (modelOwner === ANY) throw new InputError("Model owner must be a key of 64 digits.");
  if (minModelVersion !== null && modelOwner === null) {
    throw new InputError("Least version needs an owner: versions order the models of one owner.");
  }
  const isKnownBySigner = (mrenclave === null || mrenclave === ANY) && mrsigner instanceof Set;
  if (isKnownBySigner && (isvProdId === null || minIsvSvn === null)) {
    throw new InputError(
      "With MRSIGNER alone, product id (or ANY) and least SVN are needed: one signer signs many enclaves.",
    );
  }
  return {
    mrenclave,
    mrsigner,
    isvProdId,
    minIsvSvn,
    acceptedTcb: statuses(pins.statuses),
    acceptedAdvisories: advisories(pins.advisories),
    minTcbEvaluationNumber: null,
    allowDebug: pins.debug === "yes",
    modelDigest: digests(pins.modelDigest, "Model digest"),
    modelOwner,
    minModelVersion,
    maxAge: number(pins.maxAge, "Attest again after", 36500 * 86400),
    ppids: null,
    configDigest: null,
    rollback: null,
  };
}

/** @param {string} text @param {string} name @returns {import("./appraise.js").Accepted} */
export function digests(text, name) {
  const found = words(text);
  if (found.length === 0) return null;
  if (found.length === 1 && found[0] === "ANY") return ANY;
  for (const one of found) {
    if (!/^[0-9a-fA-F]{64}$/.test(one)) {
      throw new InputError(`${name} must be 64 hexadecimal digits, one or several; one has ${one.length} characters.`);
    }
  }
  return new Set(found.map((one) => one.toLowerCase()));
}

/** @param {string} text @param {string} name @param {bigint} limit @returns {bigint | null} */
function whole(text, name, limit) {
  if (text.trim() === "") return null;
  if (!/^\d{1,20}$/.test(text.trim()) || BigInt(text.trim()) > limit) {
    throw new InputError(`${name} must be a whole number from 0 to ${limit}.`);
  }
  return BigInt(text.trim());
}

/** @param {string} text @param {string} name @param {number} limit @returns {number | null} */
function number(text, name, limit) {
  const found = whole(text, name, BigInt(limit));
  return found === null ? null : Number(found);
}

/** @param {string} text */
function statuses(text) {
  const found = words(text).filter((one) => ACCEPTABLE_STATUSES.includes(one));
  if (found.length === 0) throw new InputError("Accept at least one TCB status.");
  return new Set(found);
}

/** @param {string} text @returns {Set<string> | typeof ANY} */
function advisories(text) {
  const found = words(text);
  if (found.length === 1 && found[0] === "ANY") return ANY;
  if (!found.every((one) => ADVISORY.test(one))) throw new InputError("Advisories look like INTEL-SA-00615.");
  return new Set(found);
}

/** @param {string} text @returns {string[]} */
function words(text) {
  return text.split(/[\s,]+/).filter((one) => one !== "");
}

/** @param {string} server */
function keyOf(server) {
  return `confidential_ml pins of ${server}`;
}
