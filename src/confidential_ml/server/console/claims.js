// What an enclave says about itself, read from the bytes behind the quote (docs/protocol.md 2).

import { Reader, hex, isZero, latin1, sha256 } from "./bytes.js";
import { AttestationError } from "./refusal.js";

const MAGIC = "CMLCLAIM";
const FIXED_SIZE = 152;
const MODEL_SIZE = 86;
const EPOCH_PART_SIZE = 144;
const MAX_NONCE_SIZE = 64;
const MAX_MODELS = 256;
const MODEL_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const PLATFORMS = new Map([
  [1, "simulation"],
  [2, "openenclave-simulation"],
  [3, "openenclave"],
]);
const ROLLBACKS = new Map([[0, "unprotected"]]);

/**
 * @typedef {{ modelDigest: string, modelId: string, owner: string | null, version: bigint,
 *   nFeatures: number, nGroups: number, nValues: number }} ModelClaim
 * @typedef {Awaited<ReturnType<typeof parseClaims>>} Claims
 */

/** Reads claims, strictly: every length exact, reserved fields zero, nothing left over. @param {Uint8Array} data */
export async function parseClaims(data) {
  if (data.length < FIXED_SIZE || latin1(data.slice(0, 8)) !== MAGIC) {
    throw malformed("they are not claims of confidential_ml, or cut short");
  }
  const read = new Reader(data);
  read.take(8);
  const version = read.u32();
  if (version !== 1) {
    throw new AttestationError("claims-version", `the claims have version ${version}; this page reads version 1`);
  }
  const [platform, suites, obliviousness, rollback] = [read.u16(), read.u16(), read.u16(), read.u16()];
  const zero = read.u32();
  const epoch = read.u64();
  const instance = read.take(16);
  const configDigest = hex(read.take(32));
  const epochPublicKey = read.take(32);
  const receiptPublicKey = read.take(32);
  const [nonceSize, modelCount, zeroToo] = [read.u16(), read.u16(), read.u32()];
  if (zero !== 0 || zeroToo !== 0) throw malformed("a reserved field is not zero");
  if (!PLATFORMS.has(platform) || !ROLLBACKS.has(rollback) || obliviousness !== 1 || epoch === 0n) {
    throw malformed("platform, obliviousness, rollback or epoch has a value that version 1 does not know");
  }
  if (nonceSize > MAX_NONCE_SIZE || modelCount > MAX_MODELS) {
    throw malformed(`a nonce of ${nonceSize} bytes or ${modelCount} models are over the limits`);
  }
  if (read.left < nonceSize) throw malformed("they end inside the nonce");
  const nonce = read.take(nonceSize);
  const models = parseModels(read, modelCount);
  const epochDigest = await sha256(data.slice(0, EPOCH_PART_SIZE));
  return {
    platform: /** @type {string} */ (PLATFORMS.get(platform)),
    suites,
    rollback: /** @type {string} */ (ROLLBACKS.get(rollback)),
    epoch,
    instance,
    configDigest,
    epochPublicKey,
    receiptPublicKey,
    nonce,
    models,
    epochDigest,
    keyId: epochDigest.slice(0, 8),
  };
}

/** @param {Reader} read @param {number} count @returns {ModelClaim[]} */
function parseModels(read, count) {
  const models = [];
  for (let at = 0; at < count; at += 1) {
    if (read.left < MODEL_SIZE) throw malformed("they end inside a model");
    const modelDigest = hex(read.take(32));
    const owner = read.take(32);
    const version = read.u64();
    const [nFeatures, nGroups, nValues, idSize] = [read.u32(), read.u32(), read.u32(), read.u16()];
    if (read.left < idSize) throw malformed("they end inside a model");
    const modelId = latin1(read.take(idSize));
    if (!MODEL_ID.test(modelId)) throw malformed("a model id is not one");
    models.push({
      modelDigest,
      modelId,
      owner: isZero(owner) ? null : hex(owner),
      version,
      nFeatures,
      nGroups,
      nValues,
    });
  }
  if (read.left !== 0) throw malformed(`${read.left} bytes are left over`);
  return models;
}

/** @param {string} problem */
function malformed(problem) {
  return new AttestationError("claims-format", `the claims are malformed: ${problem}`);
}
