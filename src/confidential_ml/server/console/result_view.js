// Predictions, exactly, and the receipt.

import { hex } from "./bytes.js";
import { byId, element, pairs, save } from "./dom.js";
import { bits, exactDecimal } from "./rows.js";

const SHOWN_ROWS = 200;

/** @param {import("./session.js").Prediction} done */
export function showResult(done) {
  const { values, columns, receipt, times } = done;
  const rowCount = values.length / columns;
  const head = ["row", ...Array.from({ length: columns }, (_, at) => (columns === 1 ? "prediction" : `value ${at}`))];
  const body = Array.from({ length: Math.min(rowCount, SHOWN_ROWS) }, (_, row) =>
    element(
      "tr",
      "",
      element("td", "", String(row + 1)),
      ...Array.from(values.subarray(row * columns, (row + 1) * columns), cell),
    ),
  );
  const table = element(
    "table",
    "",
    element("thead", "", element("tr", "", ...head.map((name) => element("th", "", name)))),
    element("tbody", "", ...body),
  );
  const scroll = element("div", "scroll", table);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Predictions");
  const more = rowCount > SHOWN_ROWS ? [element("p", "hint", `${rowCount - SHOWN_ROWS} more rows are not shown.`)] : [];
  const total = times.encrypt + times.wait + times.open;
  const note = `${rowCount.toLocaleString("en")} row${rowCount === 1 ? "" : "s"} in ${total.toFixed(1)} ms. Below each number its float32 bits.`;
  byId("result").replaceChildren(
    scroll,
    ...more,
    element("p", "hint", note),
    ...(receipt === null ? [] : [receiptView(receipt)]),
  );
}

/** @param {number} value */
function cell(value) {
  return element("td", "", exactDecimal(value), element("small", "", bits(value)));
}

/** @param {import("./receipt.js").Receipt} receipt */
function receiptView(receipt) {
  const button = element("button", "", "Save receipt");
  button.setAttribute("type", "button");
  button.addEventListener("click", () => save(receipt.data, `receipt-${receipt.counter}.bin`));
  return element(
    "div",
    "receipt",
    element("h3", "", "Receipt verified"),
    element("p", "hint", "Signed by the enclave's receipt key; of this request, this model and these predictions."),
    pairs([
      ["Number", String(receipt.counter)],
      ["Asked at", new Date(Number(receipt.time)).toISOString()],
      ["Request", element("code", "", hex(receipt.requestDigest))],
    ]),
    element("p", "row", button),
  );
}
