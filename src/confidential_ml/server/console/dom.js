// Elements made of text: nothing that came over the network is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id @returns {any} the element of page.html */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`page.html has no #${id}`);
  return found;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {...(Node | string)} children text stays text
 */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className !== "") made.className = className;
  made.append(...children);
  return made;
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {...(Node | string)} children */
export function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** Names and values. @param {[string, Node | string][]} pairs */
export function pairs(pairs) {
  return element(
    "dl",
    "pairs",
    ...pairs.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]),
  );
}

/**
 * A word or two with a meaning.
 * @param {"" | "good" | "bad" | "warn"} kind
 * @param {string} name
 * @param {string} value
 */
export function chip(kind, name, value) {
  const children = name === "" ? [] : [element("span", "", name)];
  return element("span", `chip ${kind}`, ...children, element("b", "", value));
}

/** Shows a sentence, or hides its place. @param {HTMLElement} place @param {string} sentence */
export function say(place, sentence) {
  place.textContent = sentence;
  place.hidden = sentence === "";
}

/** Hands bytes to the visitor as a file. @param {Uint8Array} bytes @param {string} name */
export function save(bytes, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
