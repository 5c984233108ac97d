"""How enclaves, models and verdicts look in a notebook: one card, with the warning where it cannot be missed."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confidential_ml.identity import EnclaveIdentity

# Colours are those of the notebook, light or dark; only the banner brings its own.
_STYLE = (
    "font:13px/1.45 system-ui,sans-serif;color:inherit;background:none;border:1px solid rgba(127,127,127,.45);"
    "border-radius:8px;max-width:54em;overflow:hidden;margin:.4em 0"
)
_BANNER = "padding:.45em .9em;font-weight:600;color:#fff;background:"
_RED, _AMBER, _GREEN, _GREY = "#b42318", "#8a5300", "#1a7f37", "#57606a"
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


def platform_label(platform: str, *, debug: bool) -> str:
    """The platform in one or two words, loud where it protects nothing."""
    if platform != "openenclave":
        return _SIMULATIONS[platform]
    return "DEBUG enclave" if debug else "SGX enclave"


def banner(platform: str, *, debug: bool) -> tuple[str, str]:
    """Colour and text of what an enclave on this platform is worth."""
    label = platform_label(platform, debug=debug)
    if platform != "openenclave":
        return _RED, f"{label}: protects nothing"
    return (_AMBER, f"{label}: its memory can be read") if debug else (_GREEN, label)


def worse(colour: str) -> str:
    """The colour of a banner for an enclave about which something else is to be said too."""
    return _AMBER if colour == _GREEN else colour


def unverified_banner(text: str) -> tuple[str, str]:
    """Colour and text where nothing has been verified."""
    return _GREY, text


def of_enclave(title: str, identity: EnclaveIdentity, rows: list[tuple[str, str]], *, note: str = "") -> str:
    """As :func:`render`, with the enclave's banner, and its identity after the rows."""
    everything = [
        *rows,
        ("MRENCLAVE", identity.mrenclave),
        ("MRSIGNER", identity.mrsigner),
        ("product id, SVN", f"{identity.isv_prod_id}, {identity.isv_svn}"),
    ]
    return render(title, banner(identity.platform, debug=identity.debug), everything, note=note)


def render(title: str, banner: tuple[str, str], rows: list[tuple[str, str]], *, note: str = "") -> str:
    """The card as HTML without scripts or external resources.

    Parameters
    ----------
    banner
        Colour and text of the line above everything.
    rows
        Names and values; escaped here, as is all text.
    note
        What is said behind the title.
    """
    colour, text = banner
    cells = "".join(
        f'<tr style="background:none"><th style="{_NAME_STYLE};font-weight:400">{html.escape(name)}</th>'
        f'<td style="{_VALUE_STYLE}"><code style="{_CODE_STYLE}">{html.escape(value)}</code></td></tr>'
        for name, value in rows
    )
    noted = f' <span style="opacity:.72;font-weight:400">({html.escape(note)})</span>' if note else ""
    return (
        f'<div style="{_STYLE}"><div style="{_BANNER}{colour}">{html.escape(text)}</div>'
        f'<div style="padding:.6em .9em .2em;font-weight:600">{html.escape(title)}{noted}</div>'
        f'<table style="{_TABLE_STYLE}">{cells}</table></div>'
    )
