// The verdict, in words that nobody can take for another.

import { byId, chip, element, say } from "./dom.js";
import { AttestationError, InputError, RemoteError } from "./refusal.js";

/** @typedef {import("./verify.js").VerifiedEvidence} VerifiedEvidence */

const ADVICE = new Map([
  ["debug-enclave", "Only for tests: tick “Accept a DEBUG enclave” below."],
  [
    "mrenclave",
    "Another program runs there than the one you pinned. Send it nothing, unless whoever builds the enclave tells you of a new release.",
  ],
  ["model", "Models come and go by the operator's hand. Ask the model's owner for the digest you should expect."],
  [
    "nonce",
    "This is evidence of an earlier time, or for somebody else. Somebody between you and the enclave answers for it.",
  ],
]);

/**
 * @param {"idle" | "checking" | "accepted" | "refused" | "unpinned" | "unreachable"} state
 * @param {string} title @param {string} sentence @param {string} [advice]
 */
export function showVerdict(state, title, sentence, advice = "") {
  byId("verdict").dataset.state = state;
  delete byId("verdict").dataset.protects;
  byId("verdict-title").textContent = title;
  byId("verdict-sentence").textContent = sentence;
  say(byId("verdict-advice"), advice);
}

/** A verdict in favour; of what protects nothing it says so in the same breath. @param {VerifiedEvidence} verified */
export function showAccepted({ claims, report }) {
  const isSimulation = claims.platform !== "openenclave";
  if (!isSimulation && !report.isDebug) {
    showVerdict(
      "accepted",
      "Accepted",
      "A genuine enclave with what you pinned holds the key that this page encrypts to.",
    );
    return;
  }
  const [what, why] = isSimulation
    ? ["simulation", "It is what you pinned, and it is not SGX: it protects nothing. Send it nothing that matters."]
    : ["debug enclave", "It is what you pinned, and its memory can be read. Send it nothing that matters."];
  showVerdict("accepted", `Accepted: a ${what}`, why);
  byId("verdict").dataset.protects = "no";
}

/** Why there is no verdict in favour. @param {unknown} error */
export function showRefusal(error) {
  if (error instanceof AttestationError) {
    const { root } = /** @type {{ root?: { name: string, fingerprint: string } }} */ (error.seen);
    const advice =
      error.reason === "root-untrusted" && root !== undefined ? rootAdvice(root) : ADVICE.get(error.reason);
    showVerdict("refused", "Refused", `${sentence(error.message)} (${error.reason})`, advice);
    showSteps(error.steps, `${sentence(error.message)} (${error.reason})`);
    return;
  }
  showSteps([], "");
  if (error instanceof RemoteError) {
    showVerdict(
      "unreachable",
      "No evidence",
      `${sentence(error.message)}.`,
      "Nothing is known of the enclave, and nothing was sent to it.",
    );
  } else if (error instanceof InputError) {
    showVerdict("refused", "Not checked", error.message);
  } else {
    showVerdict("refused", "This page failed", "A defect of the page: it accepts nothing. Please report it.");
    throw error;
  }
}

/** @param {{ name: string, fingerprint: string }} root */
function rootAdvice({ name, fingerprint }) {
  return (
    `Seen: “${name}”, key fingerprint ${fingerprint}. If this should be your own installation's simulation, ask that ` +
    "machine for the fingerprint of its root (docs/console.md), compare, and pin it below. Never copy it from here."
  );
}

/** @param {string[]} steps @param {string} refusal "" if there is none */
export function showSteps(steps, refusal) {
  const place = byId("steps");
  const lines = steps.map((step) => element("li", "", element("span", "", step)));
  if (refusal !== "") lines.push(element("li", "refused", element("span", "", refusal)));
  place.querySelector("ol").replaceChildren(...lines);
  place.hidden = lines.length === 0;
}

/** Status of the machine, and how old all this is. @param {VerifiedEvidence | null} verified @param {number} expiry */
export function showFacts(verified, expiry) {
  const place = byId("verdict-facts");
  if (verified === null) {
    place.replaceChildren();
    return;
  }
  const isUpToDate = verified.tcbStatus === "UpToDate";
  const left = expiry - Date.now();
  place.replaceChildren(
    chip(isUpToDate ? "good" : "warn", "TCB", verified.tcbStatus),
    chip(verified.advisories.length === 0 ? "" : "warn", "Advisories", verified.advisories.join(", ") || "none"),
    chip("", "Root", verified.root.isIntels ? "Intel" : "yours, pinned"),
    chip("", "Verified", `${duration(Date.now() - verified.verifiedAt)} ago`),
    chip(left > 60_000 ? "" : "warn", "Expires in", left > 0 ? duration(left) : "no time: expired"),
    chip("", "Epoch", String(verified.claims.epoch)),
    chip("", "SVN", String(verified.report.isvSvn)),
    chip("", "FMSPC", verified.fmspc),
  );
}

/** @param {{ simulation: boolean, debug: boolean, verified: boolean, others: string[] }} found */
export function showBanners({ simulation, debug, verified, others }) {
  const banners = [];
  const source = verified ? "" : " So says the server.";
  if (simulation) {
    banners.push(banner("simulation", "SIMULATION", `This enclave protects nothing.${source}`));
  }
  if (debug) banners.push(banner("debug", "DEBUG", `Its memory can be read.${source}`));
  if (others.length !== 0) banners.push(banner("debug", "UNSAFE", `The server runs with: ${others.join(", ")}.`));
  byId("banners").replaceChildren(...banners);
}

/** Keeps what is scrolled to from lying under the banners, however many lines they take. */
export function keepClearOfBanners() {
  const banners = byId("banners");
  const keepClear = () => {
    document.documentElement.style.scrollPaddingTop = `${banners.offsetHeight + 16}px`;
  };
  new ResizeObserver(keepClear).observe(banners);
}

/** @param {string} className @param {string} word @param {string} text */
function banner(className, word, text) {
  return element("div", `banner ${className}`, element("strong", "", word), element("span", "", text));
}

/** @param {string} text */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A length of time as people say it. @param {number} milliseconds */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const [minutes, hours, days] = [60, 3600, 86400].map((unit) => Math.floor(seconds / unit));
  if (days > 0) return `${days} d ${hours % 24} h`;
  if (hours > 0) return `${hours} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}
