"""What this machine has of that which an SGX enclave and its evidence need, read from what Linux exposes.

Sources: Linux, Documentation/arch/x86/sgx.rst and Documentation/ABI/stable/sysfs-devices-node (``sgx_total_bytes``).
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Finding", "State", "examine"]

_AVX = {"avx2": "AVX2", "fma": "FMA", "aes": "AES", "pclmulqdq": "PCLMULQDQ"}
_SGX = {"sgx": "SGX", "sgx_lc": "flexible launch control"}
_FIRST_KERNEL = (5, 11)
_ENOUGH_EPC = 640 << 20  # for one server (docs/deployment.md 3)
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "usr/local/lib")
_QCNL = "etc/sgx_default_qcnl.conf"
_AESM = "var/run/aesmd/aesm.socket"
_SDK = ("opt/openenclave/bin/oesign", "usr/local/bin/oesign")


class State(enum.StrEnum):
    """What a finding means for production."""

    GOOD = "good"
    MISSING = "missing"
    UNSURE = "unsure"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """Something that was looked at, what was found, and how to get what is missing."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(root: Path = Path("/")) -> list[Finding]:
    """Everything that can be told without running an enclave; `root` is that of the file system."""
    family = _family(root)
    return [
        *_processor(root),
        _kernel(root),
        _device(root, "sgx_enclave", "sgx", "the group sgx must be allowed to open it"),
        _device(root, "sgx_provision", "sgx_prv", "only for quotes made in this process; with AESM it is not needed"),
        _epc(root),
        _aesm(root, family),
        _quote_provider(root, family),
        _quote_provider_configuration(root),
        _sdk(root),
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _family(root: Path) -> str:
    """The kind of packages: apt, dnf, zypper, or none that is known."""
    told = dict(re.findall(r'^(ID|ID_LIKE)="?([^"\n]*)"?$', _read(root / "etc/os-release"), re.MULTILINE))
    words = set(f"{told.get('ID', '')} {told.get('ID_LIKE', '')}".split())
    for family, names in (
        ("apt", {"debian", "ubuntu"}),
        ("dnf", {"rhel", "fedora", "centos", "azurelinux", "anolis"}),
        ("zypper", {"suse", "opensuse", "sles"}),
    ):
        if words & names:
            return family
    return ""


def _install(family: str, packages: str) -> str:
    """How packages of Intel's repository are installed here."""
    how = {"apt": "sudo apt-get install", "dnf": "sudo dnf install", "zypper": "sudo zypper install"}
    command = f"{how[family]} {packages}" if family in how else f"install {packages}"
    return f"{command} (from Intel's repository, docs/deployment.md 3)"


def _processor(root: Path) -> Iterator[Finding]:
    text = _read(root / "proc/cpuinfo")
    line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if line is None:
        yield Finding("CPU", State.UNSURE, "its features are not told here", "needs Linux on x86-64")
        return
    flags = set(line[1].split())
    lacking = [name for flag, name in _AVX.items() if flag not in flags]
    yield Finding(
        "CPU features",
        State.MISSING if lacking else State.GOOD,
        " and ".join(f"no {name}" for name in lacking) if lacking else ", ".join(_AVX.values()),
        "an x86-64 CPU from 2015 on, and a hypervisor that shows its features" if lacking else "",
    )
    lacking = [name for flag, name in _SGX.items() if flag not in flags]
    yield Finding(
        "SGX",
        State.MISSING if lacking else State.GOOD,
        " and ".join(f"no {name}" for name in lacking) if lacking else "SGX with flexible launch control",
        "a CPU with SGX, switched on in the BIOS or by the cloud (Azure DCsv3, DCdsv3)" if lacking else "",
    )


def _kernel(root: Path) -> Finding:
    release = _read(root / "proc/sys/kernel/osrelease").strip()
    number = re.match(r"(\d+)\.(\d+)", release)
    if number is None:
        return Finding("kernel", State.UNSURE, "its version is not told here", "Linux 5.11 or later has the driver")
    is_new = (int(number[1]), int(number[2])) >= _FIRST_KERNEL
    remedy = "" if is_new else "Linux 5.11 or later, which has the SGX driver"
    return Finding("kernel", State.GOOD if is_new else State.MISSING, f"Linux {release}", remedy)


def _device(root: Path, name: str, group: str, meaning: str) -> Finding:
    path = root / "dev" / name
    is_optional = name == "sgx_provision"
    try:
        status = path.stat()
    except OSError:
        state = State.NOTE if is_optional else State.MISSING
        return Finding(f"/dev/{name}", state, "not there", "SGX in the BIOS and the kernel's driver make it")
    found = f"mode {stat.filemode(status.st_mode)[1:]}, group {_group(status.st_gid)}"
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(f"/dev/{name}", State.GOOD, found)
    state = State.NOTE if is_optional else State.MISSING
    return Finding(
        f"/dev/{name}", state, f"{found}; not open to this user", f"sudo usermod -aG {group} $USER; {meaning}"
    )


def _group(number: int) -> str:
    if sys.platform != "win32":
        import grp

        with contextlib.suppress(KeyError):
            return grp.getgrgid(number).gr_name
    return str(number)


def _epc(root: Path) -> Finding:
    sizes = [_read(path) for path in sorted((root / "sys/devices/system/node").glob("node*/x86/sgx_total_bytes"))]
    total = sum(int(text) for text in sizes if text.strip().isdecimal())
    if not total:
        return Finding("EPC", State.UNSURE, "its size is not told here", "sudo dmesg | grep -i 'sgx: EPC'")
    state = State.GOOD if total >= _ENOUGH_EPC else State.MISSING
    remedy = "" if state is State.GOOD else "640 MiB for each server; the size (PRM) is set in the BIOS"
    return Finding("EPC", state, f"{total >> 20:,} MiB", remedy)


def _aesm(root: Path, family: str) -> Finding:
    packages = "sgx-aesm-service libsgx-aesm-ecdsa-plugin libsgx-aesm-pce-plugin libsgx-aesm-quote-ex-plugin"
    path = root / _AESM
    if not path.exists():
        return Finding("AESM", State.MISSING, f"no socket /{_AESM}", _install(family, packages))
    return Finding("AESM", State.GOOD, f"socket /{_AESM}")


def _quote_provider(root: Path, family: str) -> Finding:
    found = [
        path
        for directory in _LIBRARIES
        for path in sorted((root / directory).glob("libdcap_quoteprov.so*"))
        if path.is_file()
    ]
    if not found:
        remedy = "on Azure az-dcap-client, elsewhere: " + _install(family, "libsgx-dcap-default-qpl")
        return Finding("quote provider", State.MISSING, "no libdcap_quoteprov.so", remedy)
    shown = f"/{found[0].relative_to(root)}"
    if not any(path.name == "libdcap_quoteprov.so" for path in found):
        # The name that Open Enclave opens.
        link = f"sudo ln -s {found[0].name} {Path(shown).parent}/libdcap_quoteprov.so"
        return Finding("quote provider", State.MISSING, f"{shown}, but no libdcap_quoteprov.so", link)
    return Finding("quote provider", State.GOOD, shown)


def _quote_provider_configuration(root: Path) -> Finding:
    text = _read(root / _QCNL)
    name = "its configuration"
    if not text:
        return Finding(name, State.NOTE, f"no /{_QCNL}", "needed by libsgx-dcap-default-qpl; not on Azure")
    # JSON with comments in newer releases, KEY=VALUE in older ones.
    url = re.search(r'^\s*"?(?:pccs_url|PCCS_URL)"?\s*[:=]\s*"?([^"\s,]+)', text, re.MULTILINE)
    unsafe = re.search(r'^\s*"?use_secure_cert"?\s*[:=]\s*"?false', text, re.MULTILINE | re.IGNORECASE)
    if url is None:
        return Finding(name, State.MISSING, f"/{_QCNL} names no PCCS", "set pccs_url")
    if unsafe:
        return Finding(name, State.NOTE, f"PCCS {url[1]}, its certificate unchecked", "collateral is signed anyway")
    return Finding(name, State.GOOD, f"PCCS {url[1]}")


def _sdk(root: Path) -> Finding:
    for place in _SDK:
        if (root / place).is_file():
            return Finding("Open Enclave SDK", State.GOOD, f"/{Path(place).parent.parent}")
    if root == Path("/") and (found := shutil.which("oesign")):
        return Finding("Open Enclave SDK", State.GOOD, str(Path(found).parent.parent))
    return Finding("Open Enclave SDK", State.NOTE, "not found", "needed to build, not to run (docs/building.md)")
