"""The console in a browser, against an enclave: what it accepts, what it refuses, and what crosses the wire."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import confidential_ml as cml
from confidential_ml.protocol import bucket_size

if TYPE_CHECKING:
    from console_server import Host
    from playwright.sync_api import Browser, Page

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
ROWS = np.load(FIXTURES / "X.npy")[:5]
FLAGS = [
    *["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
    *["--disable-component-update", "--disable-sync"],
]


def chromium() -> str | None:
    return next(
        (found for found in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if found), None
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = chromium()
    if path is None:
        pytest.skip("needs Chromium: scripts/system_packages.sh test installs it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(enclave: cml.Enclave, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The server; the only place that says which."""
    pytest.importorskip("starlette", reason="needs starlette")
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    from console_server import Host, running

    if enclave.identity.platform == "openenclave":
        pytest.skip("needs the root of a simulated platform")
    path = tmp_path_factory.mktemp("console") / "model.sealed"
    own = cml.Enclave()
    cml.seal(FIXTURES / "xgb-3.4.1.softprob.ubj", path, model_id="iris", enclave=own)
    with own, cml.ConfidentialModel.load_sealed(path, enclave=own) as model, running(Host(own, model)) as host:
        yield host


@pytest.fixture
def host(served: Host) -> Host:
    served.forget()
    return served


# The directive that forbids a request to another address.
ELSEWHERE = """new Promise((done) => {
  addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
  fetch("http://localhost:9/").then(() => done("reached"), () => setTimeout(() => done("tried"), 2000));
})"""


class Visit:
    """One visitor with a browser of their own, who notices every complaint of the browser."""

    def __init__(self, browser: Browser, host: Host) -> None:
        self.context = browser.new_context()
        self.host = host
        self.complaints: list[str] = []
        self.is_provoking = False
        self.addresses: list[str] = []
        self.context.add_init_script(
            "addEventListener('securitypolicyviolation', "
            "(event) => console.error('CSP', event.violatedDirective, event.blockedURI))"
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.addresses.append(request.url))

    def _heard(self, message: Any) -> None:
        # That a request was answered with 401 or not at all is the server's doing, and shown on the page.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def pins(self, **changes: str) -> dict[str, str]:
        root = self.host.platform.root.fingerprint
        right = {
            "root": root,
            "mrenclave": self.host.enclave.identity.mrenclave,
            "modelDigest": self.host.model.info.model_digest,
        }
        return right | changes

    def pin(self, **changes: str) -> str:
        """Pin what is right but for these changes; the state of the verdict."""
        for name, value in self.pins(**changes).items():
            self.page.fill(f"#pin-{name}", value)
        self.page.set_checked("#pin-debug", True)
        return self.submit()

    def submit(self) -> str:
        self.page.click("text=Pin and attest")
        return self.state()

    def state(self) -> str:
        self.page.wait_for_selector("body[aria-busy=false] #verdict:not([data-state=idle], [data-state=checking])")
        state = self.page.get_attribute("#verdict", "data-state")
        assert state is not None
        return state

    def open(self) -> str:
        self.page.goto(self.host.base)
        return self.state()

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def predict(self, rows: Any = ROWS, **options: bool) -> None:
        self.page.fill("#rows", as_text(rows))
        for name, value in options.items():
            self.page.set_checked(f"#{name}", value)
        self.page.click("#predict")
        self.page.wait_for_selector("body[aria-busy=false]")

    def predictions(self) -> tuple[list[list[str]], list[list[str]]]:
        """Decimals and bits, as the page shows them."""
        rows = self.page.eval_on_selector_all(
            "#result tbody tr",
            "rows => rows.map(row => [...row.cells].slice(1)"
            ".map(cell => [cell.firstChild.textContent, cell.querySelector('small').textContent]))",
        )
        return [[cell[0] for cell in row] for row in rows], [[cell[1] for cell in row] for row in rows]


def as_text(rows: Any) -> str:
    return "\n".join(", ".join("nan" if np.isnan(value) else repr(float(value)) for value in row) for row in rows)


@pytest.fixture
def visit(browser: Browser, host: Host) -> Iterator[Visit]:
    visit = Visit(browser, host)
    yield visit
    complaints, addresses = visit.complaints, visit.addresses
    visit.context.close()
    assert visit.is_provoking or complaints == []
    assert {address.split("/")[2] for address in addresses if address.startswith("http")} <= {host.base.split("/")[2]}


# ---- accepted


def test_a_visitor_who_pins_gets_exact_predictions(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    expected = host.model.predict(ROWS, strict_shape=True)
    visit.predict()
    decimals, bits = visit.predictions()
    assert np.array(decimals, dtype=np.float64).astype(np.float32).tobytes() == expected.tobytes()
    assert [[f"{number:08x}" for number in row] for row in expected.view(np.uint32).tolist()] == bits
    assert "Receipt verified" in visit.text("#result")
    assert "UpToDate" in visit.text("#verdict-facts")


def test_margins_without_a_receipt(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    visit.predict(margin=True, receipt=False)
    expected = host.model.predict(ROWS, output_margin=True, strict_shape=True)
    decimals, _ = visit.predictions()
    assert np.array(decimals, dtype=np.float64).astype(np.float32).tobytes() == expected.tobytes()
    assert "Receipt" not in visit.text("#result")


def test_nothing_on_the_wire_shows_a_row_or_a_prediction(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    visit.predict()
    message, reply = host.wire
    wire = b"".join(host.wire)
    secret = [row.tobytes() for row in ROWS] + [row.tobytes() for row in host.model.predict(ROWS, strict_shape=True)]
    secret += [as_text([row]).encode() for row in ROWS]
    assert [one for one in secret if one in wire] == []
    assert len(message) == 4 + 104 + bucket_size(40 + ROWS.nbytes) + 16
    # The page shows both, byte for byte, and cuts them into the parts that they have.
    shown = visit.page.eval_on_selector_all(
        ".part.clear code, .part.sealed code", "all => all.map(one => one.textContent)"
    )
    starts = [one.split(" ")[0] for one in shown]
    assert all(start in wire.hex() for start in starts)
    assert "".join(starts[:6]) == message[:92].hex()
    assert starts[9:13] == [reply[:4].hex(), reply[4:12].hex(), reply[12:20].hex(), reply[20:52].hex()]


def test_simulation_and_debug_cannot_be_overlooked(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 700})
    visit.open()
    for _ in range(2):
        assert re.search(r"SIMULATION[\s\S]*protects nothing[\s\S]*DEBUG", visit.text("#banners"))
        assert visit.page.evaluate("document.getElementById('banners').getBoundingClientRect().top") == 0
        visit.pin()
        visit.page.evaluate("scrollTo(0, document.body.scrollHeight)")


def test_banners_hide_nothing_that_is_scrolled_to(visit: Visit, host: Host) -> None:
    host.unsafe = ["simulation", "cleartext_predict", "cleartext_upload", "anonymous:client", "anonymous:owner"]
    for width in (320, 420, 1440):
        visit.page.set_viewport_size({"width": width, "height": 700})
        visit.open()
        assert "UNSAFE" in visit.text("#banners")
        for field in ("#pin-mrenclave", "#pin-modelOwner", "#token"):
            top, bottom = visit.page.evaluate(
                """(field) => {
                  const found = document.querySelector(field);
                  found.scrollIntoView({ block: "start" });
                  const banners = document.getElementById("banners");
                  return [found.getBoundingClientRect().top, banners.getBoundingClientRect().bottom];
                }""",
                field,
            )
            assert top >= bottom, (width, field)


def test_the_placeholders_of_pins_are_not_cut_off(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 420, "height": 700})
    visit.open()
    cut_off = visit.page.eval_on_selector_all(
        ".pinned input",
        """fields => fields.filter((field) => {
          const style = getComputedStyle(field, "::placeholder");
          const context = document.createElement("canvas").getContext("2d");
          context.font = `${style.fontSize} ${style.fontFamily}`;
          const room = field.clientWidth - 2 * parseFloat(getComputedStyle(field).paddingLeft);
          return field.placeholder === "" || context.measureText(field.placeholder).width > room;
        }).map((field) => field.id)""",
    )
    assert cut_off == []


def test_pins_are_kept_and_the_token_is_not(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    host.token = "a token of the tests"
    visit.predict()
    assert "token" in visit.text("#try-error")
    visit.page.fill("#token", host.token)
    visit.predict()
    assert visit.text("#try-error") == ""
    assert host.authorizations == [None, "Bearer a token of the tests"]
    visit.page.reload()
    assert visit.state() == "accepted"
    assert visit.page.input_value("#token") == ""
    kept = visit.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert host.token not in kept
    assert host.model.info.model_digest in kept
    visit.page.click("#forget")
    assert visit.state() == "refused"
    assert visit.page.evaluate("localStorage.length") == 0


def test_a_new_epoch_is_followed(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    host.enclave.new_epoch()
    host.enclave.end_former_epoch()
    visit.predict()
    decimals, _ = visit.predictions()
    assert len(decimals) == len(ROWS)
    assert len(host.wire) == 4  # refused, attested anew, answered


def test_many_requests_are_measured(visit: Visit, host: Host) -> None:
    host.metrics = '# HELP x y\nconfidential_ml_requests_total 7.0\nconfidential_ml_bad{a="b"} 1\nother 3\n'
    visit.open()
    assert visit.pin() == "accepted"
    visit.page.fill("#rows", as_text(ROWS))
    visit.page.click("#repeat")
    visit.page.wait_for_selector("body[aria-busy=false]")
    assert len(host.wire) == 50
    assert len({message[:92] for message in host.wire[::2]}) == 25  # encrypted anew each time
    assert visit.page.locator(".chart .wait").count() == 25
    assert re.search(r"requests total\s+7", visit.text("#metrics"))
    assert "Unverified" in visit.text("#metrics")


# ---- not accepted


def test_nobody_is_accepted_before_something_is_pinned(visit: Visit, host: Host) -> None:
    assert visit.open() == "refused"
    root = visit.pins()["root"]
    assert "root-untrusted" in visit.text("#verdict-sentence")
    assert root in visit.text("#verdict-advice")
    assert visit.page.input_value("#pin-root") == ""
    assert visit.pin(mrenclave="", modelDigest="") == "unpinned"
    assert visit.pin(modelDigest="") == "unpinned"
    assert visit.page.is_disabled("#predict")
    assert visit.pin(modelDigest="ANY") == "accepted"


DIFFERENT = [
    ({"root": ""}, "root-untrusted"),
    ({"root": "00" * 32}, "root-untrusted"),
    ({"mrenclave": "11" * 32}, "mrenclave"),
    ({"mrsigner": "11" * 32}, "mrsigner"),
    ({"minIsvSvn": "65535"}, "isv-svn"),
    ({"modelDigest": "11" * 32}, "model"),
    ({"modelOwner": "11" * 32}, "model-owner"),
]


def test_what_differs_from_a_pin_is_refused(visit: Visit, host: Host) -> None:
    visit.open()
    for changes, reason in DIFFERENT:
        nothing = dict.fromkeys(("mrsigner", "minIsvSvn", "modelOwner"), "")
        assert visit.pin(**nothing) == "accepted"
        assert visit.pin(**nothing | changes) == "refused"
        assert f"({reason})" in visit.text("#verdict-sentence")
        assert visit.page.is_disabled("#predict")
    assert host.wire == []


def test_a_debug_enclave_is_refused_unless_asked_for(visit: Visit) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    visit.page.set_checked("#pin-debug", False)
    assert visit.submit() == "refused"
    assert "debug-enclave" in visit.text("#verdict-sentence")


def test_pins_that_cannot_be_used_are_named(visit: Visit) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    for field, value, word in (
        ("mrenclave", "12", "MRENCLAVE"),
        ("root", "ANY", "Root key"),
        ("minModelVersion", "-1", "Least version"),
        ("isvProdId", "65536", "Product id"),
    ):
        visit.page.fill(f"#pin-{field}", value)
        visit.page.click("text=Pin and attest")
        assert word in visit.text("#pins-error"), field
        visit.page.fill(f"#pin-{field}", visit.pins().get(field, ""))


def flipped(position: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def claims_start(evidence: bytes) -> int:
    return 436 + int.from_bytes(evidence[432:436], "little")


LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "MRENCLAVE changed": (flipped(48 + 64), "quote-signature"),
    "epoch key swapped": (lambda e: flipped(claims_start(e) + 80)(e), "claims-mismatch"),
    "receipt key swapped": (lambda e: flipped(claims_start(e) + 112)(e), "claims-mismatch"),
    "evidence cut": (lambda e: e[:2000], "quote-length"),
    "evidence without claims": (lambda e: e[: claims_start(e)], "claims-format"),
}


def test_changed_evidence_is_refused(visit: Visit, host: Host) -> None:
    visit.open()
    for lie, reason in LIES.values():
        host.change_evidence = lie
        assert visit.pin() == "refused"
        assert f"({reason})" in visit.text("#verdict-sentence")
        assert visit.page.is_disabled("#predict")


def test_evidence_of_an_earlier_time_is_refused(visit: Visit, host: Host) -> None:
    host.change_nonce = lambda nonce: bytes(32)
    visit.open()
    assert visit.pin() == "refused"
    assert "(nonce)" in visit.text("#verdict-sentence")


def test_another_root_is_refused_with_all_that_it_signs(visit: Visit, host: Host, tmp_path: Path) -> None:
    from console_server import made_by_another

    signed_anew, collateral = made_by_another(host, tmp_path)
    visit.open()
    assert visit.pin() == "accepted"
    host.change_evidence, host.change_collateral = signed_anew, lambda _: collateral
    visit.page.click("#attest")
    assert visit.state() == "refused"
    assert "root-untrusted" in visit.text("#verdict-sentence")
    assert visit.pins()["root"] not in visit.text("#verdict-advice")


CHANGED_REPLIES: list[tuple[Callable[[bytes], bytes], str]] = [
    (flipped(200), "was changed or exchanged"),
    (flipped(12), "header"),
    (lambda reply: reply[:-1], "exchanged"),
    (lambda reply: b"\1\0\3\0", "try again later"),
    (lambda reply: b"\1\0\2\0", "refused the message"),
    (lambda reply: b"\1\0\2\0\0", "not one of the protocol"),
    (lambda reply: b"<html>", "not one of the protocol"),
    (lambda reply: b"", "not one of the protocol"),
]


def test_a_changed_answer_is_refused(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    for change, words in CHANGED_REPLIES:
        host.change_reply = change
        visit.predict()
        assert words in visit.text("#try-error")
        assert visit.page.locator("#result tbody tr").count() == 0


def test_an_enclave_exchanged_after_attestation_gets_nothing(visit: Visit, host: Host) -> None:
    """A host that says "unreadable" to be asked anew, and then shows another enclave."""
    visit.open()
    assert visit.pin() == "accepted"
    host.change_reply = lambda _: b"\1\0\1\0"
    host.change_evidence = flipped(48 + 64)
    visit.predict()
    assert visit.state() == "refused"
    assert "Nothing was sent" in visit.text("#try-error")
    assert len(host.wire) == 2


def test_what_the_server_says_never_becomes_markup(visit: Visit, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = host._entry()
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    monkeypatch.setattr(host, "_entry", lambda: entry | {"objective": hostile, "booster": hostile})
    visit.open()
    assert visit.pin() == "accepted"
    assert hostile in visit.text("#models")
    assert visit.page.title() == "confidential_ml console"
    assert visit.page.locator("#models img").count() == 0


def test_rows_that_are_none_are_not_sent(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.pin() == "accepted"
    columns = ROWS.shape[1]
    for text in ("", "1, 2", ", ".join(["a"] * columns), ", ".join(["0x10"] * columns), as_text(ROWS) + ", 1"):
        visit.page.fill("#rows", text)
        visit.page.click("#predict")
        assert visit.text("#try-error") != ""
    assert host.wire == []


# ---- the page itself


def test_the_policy_lets_the_page_reach_its_server_alone(visit: Visit, host: Host) -> None:
    visit.open()
    assert visit.page.evaluate(ELSEWHERE) == "connect-src"
    # Later, as what the browser's driver runs at once is above the policy.
    later = "new Promise((done) => setTimeout(() => { try { %s; done('ran'); } catch (error) { done(error.name); } }))"
    assert visit.page.evaluate(later % "eval('1')") == "EvalError"
    assert visit.page.evaluate(later % "document.body.innerHTML = '<b>'") == "TypeError"
    visit.is_provoking = True


def test_a_kept_page_works_from_a_file_if_the_server_allows_it(visit: Visit, host: Host, tmp_path: Path) -> None:
    visit.page.goto(host.base)
    visit.state()
    with visit.page.expect_download() as download:
        visit.page.click("text=Save this page")
    path = tmp_path / "console.html"
    download.value.save_as(path)
    from confidential_ml.server.console import page

    assert path.read_bytes() == page().html
    assert page().sha256 in visit.text("#keep")
    visit.page.goto(path.as_uri())
    visit.page.fill("#server", host.base)
    visit.page.click("text=Connect")
    assert visit.state() == "unreachable"
    host.allowed_origins = ["null"]
    assert visit.pin() == "accepted"
    host.token = "t"
    visit.page.fill("#token", "t")
    visit.predict()
    decimals, _ = visit.predictions()
    assert np.array(decimals, dtype=np.float64).astype(np.float32).tobytes() == (
        host.model.predict(ROWS, strict_shape=True).tobytes()
    )
    # Now it reaches that one address.
    assert visit.page.evaluate(ELSEWHERE) == "connect-src"
    visit.is_provoking = True


def test_nothing_is_wider_than_the_screen(visit: Visit) -> None:
    visit.open()
    for act in (lambda: visit.pin(), lambda: visit.predict(), lambda: visit.pin(mrenclave="11" * 32)):
        act()
        for width in (320, 390, 768, 1440):
            visit.page.set_viewport_size({"width": width, "height": 800})
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_is_used_with_the_keyboard_alone(visit: Visit, host: Host) -> None:
    visit.open()
    for name, value in visit.pins().items():
        visit.page.focus(f"#pin-{name}")
        visit.page.keyboard.insert_text(value)
    visit.page.focus("#pin-debug")
    visit.page.keyboard.press("Space")
    visit.page.focus("#pin-mrenclave")
    visit.page.keyboard.press("Enter")
    assert visit.state() == "accepted"
    visit.page.focus("#rows")
    visit.page.keyboard.insert_text(as_text(ROWS))
    for _ in range(5):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.id") == "predict":
            break
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#result tbody tr")
    ring = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"


def test_the_page_does_not_run_where_there_is_no_cryptography(browser: Browser, host: Host) -> None:
    """A browser gives WebCrypto to this machine and to https alone."""
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(crypto, 'subtle', { value: undefined })")
    page = context.new_page()
    page.goto(host.base)
    page.wait_for_selector("text=This browser cannot check")
    assert page.is_disabled("#predict")
    context.close()
