// What the page cannot do for itself: vouch for itself. So it offers itself as a file.

import { hex, sha256 } from "./bytes.js";
import { byId, element, pairs, save } from "./dom.js";

/** Of a page that a server handed out. */
export function showKeep() {
  const digest = element("code", "", "not computed yet");
  const button = element("button", "", "Save this page");
  button.setAttribute("type", "button");
  button.addEventListener("click", async () => {
    // Fetched anew, so that what is saved is what is hashed; the host may still hand out another file to others.
    const response = await fetch(location.href, { cache: "no-store", credentials: "omit", redirect: "error" });
    const bytes = new Uint8Array(await response.arrayBuffer());
    digest.textContent = hex(await sha256(bytes));
    save(bytes, "confidential_ml-console.html");
  });
  byId("keep-body").append(
    element(
      "p",
      "",
      "The host that you are checking has just handed you this page. A dishonest host can hand out a page that says “accepted” to everything, sends your rows in clear, and shows you whatever digest you like. No page can vouch for itself.",
    ),
    element(
      "p",
      "",
      "Keep it as a file instead. Compare its SHA-256 with that of a release you trust, or write it from an installation of your own, and open the file from your disk. It is the same for every server, byte for byte.",
    ),
    command("python -m confidential_ml.server.console > console.html"),
    element("p", "row", button),
    pairs([["SHA-256 of what you saved", digest]]),
    element("p", "hint", "Computed by this very page: believe only what you compute yourself, with sha256sum."),
  );
}

/** Of a page that was opened from a file. */
export function showKept() {
  byId("keep-title").textContent = "This page is a file of yours";
  byId("keep-body").append(
    element(
      "p",
      "",
      "The server that you check had no hand in it, if you know where the file came from. Compare its SHA-256 once more whenever you are in doubt; it is that of the release, whichever server you use it with.",
    ),
    command("sha256sum console.html && python -m confidential_ml.server.console | sha256sum"),
  );
}

/** @param {string} text */
function command(text) {
  const made = element("pre", "", element("code", "", text));
  made.tabIndex = 0;
  return made;
}
