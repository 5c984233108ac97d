// The page: what happens when.

import { RELEASE } from "./compiled_in.js";
import { byId, element, say } from "./dom.js";
import { showKeep, showKept } from "./keep_view.js";
import { showModels, showNoModels } from "./models_view.js";
import { NOTHING, checkPins, forgetPins, loadPins, missingPins, policyOf, rootOf, savePins } from "./pins.js";
import { buildPins, readPins, showPins, showSeen } from "./pins_view.js";
import { parseClaims } from "./claims.js";
import { parseEvidence } from "./quote.js";
import { AttestationError, InputError, RemoteError } from "./refusal.js";
import { showResult } from "./result_view.js";
import { parseRows } from "./rows.js";
import { Server } from "./server.js";
import { Session } from "./session.js";
import { Speed, showMetrics } from "./speed_view.js";
import {
  keepClearOfBanners,
  showAccepted,
  showBanners,
  showFacts,
  showRefusal,
  showSteps,
  showVerdict,
} from "./verdict_view.js";
import { showWire } from "./wire_view.js";

const MEASURED = 25;
const IS_FILE = location.protocol === "file:";

/** @type {Session | null} */
let session = null;
/** @type {import("./pins.js").Pins} */
let pins = { ...NOTHING };
let server = "";
let isBusy = false;
const speed = new Speed();

/** @param {string} base */
function connect(base) {
  server = base;
  session = new Session(new Server(base, () => byId("token").value));
  byId("origin").textContent = base;
  pins = loadPins(base);
  showPins(pins);
  void attest();
}

/** Asks, verifies, appraises, and shows all of it. */
async function attest() {
  if (session === null || isBusy) return;
  setBusy(true);
  showVerdict(
    "checking",
    "Checking…",
    "Asking for evidence with a fresh nonce, and verifying every signature of it here.",
  );
  showSteps([], "");
  const [health, models] = await Promise.all([settled(session.server.health()), settled(session.server.models())]);
  try {
    const missing = missingPins(pins);
    const accepted = await session.attest(await rootOf(pins), missing === "" ? policyOf(pins) : null);
    if (accepted === null) {
      showVerdict(
        "unpinned",
        "Genuine, but not compared",
        "The signatures are right. Whether it is the enclave you want, nobody has told this page.",
        missing,
      );
      showSteps(session.verified?.steps ?? [], "");
    } else {
      showAccepted(accepted.verified);
      showSteps(accepted.steps, "");
    }
  } catch (error) {
    showRefusal(error);
    showUnverified(error, await unverified());
  } finally {
    setBusy(false);
  }
  await showState(health, models ?? []);
}

/**
 * @param {import("./strict_json.js").Fields | null} health @param {Map<string, unknown>[]} models
 */
async function showState(health, models) {
  const verified = session?.verified ?? null;
  showFacts(verified, session?.expiry ?? 0);
  const said = health === null ? [] : /** @type {unknown[]} */ ([health.values.get("unsafe")].flat());
  const others = said.filter((one) => typeof one === "string" && !["simulation", "debug"].includes(one));
  const shown = verified ?? (await unverified());
  const platform = shown?.claims.platform ?? health?.values.get("platform");
  showBanners({
    simulation: typeof platform === "string" && platform !== "openenclave",
    debug: shown?.report.isDebug ?? health?.values.get("debug") === true,
    verified: verified !== null,
    others: others.map((one) => String(one).slice(0, 40)),
  });
  if (verified === null) {
    showNoModels("Known once the enclave is verified.");
  } else {
    const { report, claims, root } = verified;
    const seen = {
      root: [root.fingerprint],
      mrenclave: [report.mrenclave],
      mrsigner: [report.mrsigner],
      modelDigest: claims.models.map((one) => one.modelDigest),
      modelOwner: claims.models.flatMap((one) => (one.owner === null ? [] : [one.owner])),
    };
    showSeen(seen, pins, true);
    showModels(claims.models, session?.accepted?.models ?? null, models);
  }
  showTry();
  const metrics = session === null ? null : await settled(session.server.metrics());
  showMetrics(metrics ?? "");
}

/** What evidence says that was refused; nobody vouches for it. */
async function unverified() {
  try {
    const { quote, claims } = parseEvidence(session?.evidence ?? new Uint8Array());
    return { report: quote.report, claims: await parseClaims(claims) };
  } catch {
    return null;
  }
}

/**
 * Shows it beside the pins, for comparison.
 * @param {unknown} error @param {Awaited<ReturnType<typeof unverified>>} said
 */
function showUnverified(error, said) {
  const root = error instanceof AttestationError ? /** @type {any} */ (error.seen).root : undefined;
  const seen = {
    root: root === undefined ? [] : [root.fingerprint],
    mrenclave: said === null ? [] : [said.report.mrenclave],
    mrsigner: said === null ? [] : [said.report.mrsigner],
    modelDigest: said === null ? [] : said.claims.models.map((one) => one.modelDigest),
  };
  showSeen(seen, pins, false);
}

function showTry() {
  const models = session?.accepted?.models ?? [];
  const select = byId("model");
  const former = select.value;
  select.replaceChildren(...models.map((one) => new Option(`${one.modelId}, version ${one.version}`, one.modelDigest)));
  if (models.some((one) => one.modelDigest === former)) select.value = former;
  const isReady = models.length !== 0;
  byId("try-fields").disabled = !isReady;
  byId("predict").disabled = !isReady;
  byId("repeat").disabled = !isReady;
  suggestRow();
}

function suggestRow() {
  const model = chosenModel();
  if (model === undefined || byId("rows").value !== "") return;
  // Missing values everywhere are a row of every model.
  byId("rows").placeholder = Array.from({ length: Math.min(model.nFeatures, 12) }, () => "0.5").join(", ");
}

function chosenModel() {
  return session?.accepted?.models.find((one) => one.modelDigest === byId("model").value);
}

/** @param {number} count how often the same rows are sent, encrypted anew each time */
async function predict(count) {
  const model = chosenModel();
  if (session === null || isBusy) return;
  say(byId("try-error"), "");
  setBusy(true);
  try {
    if (model === undefined) throw new InputError("Choose a model that the enclave has.");
    const rows = parseRows(byId("rows").value, model.nFeatures);
    const asked = { outputMargin: byId("margin").checked, wantsReceipt: byId("receipt").checked };
    for (let at = 0; at < count; at += 1) {
      const done = await session.predict(model, rows, asked);
      speed.add(done);
      if (at === count - 1) {
        showResult(done);
        showWire(done, model);
      }
    }
  } catch (error) {
    await showFailure(error);
  } finally {
    setBusy(false);
  }
}

/** @param {unknown} error */
async function showFailure(error) {
  byId("result").replaceChildren(element("p", "empty", "No predictions: the last request failed."));
  if (error instanceof AttestationError) {
    showRefusal(error);
    showUnverified(error, await unverified());
    showFacts(null, 0);
    showTry();
    say(byId("try-error"), "Nothing was sent: the enclave had to be attested again and was refused.");
    return;
  }
  if (!(error instanceof RemoteError) && !(error instanceof InputError)) {
    say(byId("try-error"), "This page failed: a defect. Please report it.");
    throw error;
  }
  const hint = error instanceof RemoteError && error.code === "token_wrong" ? " Type the server's bearer token." : "";
  const sentence = error.message.charAt(0).toUpperCase() + error.message.slice(1).replace(/\.$/, "");
  say(byId("try-error"), `${sentence}.${hint}`);
}

/** @param {boolean} busy */
function setBusy(busy) {
  isBusy = busy;
  document.body.setAttribute("aria-busy", String(busy));
  byId("attest").disabled = busy;
}

/**
 * The value, or null: the page does without it. @template T
 * @param {Promise<T>} promise
 * @returns {Promise<T | null>}
 */
async function settled(promise) {
  try {
    return await promise;
  } catch {
    return null;
  }
}

/** A reason why this browser cannot do it, or "". */
async function lack() {
  if (globalThis.crypto?.subtle === undefined) {
    return "Browsers give pages no cryptography over plain HTTP from another machine. Use https, or keep this page as a file.";
  }
  try {
    await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]);
    await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign"]);
    return "";
  } catch {
    return "This browser lacks X25519 or Ed25519 in WebCrypto. Firefox 130, Safari 17, Chrome 137 and later have them.";
  }
}

/** @param {SubmitEvent} event */
function pin(event) {
  event.preventDefault();
  const typed = readPins();
  try {
    checkPins(typed);
    say(byId("pins-error"), "");
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    say(byId("pins-error"), error.message);
    return;
  }
  pins = typed;
  if (!savePins(server, pins)) say(byId("pins-error"), "This browser keeps nothing: the pins hold until you reload.");
  void attest();
}

/** From now on the page reaches this one address. @param {SubmitEvent} event */
function choose(event) {
  event.preventDefault();
  const { origin } = new URL(byId("server").value);
  const narrower = document.createElement("meta");
  narrower.httpEquiv = "Content-Security-Policy";
  narrower.content = `connect-src ${origin}`;
  document.head.append(narrower);
  byId("connect").hidden = true;
  connect(origin);
}

async function start() {
  keepClearOfBanners();
  buildPins();
  showPins(pins);
  byId("release").textContent =
    `confidential_ml ${RELEASE}. Nothing on this page comes from elsewhere; its script may talk to this server alone.`;
  byId("attest").addEventListener("click", () => void attest());
  byId("pins").addEventListener("submit", pin);
  byId("forget").addEventListener("click", () => {
    forgetPins(server);
    pins = { ...NOTHING };
    showPins(pins);
    void attest();
  });
  byId("try").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    void predict(1);
  });
  byId("repeat").addEventListener("click", () => void predict(MEASURED));
  byId("model").addEventListener("change", suggestRow);
  byId("connect-form").addEventListener("submit", choose);
  if (IS_FILE) showKept();
  else showKeep();
  const missing = await lack();
  if (missing !== "") {
    showVerdict("refused", "This browser cannot check", missing);
    byId("attest").disabled = true;
    return;
  }
  if (IS_FILE) {
    byId("connect").hidden = false;
    byId("attest").disabled = true;
  } else {
    connect(location.origin);
  }
  setInterval(() => {
    if (!isBusy) showFacts(session?.verified ?? null, session?.expiry ?? 0);
  }, 1000);
}

void start();
