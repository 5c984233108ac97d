"""Assembles the console page from the files beside this one, and says which content it may have."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.metadata
import json
from dataclasses import dataclass, field
from importlib.resources import files

from confidential_ml.attestation import INTEL_ROOT
from confidential_ml.server.console.linker import linked
from confidential_ml.statuses import MEANINGS

__all__ = ["ConsolePage", "page", "script"]

_COMPILED_IN = "compiled_in.js"
# Of the file that a visitor keeps, which has no headers: any server that can be reached without being read on the way.
_KEPT_CONNECT = "'self' https: http://localhost:* http://127.0.0.1:*"


@dataclass(frozen=True)
class ConsolePage:
    """The console as it is served; the same bytes for every server of a release.

    Attributes
    ----------
    html
        The page, UTF-8. Nothing in it comes from a server, so that its SHA-256 can be compared anywhere.
    content_security_policy
        For the header of that name.
    """

    html: bytes = field(repr=False)
    content_security_policy: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the page, hexadecimal."""
        return hashlib.sha256(self.html).hexdigest()


@functools.cache
def page() -> ConsolePage:
    """Assemble the page.

    Returns
    -------
    ConsolePage

    Raises
    ------
    ValueError
        If the sources do not fit together: a defect of the package.
    """
    style, code = _source("style.css"), script("console.js")
    for text, name in ((style, "style"), (code, "script")):
        # What ends the element, and the comment that changes how its end is found.
        if f"</{name}" in text.lower() or "<!--" in text:
            raise ValueError(f"the console's {name} holds what would end it inside the page")
    content = {"script-src": _hash(code), "style-src": _hash(style), "img-src": "data:"}
    document = (
        _source("page.html")
        .replace("{{policy}}", html.escape(_policy({**content, "connect-src": _KEPT_CONNECT})))
        .replace("{{style}}", style)
        .replace("{{script}}", code)
    )
    served = {**content, "connect-src": "'self'", "frame-ancestors": "'none'"}
    return ConsolePage(document.encode(), _policy(served))


def script(entry: str, extra: dict[str, str] | None = None) -> str:
    """The console's modules linked into one script.

    Parameters
    ----------
    entry
        The module to run.
    extra
        Sources of modules that are not part of the page, by name; for tests.
    """
    sources = {_COMPILED_IN: _compiled_in(), **(extra or {})}
    return linked(entry, lambda name: sources.get(name) or _source(name))


def _compiled_in() -> str:
    """What Python says already, so that nothing is said twice."""
    constants = {
        "INTEL_ROOT_KEY": INTEL_ROOT.public_key.hex(),
        "RELEASE": importlib.metadata.version("confidential_ml"),
        "STATUS_SENTENCES": {str(status): meaning.sentence for status, meaning in MEANINGS.items()},
    }
    return "".join(f"export const {name} = {json.dumps(value)};\n" for name, value in constants.items())


def _source(name: str) -> str:
    return files(__package__).joinpath(*name.split("/")).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(directives: dict[str, str]) -> str:
    everything = {
        "default-src": "'none'",
        **directives,
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in everything.items())
