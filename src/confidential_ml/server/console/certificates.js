// Certificates of the SGX PKI, read strictly and checked up to a pinned root (docs/attestation.md 4).

import { equal, fromBase64, hex, latin1, sha256 } from "./bytes.js";
import {
  BIT_STRING,
  BOOLEAN,
  INTEGER,
  OBJECT_IDENTIFIER,
  OCTET_STRING,
  PRINTABLE_STRING,
  SEQUENCE,
  SET,
  UTF8_STRING,
  DerError,
  boolean,
  elements,
  integer,
  shortest,
  single,
  time,
  typed,
  wholeBits,
} from "./der.js";
import { importP256, isSignedBy, rawSignature } from "./ecdsa.js";
import { AttestationError } from "./refusal.js";

export const ECDSA_SHA256 = "300a06082a8648ce3d040302"; // AlgorithmIdentifier, without parameters
const P256_KEY_START = "3059301306072a8648ce3d020106082a8648ce3d030107034200"; // SubjectPublicKeyInfo before its point
const EC_KEY_ON_P256 = "301306072a8648ce3d020106082a8648ce3d030107";
const COMMON_NAME = "550403";
const BASIC_CONSTRAINTS = "551d13";
const KEY_USAGE = "551d0f";
// Extended key usage and name constraints narrow what a certificate is good for, and Intel's have neither.
const NARROWING = ["551d25", "551d1e"];
const VERSION_3 = 2;
const CONTEXT_0 = 0xa0;
const CONTEXT_3 = 0xa3;
const MAX_SERIAL_BYTES = 20; // RFC 5280, 4.1.2.2; 160 bits and a sign, as some of Intel's have
const DIGITAL_SIGNATURE = 0x80;
const KEY_CERT_SIGN = 0x04;
const CRL_SIGN = 0x02;
const ROOT_ROLE = "SGX Root CA";
const PCK_CA_ROLES = ["SGX PCK Platform CA", "SGX PCK Processor CA"];
const PEM = /-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----[\r\n]*/y;

/**
 * What a chain must look like, from its first certificate up to the root, which is left out.
 * @typedef {{ name: string, roles: string[][], broken: string, misnamed: string }} ChainProfile
 * @typedef {{ what: string, start: number, end: number, tooEarly: string, tooLate: string }} Validity
 * @typedef {Map<string, { critical: boolean, value: Uint8Array }>} Extensions
 * @typedef {Awaited<ReturnType<typeof load>>} Certificate
 * @typedef {{ certificates: Certificate[], validities: Validity[], rootFingerprint: string }} Chain
 * @typedef {import("./trust_root.js").TrustRoot} TrustRoot
 */

/** @type {ChainProfile} */
export const PCK_CHAIN = {
  name: "PCK certificate chain",
  roles: [["SGX PCK Certificate"], PCK_CA_ROLES],
  broken: "chain-invalid",
  misnamed: "certificate-role",
};
/** @type {ChainProfile} */
export const PCK_CRL_ISSUER_CHAIN = {
  name: "PCK CRL issuer chain",
  roles: [PCK_CA_ROLES],
  broken: "chain-invalid",
  misnamed: "certificate-role",
};
/** @type {ChainProfile} */
export const TCB_SIGNER_CHAIN = {
  name: "issuer chain",
  roles: [["SGX TCB Signing"]],
  broken: "tcb-signer",
  misnamed: "tcb-signer",
};

/**
 * Reads a chain and checks everything but dates and revocation.
 * @param {Uint8Array} pem each certificate followed by its issuer, the root last; its size is bounded by the caller
 * @param {ChainProfile} profile
 * @param {TrustRoot} root the one in `pem` is only compared
 * @param {string} of whose chain it is, for errors
 * @returns {Promise<Chain>}
 */
export async function checkedChain(pem, profile, root, of) {
  const name = `the ${profile.name} of ${of}`;
  const certificates = await loadChain(pem, profile, name);
  for (const one of certificates) {
    if (one.key === null || one.outerAlgorithm !== ECDSA_SHA256) {
      throw new AttestationError("certificate-key", `${name}: a key or signature is not P-256 with SHA-256`);
    }
  }
  const last = certificates[certificates.length - 1];
  const rootFingerprint = hex(await sha256(last.spki));
  if (rootFingerprint !== root.fingerprint) {
    if (!equal(last.subject, last.issuer)) throw new AttestationError(profile.broken, `${name} does not end in a root`);
    throw new AttestationError(
      "root-untrusted",
      `${name} ends in "${last.commonName}" with a key that is not that of ${root.name}`,
      { root: { name: last.commonName, fingerprint: rootFingerprint } },
    );
  }
  for (const [at, one] of certificates.entries()) {
    const issuer = certificates[at + 1] ?? last;
    if (!(await isIssuedBy(one, issuer))) {
      throw new AttestationError(profile.broken, `${name}: "${one.commonName}" is not issued by the next certificate`);
    }
  }
  checkRoles(certificates, profile, name);
  checkConstraints(certificates, profile, name);
  return { certificates, validities: certificates.map(validity), rootFingerprint };
}

/** Refuses a time outside. @param {Validity} one @param {number} now */
export function checkValidity(one, now) {
  const date = (/** @type {number} */ moment) => new Date(moment).toISOString().slice(0, 19) + "Z";
  if (now < one.start) throw new AttestationError(one.tooEarly, `${one.what} is valid from ${date(one.start)}`);
  if (now > one.end) throw new AttestationError(one.tooLate, `${one.what} was valid until ${date(one.end)}`);
}

/** OIDs and values of Extensions (RFC 5280, 4.1.2.9). @param {Uint8Array} data @returns {Extensions} */
export function parseExtensions(data) {
  /** @type {Extensions} */
  const found = new Map();
  for (const one of elements(single(data, SEQUENCE))) {
    const parts = elements(typed(one, SEQUENCE));
    const oid = hex(typed(parts.shift(), OBJECT_IDENTIFIER));
    const critical = parts.length === 2;
    // False is the default, which DER leaves out.
    if (critical && !boolean(typed(parts.shift(), BOOLEAN))) throw new DerError("a default value is written");
    const value = typed(parts.shift(), OCTET_STRING);
    if (parts.length !== 0 || found.has(oid)) throw new DerError("an extension is malformed or there twice");
    found.set(oid, { critical, value });
  }
  return found;
}

/** @param {Uint8Array} pem @param {ChainProfile} profile @param {string} name @returns {Promise<Certificate[]>} */
async function loadChain(pem, profile, name) {
  // The PCK's chain may end in the NUL of a C string.
  const text = latin1(pem).replace(/\0$/, "");
  const count = profile.roles.length + 1;
  const bodies = [];
  PEM.lastIndex = 0;
  let end = 0;
  for (let found = PEM.exec(text); found !== null; found = PEM.exec(text)) {
    bodies.push(found[1].replace(/[\r\n]/g, ""));
    end = PEM.lastIndex;
  }
  if (end !== text.length || bodies.length !== count) {
    throw new AttestationError(profile.broken, `${name} must be ${count} PEM certificates and nothing else`);
  }
  try {
    return await Promise.all(bodies.map(load));
  } catch (error) {
    if (error instanceof DerError) {
      throw new AttestationError(profile.broken, `${name} holds a certificate that cannot be read: ${error.message}`);
    }
    throw error;
  }
}

/** @param {string} base64 */
async function load(base64) {
  const der = fromBase64(base64);
  if (der === null) throw new DerError("it is not base64");
  const [body, algorithm, signature, ...rest] = elements(single(der, SEQUENCE));
  const fields = elements(typed(body, SEQUENCE));
  if (rest.length !== 0 || fields.length !== 8) throw new DerError("it is no certificate of version 3");
  const [version, serial, innerAlgorithm, issuer, dates, subject, spki, extensions] = fields;
  if (integer(single(typed(version, CONTEXT_0), INTEGER), VERSION_3) !== VERSION_3) {
    throw new DerError("it is no certificate of version 3");
  }
  const number = shortest(serial);
  const isOrdinary = number[0] < 0x80 && !(number.length === 1 && number[0] === 0);
  if (!isOrdinary || number.length > MAX_SERIAL_BYTES + (number[0] === 0 ? 1 : 0)) {
    throw new DerError("its serial number is not positive, or too long");
  }
  const [start, end, ...noMore] = elements(typed(dates, SEQUENCE));
  const [notBefore, notAfter] = [time(start), time(end)];
  // What begins before 1970 is none of Intel's.
  if (noMore.length !== 0 || notBefore < 0) throw new DerError("its dates are malformed");
  typed(algorithm, SEQUENCE);
  typed(innerAlgorithm, SEQUENCE);
  return {
    body: body.whole,
    outerAlgorithm: hex(algorithm.whole),
    innerAlgorithm: hex(innerAlgorithm.whole),
    signature: wholeBits(signature),
    serial: hex(number),
    issuer: checkedName(issuer),
    subject: checkedName(subject),
    commonName: commonName(subject),
    notBefore,
    notAfter,
    spki: spki.whole,
    key: await publicKey(spki),
    extensions: parseExtensions(typed(extensions, CONTEXT_3)),
  };
}

/** DER of a name. @param {import("./der.js").Element} name @returns {Uint8Array} */
export function checkedName(name) {
  commonName(name);
  return name.whole;
}

/** The one common name, "" if there is none or several. @param {import("./der.js").Element} name */
function commonName(name) {
  const found = [];
  for (const set of elements(typed(name, SEQUENCE))) {
    for (const pair of elements(typed(set, SET))) {
      const [oid, value, ...rest] = elements(typed(pair, SEQUENCE));
      const isNamed = hex(typed(oid, OBJECT_IDENTIFIER)) === COMMON_NAME;
      if (value === undefined || rest.length !== 0) throw new DerError("a name is malformed");
      if (isNamed) found.push([PRINTABLE_STRING, UTF8_STRING].includes(value.tag) ? latin1(value.content) : "");
    }
  }
  return found.length === 1 ? found[0] : "";
}

/** Null for a key that is not P-256. @param {import("./der.js").Element} spki @returns {Promise<CryptoKey | null>} */
async function publicKey(spki) {
  const [algorithm, bits, ...rest] = elements(typed(spki, SEQUENCE));
  if (rest.length !== 0) throw new DerError("its key is malformed");
  typed(bits, BIT_STRING);
  if (hex(algorithm.whole) !== EC_KEY_ON_P256) return null;
  // Exactly this form, as roots are known by the hash of it.
  if (!hex(spki.whole).startsWith(`${P256_KEY_START}04`)) return null;
  const key = await importP256(spki.whole.slice(P256_KEY_START.length / 2));
  if (key === null) throw new DerError("its key is no point of P-256");
  return key;
}

/** @param {Certificate} one @param {Certificate} issuer @returns {Promise<boolean>} */
async function isIssuedBy(one, issuer) {
  if (!equal(one.issuer, issuer.subject) || one.innerAlgorithm !== one.outerAlgorithm || issuer.key === null) {
    return false;
  }
  const signature = rawSignature(one.signature);
  return signature !== null && isSignedBy(issuer.key, signature, one.body);
}

/** @param {Certificate[]} certificates @param {ChainProfile} profile @param {string} name */
function checkRoles(certificates, profile, name) {
  const rootName = certificates[certificates.length - 1].commonName;
  if (!rootName.endsWith(ROOT_ROLE)) {
    throw new AttestationError("certificate-role", `${name} ends in "${rootName}", which is no ${ROOT_ROLE}`);
  }
  // "Intel " or "SIMULATION - NOT INTEL ": the root's word, which all it has issued share.
  const vendor = rootName.slice(0, -ROOT_ROLE.length);
  for (const [at, roles] of profile.roles.entries()) {
    const found = certificates[at].commonName;
    if (!roles.some((role) => found === vendor + role)) {
      throw new AttestationError(profile.misnamed, `${name}: "${found}" stands where "${vendor}${roles[0]}" belongs`);
    }
  }
}

/** @param {Certificate[]} certificates @param {ChainProfile} profile @param {string} name */
function checkConstraints(certificates, profile, name) {
  const areCa = [...profile.roles.map((roles) => roles[0].endsWith(" CA")), true];
  for (const [at, one] of certificates.entries()) {
    const casBelow = areCa.slice(0, at).filter((isCa) => isCa).length;
    if (!constraintsAreRight(one.extensions, areCa[at], casBelow, profile.broken)) {
      throw new AttestationError(
        "certificate-constraints",
        `${name}: basic constraints, key usage or a critical extension of "${one.commonName}" do not fit its place`,
      );
    }
  }
}

/** @param {Extensions} extensions @param {boolean} isCa @param {number} casBelow @param {string} broken */
function constraintsAreRight(extensions, isCa, casBelow, broken) {
  for (const [oid, { critical }] of extensions) {
    if (NARROWING.includes(oid) || (critical && oid !== BASIC_CONSTRAINTS && oid !== KEY_USAGE)) return false;
  }
  const constraints = extensions.get(BASIC_CONSTRAINTS);
  const usage = extensions.get(KEY_USAGE);
  if (constraints === undefined || usage === undefined) return false;
  try {
    const { ca, pathLength } = basicConstraints(constraints.value);
    const bits = keyUsage(usage.value);
    const signs = bits & (KEY_CERT_SIGN | CRL_SIGN);
    if (!isCa) return !ca && (bits & DIGITAL_SIGNATURE) !== 0 && signs === 0;
    const reaches = pathLength === null || pathLength >= casBelow;
    return constraints.critical && ca && signs === (KEY_CERT_SIGN | CRL_SIGN) && reaches;
  } catch (error) {
    if (error instanceof DerError) throw new AttestationError(broken, "an extension of a certificate is malformed");
    throw error;
  }
}

/** @param {Uint8Array} data @returns {{ ca: boolean, pathLength: number | null }} */
function basicConstraints(data) {
  const parts = elements(single(data, SEQUENCE));
  const ca = parts[0]?.tag === BOOLEAN && boolean(typed(parts.shift(), BOOLEAN));
  const pathLength = parts.length === 0 ? null : integer(typed(parts.shift(), INTEGER), 255);
  if (parts.length !== 0) throw new DerError("basicConstraints are malformed");
  return { ca, pathLength };
}

/** The first eight bits of keyUsage. @param {Uint8Array} data @returns {number} */
function keyUsage(data) {
  const content = single(data, BIT_STRING);
  if (content.length < 2 || content.length > 3 || content[0] > 7) throw new DerError("keyUsage is malformed");
  return content[1];
}

/** @param {Certificate} one @returns {Validity} */
function validity(one) {
  return {
    what: `the certificate "${one.commonName}"`,
    start: one.notBefore,
    end: one.notAfter,
    tooEarly: "certificate-not-yet-valid",
    tooLate: "certificate-expired",
  };
}
