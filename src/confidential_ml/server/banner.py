"""What the server says when it starts: who it is, what is in clear, what is unsafe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confidential_ml.server.settings import UNSAFE_MEANINGS

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving

__all__ = ["banner"]

_IN_CLEAR = {
    "cleartext_predict": "POST /model/predict, POST /invocations, POST /v2/models/.../infer",
    "cleartext_upload": "POST /model/upload",
}


def banner(serving: Serving, url: str) -> str:
    """The lines to print.

    Parameters
    ----------
    serving
        What is served.
    url
        Where.
    """
    settings, identity = serving.settings, serving.enclave.identity
    lines = [
        f"confidential_ml serves {len(serving.models())} model(s) at {url}",
        f"  platform   {identity.platform}{', debug' if identity.debug else ''}",
        f"  MRENCLAVE  {identity.mrenclave}",
        f"  store      {settings.model_store}",
    ]
    if not identity.protects:
        lines.append("  !! THIS ENCLAVE PROTECTS NOTHING: use it to develop and test")
    for name in settings.unsafe.in_force():
        roles = f" ({', '.join(settings.unsafe.anonymous)})" if name == "anonymous" else ""
        lines.append(f"  !! unsafe.{name}{roles}: {UNSAFE_MEANINGS[name]}")
    in_clear = [routes for name, routes in _IN_CLEAR.items() if getattr(settings.unsafe, name)]
    lines.append(f"  routes in clear: {'; '.join(in_clear) if in_clear else 'none'}")
    return "\n".join(lines)
