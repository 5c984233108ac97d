"""The console page as it is put together: one file, nothing from elsewhere, a policy that fits it."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from confidential_ml.server.console import page
from confidential_ml.server.console.linker import linked

CONSOLE = Path(__file__).parent.parent / "src/confidential_ml/server/console"


def directives(policy: str) -> dict[str, str]:
    return dict(one.split(" ", 1) for one in policy.split("; "))


def kept_policy() -> str:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page().html.decode())
    assert found
    return found[1].replace("&#x27;", "'")


def test_policies_allow_what_is_in_the_page_and_nothing_else() -> None:
    text = page().html.decode()
    (style,), (script,) = (re.findall(f"<{name}[^>]*>(.*?)</{name}>", text, re.DOTALL) for name in ("style", "script"))
    for policy in (page().content_security_policy, kept_policy()):
        rules = directives(policy)
        for name, content in (("style-src", style), ("script-src", script)):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert rules[name] == f"'sha256-{digest}'"
        for name in ("default-src", "base-uri", "form-action", "trusted-types"):
            assert rules[name] == "'none'"
        assert rules["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in policy
        assert "*" not in policy.replace("http://localhost:*", "").replace("http://127.0.0.1:*", "")
    served = directives(page().content_security_policy)
    assert (served["connect-src"], served["frame-ancestors"]) == ("'self'", "'none'")


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = page().html.decode()
    assert re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?!data:|#)', text) == []
    assert re.findall(r"\burl\(|@import", (CONSOLE / "style.css").read_text(encoding="utf-8")) == []
    assert len(re.findall(r"<script", text)) == 1
    assert "{{" not in re.sub(r"<script.*</script>", "", text, flags=re.DOTALL)


def test_the_page_is_written_by_its_module_byte_for_byte() -> None:
    command = [sys.executable, "-m", "confidential_ml.server.console"]
    written = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert hashlib.sha256(written).hexdigest() == page().sha256


def test_every_id_that_the_modules_ask_for_is_in_the_page() -> None:
    ids = re.findall(r'\bid="([\w-]+)"', (CONSOLE / "page.html").read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))
    for path in CONSOLE.glob("*.js"):
        asked = set(re.findall(r'byId\("([\w-]+)"\)', path.read_text(encoding="utf-8")))
        assert asked <= set(ids), path.name


def test_modules_are_linked_once_and_in_order() -> None:
    sources = {
        "a.js": 'import { b } from "./b.js";\nimport {\n  c,\n} from "./c.js";\nlog(b + c);\n',
        "b.js": 'import { c } from "./c.js";\nexport const b = c + 1;\n',
        "c.js": "export const c = 1;\nexport async function unused() {}\n",
    }
    script = linked("a.js", sources.__getitem__)
    assert [name[8:] for name in script.splitlines() if name.startswith("// ----")] == ["c.js", "b.js", "a.js"]
    assert "import" not in script
    assert "export" not in script


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a.js": 'import { b } from "./b.js";\n', "b.js": 'import { a } from "./a.js";\n'}, "each other"),
        ({"a.js": 'import { b } from "./b.js";\n', "b.js": "const b = 1;\n"}, "does not export"),
        ({"a.js": 'import * as b from "./b.js";\n'}, "not linked"),
        ({"a.js": 'import { b } from "https://elsewhere/b.js";\n'}, "not linked"),
        ({"a.js": "export default 1;\n"}, "not linked"),
        ({"a.js": "export let a = 1;\n"}, "not linked"),
    ],
)
def test_what_cannot_be_linked_is_refused(sources: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linked("a.js", sources.__getitem__)
