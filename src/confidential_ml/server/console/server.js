// The routes of docs/http.md that the page asks: bounded, without cookies, without redirects.

import { fromBase64, hex } from "./bytes.js";
import { MAX_COLLATERAL_SIZE } from "./collateral.js";
import { MAX_CONTENT } from "./protocol.js";
import { AttestationError, RemoteError } from "./refusal.js";
import { parseObject } from "./strict_json.js";

const MAX_JSON_SIZE = 1 << 20;
const MAX_REPLY_SIZE = MAX_CONTENT + 1024;
const MAX_U64_DIGITS = 20;
const SECONDS = 30;

/** One server, and the token of whoever sits in front of the page. */
export class Server {
  /** @param {string} base origin @param {() => string} token */
  constructor(base, token) {
    this.base = base;
    this.token = token;
  }

  /** Evidence with that nonce in it. @param {Uint8Array} nonce @returns {Promise<Uint8Array>} */
  async evidence(nonce) {
    const fields = await this.object(`/attestation/report?nonce=${hex(nonce)}`);
    const evidence = fromBase64(fields.text("evidence"));
    if (evidence === null) throw new RemoteError("the server's evidence is not base64");
    return evidence;
  }

  /** @returns {Promise<Uint8Array>} JSON, as parseCollateral reads it */
  async collateral() {
    return this.ask("/attestation/collateral", {}, MAX_COLLATERAL_SIZE);
  }

  /** What the host says of itself; nothing vouches for it. @returns {Promise<import("./strict_json.js").Fields>} */
  async health() {
    return this.object("/health");
  }

  /** What the host says of its models; nothing vouches for it. @returns {Promise<Map<string, unknown>[]>} */
  async models() {
    return (await this.object("/models")).objects("models").map((one) => one.values);
  }

  /** @returns {Promise<string>} Prometheus text */
  async metrics() {
    return new TextDecoder().decode(await this.ask("/metrics", {}, MAX_JSON_SIZE));
  }

  /** Carries a message of docs/protocol.md 7. @param {Uint8Array} message @returns {Promise<Uint8Array>} its reply */
  async carry(message) {
    const headers = { "Content-Type": "application/octet-stream" };
    return this.ask("/confidential", { method: "POST", body: message, headers }, MAX_REPLY_SIZE);
  }

  /** @param {string} path */
  async object(path) {
    const text = new TextDecoder().decode(await this.ask(path, {}, MAX_JSON_SIZE));
    try {
      return parseObject(text, `the answer to ${path.split("?")[0]}`, "remote", MAX_U64_DIGITS);
    } catch (error) {
      if (error instanceof AttestationError) throw new RemoteError(error.message);
      throw error;
    }
  }

  /** @param {string} path @param {RequestInit} init @param {number} limit bytes @returns {Promise<Uint8Array>} */
  async ask(path, init, limit) {
    const token = this.token();
    const headers = { ...init.headers, ...(token === "" ? {} : { Authorization: `Bearer ${token}` }) };
    let response;
    try {
      response = await fetch(this.base + path, {
        ...init,
        headers,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        referrerPolicy: "no-referrer",
        signal: AbortSignal.timeout(SECONDS * 1000),
      });
    } catch {
      throw new RemoteError(`the server did not answer ${path.split("?")[0]}`, "unreachable");
    }
    const body = await read(response, limit);
    if (response.status !== 200) throw refused(response.status, body);
    return body;
  }
}

/** @param {Response} response @param {number} limit @returns {Promise<Uint8Array>} */
async function read(response, limit) {
  const parts = [];
  let size = 0;
  try {
    const reader = response.body?.getReader();
    for (let one = await reader?.read(); one !== undefined && !one.done; one = await reader?.read()) {
      size += one.value.length;
      if (size > limit) {
        await reader?.cancel();
        throw new RemoteError(`the server's answer has more than ${limit} bytes`);
      }
      parts.push(one.value);
    }
  } catch (error) {
    throw error instanceof RemoteError ? error : new RemoteError("the server's answer broke off", "unreachable");
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** @param {number} status @param {Uint8Array} body @returns {RemoteError} */
function refused(status, body) {
  let said = "";
  let code = String(status);
  try {
    const error = parseObject(new TextDecoder().decode(body), "an error", "remote", MAX_U64_DIGITS).inner("error");
    said = error.text("message").slice(0, 300);
    code = error.text("code").slice(0, 40);
  } catch {
    // an answer of something between here and the server
  }
  return new RemoteError(`the server answered ${status}${said === "" ? "" : `: ${said}`}`, code);
}
