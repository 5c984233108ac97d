#!/usr/bin/env python3
"""Print the prototypes that the real oeedger8r gives the functions of an EDL file, one a line.

    make_oeedger8r_prototypes.py OEEDGER8R EDL [INCLUDE_DIR] > oeedger8r_prototypes.txt

INCLUDE_DIR holds openenclave/edl/sgx/platform.edl: the `include` of an installed SDK, which is where it is looked for
if not given (two directories above the tool), or of its source tree. It becomes oeedger8r's --search-path.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

SIDES = {"t": "trusted", "u": "untrusted"}


def prototypes(header: str, functions: list[str]) -> list[str]:
    """The declarations of `functions` in a generated header, with white space normalised, in the header's order."""
    found: list[str] = []
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    text = re.sub(r"^\s*#.*$", " ", text, flags=re.MULTILINE)
    for statement in text.split(";"):
        match = re.search(r"\b([a-z_0-9]+ (\w+)\s*\([^()]*\))\s*$", statement)
        if match and match.group(2) in functions:
            found.append(re.sub(r"\(\s+", "(", " ".join(match.group(1).split())) + ";")
    return found


def declared_functions(edl: Path) -> list[str]:
    """Names of the functions that the EDL file itself declares, without those it imports."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", edl.read_text(encoding="ascii"), flags=re.DOTALL)
    return re.findall(r"\bpublic\s+\w+\s+(\w+)", text)


def golden_lines(directory: Path, edl: Path) -> list[str]:
    """What the golden file holds, from the headers that were generated for `edl` in `directory`."""
    functions = [*declared_functions(edl), f"oe_create_{edl.stem}_enclave"]
    lines: list[str] = []
    for side in SIDES:
        header = (directory / f"{edl.stem}_{side}.h").read_text(encoding="ascii")
        lines += [f"{edl.stem}_{side}.h: {prototype}" for prototype in prototypes(header, functions)]
    return lines


def run_oeedger8r(tool: str, edl: Path, include: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        directories = ["--search-path", str(include), "--trusted-dir", directory, "--untrusted-dir", directory]
        subprocess.run([tool, *directories, str(edl)], check=True, stdout=subprocess.DEVNULL)
        return golden_lines(Path(directory), edl)


def default_include(tool: str) -> Path:
    return Path(tool).resolve().parent.parent / "include"


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    include = Path(arguments[2]) if len(arguments) == 3 else default_include(arguments[0])
    print("\n".join(run_oeedger8r(arguments[0], Path(arguments[1]), include)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
