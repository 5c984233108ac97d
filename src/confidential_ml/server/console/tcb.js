// TCB info and QE identity: which security versions Intel calls up to date.

import { hex } from "./bytes.js";
import { AttestationError } from "./refusal.js";
import { parseObject } from "./strict_json.js";

const COMPONENTS = 16;
const MAX_LEVELS = 1000;
const UINT16 = 2 ** 16 - 1;
const UINT31 = 2 ** 31 - 1;
const ADVISORY = /^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/;
const QE_STATUSES = ["UpToDate", "OutOfDate", "Revoked"];
// What a platform's status becomes with a quoting enclave that is out of date.
const WITH_OLD_QE = new Map([
  ["UpToDate", "OutOfDate"],
  ["SWHardeningNeeded", "OutOfDate"],
  ["ConfigurationNeeded", "OutOfDateConfigurationNeeded"],
  ["ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded"],
]);
export const ACCEPTABLE_STATUSES = [
  "UpToDate",
  "SWHardeningNeeded",
  "ConfigurationNeeded",
  "ConfigurationAndSWHardeningNeeded",
  "OutOfDate",
  "OutOfDateConfigurationNeeded",
];

/**
 * @typedef {import("./strict_json.js").Fields} Fields
 * @typedef {{ components: number[], svn: number, date: number, status: string, advisories: string[] }} TcbLevel
 * @typedef {ReturnType<typeof parseTcbInfo>} TcbInfo
 * @typedef {ReturnType<typeof parseQeIdentity>} QeIdentity
 */

/** Reads TCB info, version 3; every refusal is `tcb-info-format`. @param {string} text */
export function parseTcbInfo(text) {
  const reason = "tcb-info-format";
  const fields = parseObject(text, "the TCB info", reason);
  if (
    fields.integer("version", UINT16) !== 3 ||
    fields.text("id") !== "SGX" ||
    fields.integer("tcbType", UINT16) !== 0
  ) {
    throw new AttestationError(reason, 'the TCB info must have id "SGX", version 3 and tcbType 0');
  }
  return {
    issueDate: fields.time("issueDate"),
    nextUpdate: fields.time("nextUpdate"),
    fmspc: hex(fields.hexadecimal("fmspc", 6)),
    pceId: hex(fields.hexadecimal("pceId", 2)),
    evaluationNumber: fields.integer("tcbEvaluationDataNumber", UINT31),
    levels: parseLevels(fields, reason, platformLevel),
  };
}

/** Reads QE identity, version 2; every refusal is `qe-identity-format`. @param {string} text */
export function parseQeIdentity(text) {
  const reason = "qe-identity-format";
  const fields = parseObject(text, "the QE identity", reason);
  if (fields.text("id") !== "QE" || fields.integer("version", UINT16) !== 2) {
    throw new AttestationError(reason, 'the QE identity must have id "QE" and version 2');
  }
  // Little-endian, as in a report.
  const number = (/** @type {string} */ name, /** @type {number} */ size) =>
    BigInt(`0x${hex(fields.hexadecimal(name, size).reverse())}`);
  return {
    issueDate: fields.time("issueDate"),
    nextUpdate: fields.time("nextUpdate"),
    evaluationNumber: fields.integer("tcbEvaluationDataNumber", UINT31),
    miscselect: number("miscselect", 4),
    miscselectMask: number("miscselectMask", 4),
    attributes: number("attributes", 16),
    attributesMask: number("attributesMask", 16),
    mrsigner: hex(fields.hexadecimal("mrsigner", 32)),
    isvProdId: fields.integer("isvprodid", UINT16),
    levels: parseLevels(fields, reason, qeLevel),
  };
}

/**
 * Refuses a report that is not of this quoting enclave.
 * @param {QeIdentity} identity
 * @param {import("./quote.js").Report} report
 */
export function checkQuotingEnclave(identity, report) {
  const attributes = report.flags | (report.xfrm << 64n);
  const differs = (/** @type {bigint} */ a, /** @type {bigint} */ b, /** @type {bigint} */ mask) =>
    ((a ^ b) & mask) !== 0n;
  /** @type {[boolean, string, string][]} DEBUG first: a mask may leave it out. */
  const wrongs = [
    [report.isDebug, "qe-debug", "is a debug enclave"],
    [
      differs(BigInt(report.miscselect), identity.miscselect, identity.miscselectMask),
      "qe-miscselect",
      "has a wrong MISCSELECT",
    ],
    [differs(attributes, identity.attributes, identity.attributesMask), "qe-attributes", "has wrong ATTRIBUTES"],
    [report.mrsigner !== identity.mrsigner, "qe-mrsigner", "has a wrong MRSIGNER"],
    [report.isvProdId !== identity.isvProdId, "qe-prodid", "has a wrong product id"],
  ];
  for (const [isWrong, reason, what] of wrongs) {
    if (isWrong)
      throw new AttestationError(reason, `the quoting enclave ${what}: it is not the one of the QE identity`);
  }
}

/**
 * The first level that is reached; they descend.
 * @param {TcbLevel[]} levels @param {number[]} components @param {number} svn @returns {TcbLevel | null}
 */
export function levelOf(levels, components, svn) {
  const isReached = (/** @type {TcbLevel} */ level) =>
    svn >= level.svn && level.components.every((least, at) => components[at] >= least);
  return levels.find(isReached) ?? null;
}

/**
 * The status of a platform together with its quoting enclave.
 * @param {string} platform
 * @param {string} quotingEnclave
 */
export function mergedStatus(platform, quotingEnclave) {
  if (platform === "Revoked" || quotingEnclave === "Revoked") return "Revoked";
  return quotingEnclave === "OutOfDate" ? (WITH_OLD_QE.get(platform) ?? platform) : platform;
}

/** @param {Fields} level @param {string} reason @returns {TcbLevel} */
function platformLevel(level, reason) {
  const tcb = level.inner("tcb");
  const components = tcb.objects("sgxtcbcomponents").map((one) => one.integer("svn", 255));
  if (components.length !== COMPONENTS) {
    throw new AttestationError(
      reason,
      `a level of the TCB info has ${components.length} components, not ${COMPONENTS}`,
    );
  }
  return parseLevel(level, components, tcb.integer("pcesvn", UINT16), [...ACCEPTABLE_STATUSES, "Revoked"], reason);
}

/** @param {Fields} level @param {string} reason @returns {TcbLevel} */
function qeLevel(level, reason) {
  return parseLevel(level, [], level.inner("tcb").integer("isvsvn", UINT16), QE_STATUSES, reason);
}

/**
 * @param {Fields} level @param {number[]} components @param {number} svn @param {string[]} statuses
 * @param {string} reason @returns {TcbLevel}
 */
function parseLevel(level, components, svn, statuses, reason) {
  const status = level.text("tcbStatus");
  if (!statuses.includes(status)) throw new AttestationError(reason, "a TCB level has a status that is not known");
  return { components, svn, date: level.time("tcbDate"), status, advisories: level.texts("advisoryIDs", ADVISORY) };
}

/** @param {Fields} fields @param {string} reason @param {(level: Fields, reason: string) => TcbLevel} parse */
function parseLevels(fields, reason, parse) {
  const found = fields.objects("tcbLevels");
  if (found.length < 1 || found.length > MAX_LEVELS) {
    throw new AttestationError(reason, `there are ${found.length} TCB levels; there must be 1 to ${MAX_LEVELS}`);
  }
  const levels = found.map((level) => parse(level, reason));
  // Intel's are sorted. Of others some verifiers take the first that is reached and some the highest.
  if (levels.some((level, at) => at > 0 && !isAbove(levels[at - 1], level))) {
    throw new AttestationError(reason, "the TCB levels do not descend");
  }
  return levels;
}

/** Whether components, then SVN, are higher. @param {TcbLevel} above @param {TcbLevel} below @returns {boolean} */
function isAbove(above, below) {
  const [high, low] = [above, below].map((level) => [...level.components, level.svn]);
  const at = high.findIndex((value, index) => value !== low[index]);
  return at >= 0 && high[at] > low[at];
}
