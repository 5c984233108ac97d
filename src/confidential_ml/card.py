"""How enclaves and models look in a notebook: one card, with the simulation warning where it cannot be missed."""

from __future__ import annotations

import html

from confidential_ml.identity import EnclaveIdentity

# Colours are those of the notebook, light or dark; only the banner brings its own.
_STYLE = (
    "font:13px/1.45 system-ui,sans-serif;color:inherit;background:none;border:1px solid rgba(127,127,127,.45);"
    "border-radius:8px;max-width:54em;overflow:hidden;margin:.4em 0"
)
_BANNER = "padding:.45em .9em;font-weight:600;color:#fff;background:"
_RED, _AMBER, _GREEN = "#b42318", "#8a5300", "#1a7f37"
_SIMULATIONS = {"simulation": "SIMULATION", "openenclave-simulation": "SIMULATION (Open Enclave runtime)"}
_TABLE_STYLE = "border-collapse:collapse;margin:0 0 .6em;border:0;color:inherit;font:inherit"
_CODE_STYLE = "background:none;color:inherit;font-size:12px"
_NAME_STYLE = "padding:.15em .9em;color:inherit;opacity:.72;white-space:nowrap;text-align:left;vertical-align:top"
_VALUE_STYLE = "padding:.15em .9em .15em 0;text-align:left;word-break:break-all"


def short(digest: str) -> str:
    """The first 12 hexadecimal digits: enough to compare by eye."""
    return digest[:12] + "…"


def byte_size(size: int) -> str:
    """A count of bytes in a unit that suits it, binary prefixes."""
    if size < 1024:
        return f"{size} bytes"
    exponent = min((size.bit_length() - 1) // 10, 3)
    return f"{size / 1024**exponent:.1f} {('KiB', 'MiB', 'GiB')[exponent - 1]}"


def platform_label(identity: EnclaveIdentity) -> str:
    """The platform in one or two words, loud where it protects nothing."""
    if identity.platform != "openenclave":
        return _SIMULATIONS[identity.platform]
    return "DEBUG enclave" if identity.debug else "SGX enclave"


def _banner(identity: EnclaveIdentity) -> tuple[str, str]:
    if identity.platform != "openenclave":
        return _RED, f"{_SIMULATIONS[identity.platform]}: protects nothing"
    if identity.debug:
        return _AMBER, "DEBUG enclave: its memory can be read"
    return _GREEN, "SGX enclave"


def render(title: str, identity: EnclaveIdentity, rows: list[tuple[str, str]], *, is_open: bool) -> str:
    """The card as HTML without scripts or external resources.

    Parameters
    ----------
    rows
        Names and values to show between title and identity; escaped here.
    """
    colour, text = _banner(identity)
    everything = [
        *rows,
        ("MRENCLAVE", identity.mrenclave),
        ("MRSIGNER", identity.mrsigner),
        ("product id, SVN", f"{identity.isv_prod_id}, {identity.isv_svn}"),
    ]
    cells = "".join(
        f'<tr style="background:none"><th style="{_NAME_STYLE};font-weight:400">{html.escape(name)}</th>'
        f'<td style="{_VALUE_STYLE}"><code style="{_CODE_STYLE}">{html.escape(value)}</code></td></tr>'
        for name, value in everything
    )
    closed = "" if is_open else ' <span style="opacity:.72;font-weight:400">(closed)</span>'
    return (
        f'<div style="{_STYLE}"><div style="{_BANNER}{colour}">{html.escape(text)}</div>'
        f'<div style="padding:.6em .9em .2em;font-weight:600">{html.escape(title)}{closed}</div>'
        f'<table style="{_TABLE_STYLE}">{cells}</table></div>'
    )
