// Latency and throughput, as this page measures them, and the host's own figures if they are open.

import { byId, element, pairs, svg } from "./dom.js";

const SHOWN = 60; // requests in the chart
const KEPT = 500;
const HEIGHT = 144;
const NARROWEST = 240;
const MAX_METRICS = 8;
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*) (\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/;

/** @typedef {{ wait: number, own: number, rows: number, at: number }} Measured milliseconds; own: in this page */

export class Speed {
  constructor() {
    /** @type {Measured[]} */
    this.measured = [];
    addEventListener("resize", () => this.show());
  }

  /** @param {import("./session.js").Prediction} done */
  add({ times, values, columns }) {
    const own = times.encrypt + times.open;
    this.measured.push({ wait: times.wait, own, rows: values.length / columns, at: performance.now() });
    if (this.measured.length > KEPT) this.measured.shift();
    this.show();
  }

  show() {
    if (this.measured.length === 0) return;
    const totals = this.measured.map((one) => one.wait + one.own).sort((a, b) => a - b);
    const rows = this.measured.reduce((sum, one) => sum + one.rows, 0);
    const busy = totals.reduce((sum, one) => sum + one, 0) / 1000;
    byId("speed").replaceChildren(
      element(
        "div",
        "numbers",
        figure(quantile(totals, 0.5).toFixed(1), " ms", "median"),
        figure(quantile(totals, 0.95).toFixed(1), " ms", "95th percentile"),
        figure((totals.length / busy).toFixed(1), " /s", "requests"),
        figure(Math.round(rows / busy).toLocaleString("en"), " /s", "rows"),
        figure(totals.length.toLocaleString("en"), "", "measured, one by one"),
      ),
      chart(this.measured.slice(-SHOWN)),
      element(
        "p",
        "legend",
        element("span", "wait", "network and enclave"),
        element("span", "own", "encrypting and opening in this page"),
      ),
    );
  }
}

/** @param {string} value @param {string} unit @param {string} name */
function figure(value, unit, name) {
  return element("div", "", element("b", "", value, element("small", "", unit)), element("span", "", name));
}

/** @param {number[]} sorted @param {number} share */
function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

/** One bar a request. @param {Measured[]} measured */
function chart(measured) {
  const top = niceTop(Math.max(...measured.map((one) => one.wait + one.own)));
  // As wide as its place, so that its text is not stretched.
  const width = Math.max(NARROWEST, byId("speed").clientWidth);
  const [left, bottom] = [52, HEIGHT - 8];
  const y = (/** @type {number} */ value) => bottom - (value / top) * (bottom - 12);
  const step = (width - left) / SHOWN;
  const lines = [0, top / 2, top].flatMap((value) => [
    svg("line", { class: "grid", x1: left, x2: width, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${Number(value.toPrecision(3))} ms`),
  ]);
  const bars = measured.flatMap(({ wait, own }, at) => {
    const x = left + at * step + 1;
    const common = { x, width: Math.max(1, step - 3), rx: 1.5 };
    return [
      svg("rect", { class: "own", ...common, y: y(wait + own), height: y(wait) - y(wait + own) }),
      svg("rect", { class: "wait", ...common, y: y(wait), height: bottom - y(wait) }),
    ];
  });
  const label = `Latency of the last ${measured.length} requests, up to ${top} milliseconds`;
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label },
    ...lines,
    ...bars,
  );
}

/** @param {number} value @returns {number} the next of 1, 2, 5 times a power of ten */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5, 10].find((factor) => factor * power >= value) ?? 10) * power;
}

/** @param {string} text Prometheus text */
export function showMetrics(text) {
  const samples = text
    .split("\n")
    .map((line) => SAMPLE.exec(line))
    .filter((found) => found !== null && found[1].startsWith("confidential_ml_") && !found[1].endsWith("_created"))
    .slice(0, MAX_METRICS);
  const rows = /** @type {[string, string][]} */ (
    samples.map((found) => [found?.[1].replace("confidential_ml_", "").replaceAll("_", " "), found?.[2]])
  );
  const title = element("h4", "", "Unverified, said by the host (GET /metrics)");
  byId("metrics").replaceChildren(...(rows.length === 0 ? [] : [element("div", "unverified", title, pairs(rows))]));
}
