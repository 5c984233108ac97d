// Models as the verified claims name them, and apart from that what the host says of them.

import { byId, chip, element, pairs, say } from "./dom.js";

/** @typedef {import("./claims.js").ModelClaim} ModelClaim */

const DETAILS = ["objective", "booster", "n_trees", "n_rounds", "policy", "current"];

/**
 * @param {ModelClaim[]} claimed all that the enclave names @param {ModelClaim[] | null} accepted those as pinned
 * @param {Map<string, unknown>[]} told what GET /models says
 */
export function showModels(claimed, accepted, told) {
  const lead =
    claimed.length === 0
      ? "The verified enclave has no model loaded."
      : "Named by the verified enclave itself. What only the host says stands apart.";
  say(byId("models-lead"), lead);
  byId("models").replaceChildren(...claimed.map((one) => card(one, accepted, told)));
}

/** Nothing is known. @param {string} sentence */
export function showNoModels(sentence) {
  say(byId("models-lead"), sentence);
  byId("models").replaceChildren();
}

/** @param {ModelClaim} model @param {ModelClaim[] | null} accepted @param {Map<string, unknown>[]} told */
function card(model, accepted, told) {
  const isAccepted = accepted !== null && accepted.includes(model);
  const mark =
    accepted === null
      ? chip("warn", "", "not compared")
      : isAccepted
        ? chip("good", "", "accepted")
        : chip("", "", "not pinned");
  const made = element(
    "article",
    isAccepted ? "model" : "model other",
    element("header", "", element("h3", "", model.modelId), mark),
    element(
      "div",
      "shape",
      shape(model.nFeatures, "features"),
      shape(model.nGroups, "groups"),
      shape(model.nValues, "values a row"),
    ),
    pairs([
      ["Digest", element("code", "", model.modelDigest)],
      ["Owner", model.owner === null ? "nobody" : element("code", "", model.owner)],
      ["Version", String(model.version)],
    ]),
  );
  const said = told.find((one) => one.get("model_digest") === model.modelDigest);
  if (said !== undefined) made.append(unverified("Unverified, said by the host", said));
  return made;
}

/** @param {number} value @param {string} name */
function shape(value, name) {
  return element("div", "", element("b", "", value.toLocaleString("en")), element("span", "", name));
}

/** @param {string} title @param {Map<string, unknown>} said */
function unverified(title, said) {
  const known = DETAILS.filter((name) => ["string", "number", "boolean", "bigint"].includes(typeof said.get(name)));
  const rows = /** @type {[string, string][]} */ (known.map((name) => [name, String(said.get(name)).slice(0, 80)]));
  return element("div", "unverified", element("h4", "", title), pairs(rows));
}
