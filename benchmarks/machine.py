"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchmarks.contenders import CONTENDERS, CannotRunError, versions


def describe() -> dict[str, str]:
    """Processor, memory, system and Python, by name."""
    cpuinfo = _fields("/proc/cpuinfo")
    flags = cpuinfo.get("flags", "").split()
    vectors = [name for name in ("avx2", "avx512f") if name in flags]
    memory = int(_fields("/proc/meminfo").get("MemTotal", "0 kB").split()[0]) / 2**20
    return {
        "processor": f"{cpuinfo.get('model name', platform.machine())}, family {cpuinfo.get('cpu family', '?')}, "
        f"model {cpuinfo.get('model', '?')}; {', '.join(vectors) or 'no AVX2'}"
        f"{'; a virtual machine' if 'hypervisor' in flags else ''}",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {_distribution()}",
        "Python": platform.python_version(),
    }


class OtherPrograms:
    """How much processor time other programs took since this was made; they spoil the figures."""

    def __init__(self) -> None:
        self._busy, self._all, self._own = _ticks()

    def share(self) -> float:
        """From 0 to 1, of all processors' time."""
        busy, everything, own = _ticks()
        others = (busy - self._busy) - (own - self._own)
        return max(0.0, others / max(1.0, everything - self._all))


def _ticks() -> tuple[float, float, float]:
    """Seconds that all processors were busy, that they could have been, and of this program and its children."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / per_second, sum(fields) / per_second, sum(os.times()[:4])


def library_versions() -> tuple[dict[str, str], dict[str, str]]:
    """Versions by package, and the reason for each library that is not installed."""
    found: dict[str, str] = {}
    absent: dict[str, str] = {}
    for contender in CONTENDERS.values():
        try:
            found.update(versions(contender))
        except CannotRunError as error:
            absent[contender.name] = str(error)
    return found, absent


def _fields(path: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"
