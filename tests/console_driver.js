// Runs modules of the console under node for test_console_crypto.py: one JSON question a line, one JSON answer a line.

import { ANY, appraise } from "./appraise.js";
import { openAnswer } from "./answer.js";
import { fromHex, hex } from "./bytes.js";
import { parseCollateral } from "./collateral.js";
import { setupSender, setupSenderWith } from "./hpke.js";
import { bucketSize } from "./protocol.js";
import { verifyReceipt } from "./receipt.js";
import { predictRequest } from "./request.js";
import { verify } from "./verify.js";
import { intelRoot } from "./trust_root.js";
import { parseClaims } from "./claims.js";

const set = (value) => (value === "ANY" ? ANY : Array.isArray(value) ? new Set(value) : value);

const QUESTIONS = {
  async attest({ evidence, collateral, root, now, policy, nonce, after }) {
    const believed = root === null ? await intelRoot() : { name: "root of the tests", fingerprint: root };
    const documents = parseCollateral(fromHex(collateral));
    const verified = await verify(fromHex(evidence), documents, believed, now);
    const wanted = Object.fromEntries(Object.entries(policy).map(([name, value]) => [name, set(value)]));
    if (wanted.minModelVersion !== null) wanted.minModelVersion = BigInt(wanted.minModelVersion);
    const { models } = appraise(verified, wanted, fromHex(nonce), now + after);
    const { tcbStatus, advisories, earliestExpiry, ppid, fmspc, pceId, tcbDate } = verified;
    return {
      accepted: true,
      tcbStatus,
      advisories,
      earliestExpiry,
      ppid,
      fmspc,
      pceId,
      tcbDate,
      models: models.map((one) => [one.modelDigest, one.modelId, one.owner, String(one.version)]),
      claims: { platform: verified.claims.platform, epoch: String(verified.claims.epoch) },
    };
  },
  async hpkeVector({ publicKey, info, ephemeral, enc, messages, exports }) {
    const pkcs8 = fromHex(`302e020100300506032b656e04220420${ephemeral}`);
    const key = await crypto.subtle.importKey("pkcs8", pkcs8, { name: "X25519" }, false, ["deriveBits"]);
    const { context } = await setupSenderWith(fromHex(publicKey), fromHex(info), key, fromHex(enc));
    const sealed = [];
    for (const [aad, plaintext] of messages) sealed.push(hex(await context.seal(fromHex(aad), fromHex(plaintext))));
    const exported = [];
    for (const [label, size] of exports) exported.push(hex(await context.export(fromHex(label), size)));
    return { sealed, exported };
  },
  async seal({ publicKey, info, aad, plaintext }) {
    const { enc, context } = await setupSender(fromHex(publicKey), fromHex(info));
    const sealed = await context.seal(fromHex(aad), fromHex(plaintext));
    return { enc: hex(enc), sealed: hex(sealed), exported: hex(await context.export(fromHex("00"), 77)) };
  },
  async request({ claims, rows, options }) {
    kept = { claims: await parseClaims(fromHex(claims)), options: { ...options, time: BigInt(options.time) } };
    kept.model = kept.claims.models[0];
    kept.request = await predictRequest(
      kept.claims,
      kept.model,
      Float32Array.from(rows, (value) => (value === "nan" ? NaN : Number(value))),
      kept.options,
    );
    return { message: hex(kept.request.message), answerSize: kept.request.answerSize };
  },
  async answer({ answer, mrenclave }) {
    const opened = await openAnswer(kept.request, fromHex(answer));
    const enclave = { claims: kept.claims, mrenclave };
    let counter = null;
    if (opened.receipt.length !== 0) {
      const { model, options, request } = kept;
      const receipt = await verifyReceipt(opened.receipt, enclave, model, options.time, request.message, opened);
      counter = String(receipt.counter);
    }
    return { status: opened.status, content: hex(opened.content), counter };
  },
  async buckets({ sizes }) {
    return sizes.map(bucketSize);
  },
};

let kept = {};

process.stdin.setEncoding("utf-8");
let buffered = "";
let last = Promise.resolve();
process.stdin.on("data", (text) => {
  buffered += text;
  const lines = buffered.split("\n");
  buffered = lines.pop();
  for (const line of lines) last = last.then(() => respond(JSON.parse(line)));
});

async function respond({ question, ...rest }) {
  let answer;
  try {
    answer = await QUESTIONS[question](rest);
  } catch (error) {
    answer = {
      error: error.name,
      reason: error.reason ?? error.code ?? null,
      sentence: error.message,
      seen: error.seen ?? null,
    };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
