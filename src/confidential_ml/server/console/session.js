// One visitor's dealings with one enclave: attest it, then ask it, again if its key has changed.

import { openAnswer } from "./answer.js";
import { appraise } from "./appraise.js";
import { equal } from "./bytes.js";
import { parseCollateral } from "./collateral.js";
import { SUITE, answerOf, requestMessage } from "./protocol.js";
import { verifyReceipt } from "./receipt.js";
import { InputError, RemoteError } from "./refusal.js";
import { predictRequest } from "./request.js";
import { verify } from "./verify.js";
import { STATUS_SENTENCES } from "./compiled_in.js";

const NONCE_SIZE = 32;

/**
 * @typedef {import("./appraise.js").Policy} Policy
 * @typedef {import("./claims.js").ModelClaim} ModelClaim
 * @typedef {import("./verify.js").VerifiedEvidence} VerifiedEvidence
 * @typedef {{ verified: VerifiedEvidence, models: ModelClaim[], steps: string[] }} Accepted
 * @typedef {object} Prediction
 * @property {Float32Array} values @property {number} columns
 * @property {import("./request.js").Request} request @property {Uint8Array} message @property {Uint8Array} reply
 * @property {import("./answer.js").Answer} answer
 * @property {import("./receipt.js").Receipt | null} receipt
 * @property {{ encrypt: number, wait: number, open: number }} times milliseconds
 */

export class Session {
  /** @param {import("./server.js").Server} server */
  constructor(server) {
    this.server = server;
    /** @type {Accepted | null} */
    this.accepted = null;
    /** @type {VerifiedEvidence | null} what was last verified, accepted or not */
    this.verified = null;
    this.evidence = new Uint8Array();
  }

  /**
   * Asks for new evidence, verifies it, and appraises it if there is a policy.
   * @param {import("./trust_root.js").TrustRoot} root @param {Policy | null} policy
   * @returns {Promise<Accepted | null>} null without a policy
   */
  async attest(root, policy) {
    this.accepted = null;
    this.verified = null;
    this.root = root;
    this.policy = policy;
    this.evidence = new Uint8Array();
    const nonce = crypto.getRandomValues(new Uint8Array(NONCE_SIZE));
    const [evidence, document] = await Promise.all([this.server.evidence(nonce), this.server.collateral()]);
    this.evidence = evidence;
    const verified = await verify(evidence, parseCollateral(document), root, Date.now());
    if (((verified.claims.suites >> (SUITE - 1)) & 1) === 0) {
      throw new RemoteError("the enclave offers no cipher suite that this page has");
    }
    this.verified = verified;
    if (policy === null) return null;
    this.accepted = { verified, ...appraise(verified, policy, nonce, Date.now()) };
    return this.accepted;
  }

  /** Until when the attestation holds, milliseconds since 1970. @returns {number} */
  get expiry() {
    const maxAge = this.policy?.maxAge ?? null;
    const verified = this.verified;
    if (verified === null) return 0;
    return Math.min(verified.earliestExpiry, maxAge === null ? Infinity : verified.verifiedAt + maxAge * 1000);
  }

  /**
   * Predicts; the enclave is attested again first if the attestation has expired, and once if its key has changed.
   * @param {ModelClaim} model @param {Float32Array} rows @param {{ outputMargin: boolean, wantsReceipt: boolean }} asked
   * @returns {Promise<Prediction>}
   */
  async predict(model, rows, asked) {
    const now = Date.now();
    const holds = this.accepted !== null && now >= this.accepted.verified.verifiedAt && now < this.expiry;
    if (!holds) await this.again();
    try {
      return await this.ask(model, rows, asked);
    } catch (error) {
      if (!(error instanceof RemoteError) || error.code !== "unreadable") throw error;
      const former = this.verified?.claims.epochDigest ?? new Uint8Array();
      const { verified } = await this.again();
      if (equal(former, verified.claims.epochDigest)) throw error;
      return this.ask(model, rows, asked);
    }
  }

  /** @returns {Promise<Accepted>} */
  async again() {
    if (this.root === undefined || this.policy === undefined) throw new InputError("Attest the enclave first.");
    const accepted = await this.attest(this.root, this.policy);
    if (accepted === null) throw new InputError("Pin what you expect first.");
    return accepted;
  }

  /**
   * @param {ModelClaim} model @param {Float32Array} rows @param {{ outputMargin: boolean, wantsReceipt: boolean }} asked
   * @returns {Promise<Prediction>}
   */
  async ask(model, rows, asked) {
    // The evidence may be newer than that by which the model was chosen.
    const isThere = (/** @type {ModelClaim} */ one) =>
      one.modelDigest === model.modelDigest && one.owner === model.owner && one.version === model.version;
    if (this.accepted === null || !this.accepted.models.some(isThere)) {
      throw new RemoteError("the enclave no longer has the model; attest again");
    }
    const { claims, report } = this.accepted.verified;
    const time = asked.wantsReceipt ? BigInt(Date.now()) : 0n;
    const started = performance.now();
    const request = await predictRequest(claims, model, rows, { ...asked, time });
    const message = requestMessage(request.message);
    const sent = performance.now();
    const reply = await this.server.carry(message);
    const received = performance.now();
    const answer = await openAnswer(request, answerOf(reply));
    if (answer.status !== 0) throw new RemoteError(sentenceOf(answer.status), `status ${answer.status}`);
    if (answer.content.length !== request.contentSize || (answer.receipt.length !== 0) !== asked.wantsReceipt) {
      throw new RemoteError("the enclave's answer is not of the size that was asked for");
    }
    const enclave = { claims, mrenclave: report.mrenclave };
    const receipt = asked.wantsReceipt
      ? await verifyReceipt(answer.receipt, enclave, model, time, request.message, answer)
      : null;
    const view = new DataView(answer.content.buffer);
    const values = Float32Array.from({ length: answer.content.length / 4 }, (_, at) => view.getFloat32(4 * at, true));
    const times = { encrypt: sent - started, wait: received - sent, open: performance.now() - received };
    const columns = asked.outputMargin ? model.nGroups : model.nValues;
    return { values, columns, request, message, reply, answer, receipt, times };
  }
}

/** @param {number} status */
function sentenceOf(status) {
  /** @type {Record<string, string>} */
  const sentences = STATUS_SENTENCES;
  const sentence = sentences[String(status)] ?? "a status that this page does not know";
  return `the enclave refused (${status}): ${sentence}`;
}
