"""What commands print: tables or JSON on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["console", "fact_table", "note", "print_facts", "print_json", "show", "size_text"]


def console(*, stderr: bool = False) -> Console:
    """A console that wraps nothing in markup and, if it is no terminal, cuts no line."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # A pipe is read by programs, and a digest broken over two lines is found by none of them.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 1000
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def show(*parts: RenderableType) -> None:
    """Print tables and texts; into a pipe without the spaces that fill up a terminal's lines."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def print_json(document: Any) -> None:
    """A document for programs: two spaces of indentation, keys in their order."""
    print(json.dumps(document, indent=2, allow_nan=False))


def note(sentence: str) -> None:
    """Say something to people, on standard error."""
    print(f"confidential-ml: {sentence}", file=sys.stderr)


def fact_table(facts: Mapping[str, object] | Iterable[tuple[str, object]]) -> Table:
    """Names and values in two columns; long values are folded, never cut.

    Names of at most 15 characters leave room for a digest in a line of 80.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in dict(facts).items():
        table.add_row(name, value if isinstance(value, Text) else _shown(value))
    return table


def print_facts(title: str | Text, facts: Mapping[str, object]) -> None:
    """A title and a `fact_table`."""
    from rich.text import Text

    show(title if isinstance(title, Text) else Text(title, style="bold"), fact_table(facts))


def _shown(value: object) -> str:
    if value is None:
        return "nobody"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def size_text(size: int) -> str:
    """A count of bytes for people."""
    from confidential_ml import card

    return f"{size:,} bytes" if size < 1024 else f"{card.byte_size(size)} ({size:,} bytes)"
