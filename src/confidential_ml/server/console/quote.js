// Evidence and quotes as bytes: what is there, nothing about whether it is true (docs/attestation.md 1).

import { Reader, hex } from "./bytes.js";
import { AttestationError } from "./refusal.js";

const MIN_EVIDENCE_SIZE = 1 << 10;
const MAX_EVIDENCE_SIZE = 256 << 10;
const MAX_CERTIFICATION_SIZE = 16 << 10;
const QE_AUTH_SIZE = 32; // of every quoting enclave of Intel's; the format would allow others
const INTEL_QE_VENDOR = "939a7233f79c4ca9940a0db3957f0607";
const SIGNED_SIZE = 432;
const SIGNATURE_DATA = 436;
const FIXED_PARTS_SIZE = 64 + 64 + 384 + 64 + 2;

const INIT = 0x1n;
const DEBUG = 0x2n;
const MODE64 = 0x4n;
const PROVISION_KEY = 0x10n;

/**
 * What the CPU says of an enclave (Intel SDM vol. 3D, REPORT; 384 bytes).
 * @typedef {ReturnType<typeof parseReport>} Report
 * @typedef {ReturnType<typeof parseQuote>} Quote
 */

/** @param {Uint8Array} bytes 384 */
export function parseReport(bytes) {
  const read = new Reader(bytes);
  read.take(16); // CPUSVN
  const miscselect = read.u32();
  read.take(12 + 16); // reserved, ISV EXT PRODID
  const flags = read.u64();
  const xfrm = read.u64();
  const mrenclave = hex(read.take(32));
  read.take(32);
  const mrsigner = hex(read.take(32));
  read.take(32 + 64); // reserved, CONFIGID
  const isvProdId = read.u16();
  const isvSvn = read.u16();
  read.take(2 + 42 + 16); // CONFIGSVN, reserved, ISV FAMILY ID
  const reportData = read.take(64);
  return {
    miscselect,
    flags,
    xfrm,
    mrenclave,
    mrsigner,
    isvProdId,
    isvSvn,
    reportData,
    isInitialised: (flags & INIT) !== 0n,
    isDebug: (flags & DEBUG) !== 0n,
    is64Bit: (flags & MODE64) !== 0n,
    hasProvisionKey: (flags & PROVISION_KEY) !== 0n,
  };
}

/** Takes evidence apart: a quote, then claims up to the end. @param {Uint8Array} data */
export function parseEvidence(data) {
  if (data.length < MIN_EVIDENCE_SIZE || data.length > MAX_EVIDENCE_SIZE) {
    throw new AttestationError("evidence-size", `evidence has 1 KiB to 256 KiB, this has ${data.length} bytes`);
  }
  checkHeader(data);
  const end = SIGNATURE_DATA + new DataView(data.buffer, data.byteOffset).getUint32(SIGNED_SIZE, true);
  if (end > data.length) {
    throw new AttestationError("quote-length", `the quote says it has ${end} bytes, only ${data.length} are there`);
  }
  return { quote: parseQuote(data.slice(0, end)), claims: data.slice(end) };
}

/** @param {Uint8Array} data */
function checkHeader(data) {
  const read = new Reader(data);
  const version = read.u16();
  if (version !== 3) {
    throw new AttestationError("quote-version", `the quote has version ${version}; only version 3 is read`);
  }
  const keyType = read.u16();
  if (keyType !== 2) {
    throw new AttestationError("quote-key-type", `the quote has attestation key type ${keyType}; only 2 is read`);
  }
  const teeType = read.u32();
  if (teeType !== 0) {
    throw new AttestationError("quote-tee-type", `the quote has TEE type ${teeType}; only 0 (SGX) is read`);
  }
  read.take(4); // QE SVN, PCE SVN: not those that the TCB is judged by
  const vendor = hex(read.take(16));
  if (vendor !== INTEL_QE_VENDOR) {
    throw new AttestationError("quote-vendor", `the quoting enclave is of vendor ${vendor}, not Intel's`);
  }
}

/** @param {Uint8Array} data exactly a quote, its header checked */
function parseQuote(data) {
  if (data.length < SIGNATURE_DATA + FIXED_PARTS_SIZE) {
    throw new AttestationError("quote-length", "the quote's signature data is shorter than its fixed parts");
  }
  const read = new Reader(data);
  const signed = read.take(SIGNED_SIZE);
  read.u32();
  const signature = read.take(64);
  const attestationKey = read.take(64);
  const qeReportBytes = read.take(384);
  const qeReportSignature = read.take(64);
  const authSize = read.u16();
  if (authSize !== QE_AUTH_SIZE) {
    throw new AttestationError("quote-qe-auth", `the QE authentication data says it has ${authSize} bytes, not 32`);
  }
  if (read.left < authSize + 6) {
    throw new AttestationError("quote-length", "the quote's signature data ends before its certification data");
  }
  return {
    report: parseReport(signed.slice(48)),
    signed,
    signature,
    attestationKey,
    qeReport: parseReport(qeReportBytes),
    qeReportBytes,
    qeReportSignature,
    qeAuth: read.take(authSize),
    certificates: certificationData(read),
    size: data.length,
  };
}

/** @param {Reader} read @returns {Uint8Array} */
function certificationData(read) {
  const kind = read.u16();
  const size = read.u32();
  if (kind !== 5) {
    throw new AttestationError(
      "quote-certification-data",
      `the quote has certification data of type ${kind}; only 5 (PCK certificate chain) is read`,
    );
  }
  if (size > MAX_CERTIFICATION_SIZE) {
    throw new AttestationError(
      "quote-certification-data",
      `the certification data says it has ${size} bytes; at most ${MAX_CERTIFICATION_SIZE} are read`,
    );
  }
  if (size !== read.left) {
    throw new AttestationError("quote-length", `${read.left} bytes are there for ${size} of certification data`);
  }
  return read.take(size);
}
