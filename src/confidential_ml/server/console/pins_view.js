// The pins beside what the enclave shows.

import { ANY } from "./appraise.js";
import { byId, chip, element } from "./dom.js";
import { InputError } from "./refusal.js";
import { ACCEPTABLE_STATUSES } from "./tcb.js";
import { NOTHING, digests } from "./pins.js";

/** @typedef {import("./pins.js").Pins} Pins */
/** @typedef {Record<string, string[]>} Seen values by pin; several where there may be */

const ROWS = [
  {
    name: "root",
    label: "Root key",
    hint: "Empty: Intel's; or SHA-256 of another root's key",
    also: [],
  },
  { name: "mrenclave", label: "MRENCLAVE", hint: "Measurement of the enclave's image, 64 digits", also: [] },
  {
    name: "mrsigner",
    label: "MRSIGNER",
    hint: "Measurement of its signer, 64 digits",
    also: [
      ["isvProdId", "Product id"],
      ["minIsvSvn", "Least SVN"],
    ],
  },
  { name: "modelDigest", label: "Model digest", hint: "SHA-256 of the model, 64 digits, or ANY", also: [] },
  {
    name: "modelOwner",
    label: "Model owner",
    hint: "Ed25519 key of the model's signer, 64 digits",
    also: [["minModelVersion", "Least version"]],
  },
];

/** Makes the rows of the form. */
export function buildPins() {
  byId("pin-rows").append(...ROWS.map(pinRow));
  for (const status of ACCEPTABLE_STATUSES) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: status, name: "tcb-status" });
    byId("tcb-statuses").append(withLabel("check", box, status));
  }
}

/** @param {typeof ROWS[number]} row */
function pinRow({ name, label, hint, also }) {
  const input = textInput(name, hint);
  const text = element("label", "", label);
  text.setAttribute("for", input.id);
  const field = element("div", "seen pinned", element("span", "", "pinned"), input);
  const values = element("div", "pin-values", element("div", "seen-list"), field);
  if (also.length !== 0) {
    const more = also.map(([other, title]) => {
      const one = textInput(other, "");
      const wrapped = element("label", "", title, one);
      return wrapped;
    });
    values.append(element("div", "also", ...more));
  }
  const made = element("div", "pin", element("div", "pin-name", text, element("div", "pin-mark")), values);
  made.dataset.pin = name;
  return made;
}

/** @param {string} name @param {string} hint */
function textInput(name, hint) {
  const input = document.createElement("input");
  Object.assign(input, { id: `pin-${name}`, autocomplete: "off", spellcheck: false, placeholder: hint });
  return input;
}

/** @param {string} className @param {HTMLElement} input @param {string} text */
function withLabel(className, input, text) {
  return element("label", className, input, element("span", "", text));
}

/** Shows pins in the form. @param {Pins} pins */
export function showPins(pins) {
  for (const { name, also } of ROWS) {
    for (const one of [name, ...also.map(([other]) => other)])
      byId(`pin-${one}`).value = pins[/** @type {keyof Pins} */ (one)];
  }
  byId("pin-advisories").value = pins.advisories;
  byId("pin-age").value = pins.maxAge;
  byId("pin-debug").checked = pins.debug === "yes";
  const accepted = pins.statuses.split(" ");
  for (const box of statusBoxes()) box.checked = accepted.includes(box.value);
}

/** Reads pins from the form. @returns {Pins} */
export function readPins() {
  const pins = { ...NOTHING };
  for (const { name, also } of ROWS) {
    for (const one of [name, ...also.map(([other]) => other)]) {
      pins[/** @type {keyof Pins} */ (one)] = byId(`pin-${one}`).value.trim();
    }
  }
  pins.advisories = byId("pin-advisories").value.trim();
  pins.maxAge = byId("pin-age").value.trim();
  pins.debug = byId("pin-debug").checked ? "yes" : "";
  pins.statuses = statusBoxes()
    .filter((box) => box.checked)
    .map((box) => box.value)
    .join(" ");
  return pins;
}

/** @returns {HTMLInputElement[]} */
function statusBoxes() {
  return [...document.querySelectorAll('input[name="tcb-status"]')].map((one) => /** @type {HTMLInputElement} */ (one));
}

/**
 * Shows what the enclave shows beside each pin.
 * @param {Seen} seen @param {Pins} pins
 * @param {boolean} isVerified otherwise it is only what the server says
 */
export function showSeen(seen, pins, isVerified) {
  for (const { name } of ROWS) {
    const row = /** @type {HTMLElement} */ (document.querySelector(`[data-pin="${name}"]`));
    const values = seen[name] ?? [];
    const word = isVerified ? "seen" : "says";
    row
      .querySelector(".seen-list")
      ?.replaceChildren(
        ...values.map((value) => element("div", "seen", element("span", "", word), element("code", "", value))),
      );
    const mark = row.querySelector(".pin-mark");
    const match = values.length === 0 ? "none" : matchOf(values, pins[/** @type {keyof Pins} */ (name)], name);
    row.dataset.match = match;
    mark?.replaceChildren(...markOf(match, isVerified));
  }
}

/** @param {string} match @param {boolean} isVerified */
function markOf(match, isVerified) {
  if (match === "none") return [];
  if (match === "no") return [chip("bad", "", "differs")];
  if (match === "unpinned") return [chip("", "", "not pinned")];
  if (!isVerified) return [chip("warn", "", "unverified")];
  return [match === "any" ? chip("warn", "", "any") : chip("good", "", "as pinned")];
}

/** @param {string[]} values @param {string} pin @param {string} name @returns {"yes" | "no" | "any" | "unpinned"} */
function matchOf(values, pin, name) {
  let accepted;
  try {
    accepted = digests(pin, name);
  } catch (error) {
    if (error instanceof InputError) return "no";
    throw error;
  }
  if (accepted === null) return "unpinned";
  if (accepted === ANY) return "any";
  return values.some((one) => accepted.has(one)) ? "yes" : "no";
}
