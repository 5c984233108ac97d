"""The attestation verifier against dcap-qvl, written in Rust by others: 10,000 mutations, two verdicts each.

Mutations are of quotes and of collateral, as an attacker makes them and as Intel could by mistake: bits, fields,
lengths, parts of another machine; certificates, CRLs and JSON signed anew after they were changed. Where the verdicts
differ ours must be the stricter, for a reason that has a name here. All comes from a seed: a number is one mutation.
"""

from __future__ import annotations

import datetime
import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dcap_qvl
import pytest
from attestation_attacks import BASE, NEWEST, ODD_CERTIFICATES, PROCESSOR_CA, before, trusted
from attestation_pki import (
    CRL_SIGN,
    DAY,
    DIGITAL_SIGNATURE,
    KEY_CERT_SIGN,
    NOW,
    VENDOR,
    YEAR,
    Applied,
    Built,
    Certificate,
    Crl,
    Scenario,
    changed,
    compact,
    iso,
)

from confidential_ml.attestation import AttestationError, Collateral, verify_quote

COUNT = 10_000
SEED = "confidential_ml attestation 1"

Random = random.Random
Bytes = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Mutation:
    """What was done, to which part, and what a relying party then gets."""

    kind: str
    part: str
    built: Built


# --- Machines


def _other_machine() -> Scenario:
    """Of another family, under a processor CA."""
    return changed(
        BASE,
        pck_ca=PROCESSOR_CA,
        pck__key="other pck",
        pck__serial=0x3303,
        pck__issuer=PROCESSOR_CA.subject,
        pck__signer=PROCESSOR_CA.key,
        pck__sgx__fmspc=bytes.fromhex("00606a000000"),
        pck__sgx__ppid=bytes(range(50, 66)),
        pck__sgx__platform_instance=None,
        pck__sgx__configuration=None,
        pck_crl=Crl(PROCESSOR_CA.subject, PROCESSOR_CA.key),
        qe_report_signer="other pck",
        quote_signer="attestation",
        report__mrenclave=b"\xe2" * 32,
        **before("tcb_info", lambda text: text.replace("00A067110000", "00606A000000")),
    )


def _other_root() -> Scenario:
    """The same machine in the PKI of somebody who uses the same names."""
    key = "attacker root"
    parts = ("root", "trusted_root", "pck_ca", "tcb_signer", "qe_identity_signer", "root_crl")
    return changed(BASE, root__key=key, trusted_root__key=key, **{f"{part}__signer": key for part in parts})


MACHINES = {"this": BASE, "other": _other_machine(), "attacker's": _other_root()}
BUILT = {name: machine.build() for name, machine in MACHINES.items()}
THIS = BUILT["this"]
PEM_START = THIS.quote.index(b"-----BEGIN")
FIELDS = {
    "header": (0, 48),
    "report": (48, 432),
    "size of the signature data": (432, 436),
    "quote signature": (436, 500),
    "attestation key": (500, 564),
    "QE report": (564, 948),
    "QE report signature": (948, 1012),
    "QE authentication data": (1012, PEM_START - 6),
    "certification data header": (PEM_START - 6, PEM_START),
}


def _field_at(position: int) -> str:
    return next((name for name, (start, end) in FIELDS.items() if start <= position < end), "PEM")


# --- Changes of bytes


def _bytes_changed(rng: Random, size: int) -> tuple[int, Bytes]:
    """A change of a few bytes that keeps the length, and where it begins."""
    start = rng.randrange(size)
    length = min(rng.choice((1, 1, 1, 2, 4, 8, 32)), size - start)
    how = rng.randrange(4)
    noise = rng.randbytes(length)
    bit = 1 << rng.randrange(8)

    def edit(data: bytes) -> bytes:
        old = data[start : start + length]
        if how == 0 or len(old) < length:
            return data[:start] + bytes([data[start] ^ bit]) + data[start + 1 :] if start < len(data) else data
        new = {1: bytes(length), 2: b"\xff" * length, 3: noise}[how]
        return data[:start] + new + data[start + length :]

    return start, edit


def flip_in_quote(rng: Random) -> Mutation:
    position, bit = rng.randrange(PEM_START), 1 << rng.randrange(8)
    quote = bytearray(THIS.quote)
    quote[position] ^= bit
    return Mutation("bit of the quote", _field_at(position), THIS._replace(quote=bytes(quote)))


def flip_in_pem(rng: Random) -> Mutation:
    position, bit = rng.randrange(PEM_START, len(THIS.quote)), 1 << rng.randrange(8)
    quote = bytearray(THIS.quote)
    quote[position] ^= bit
    return Mutation("bit of the chain in the quote", "PEM", THIS._replace(quote=bytes(quote)))


def change_quote(rng: Random) -> Mutation:
    position, edit = _bytes_changed(rng, PEM_START)
    return Mutation("bytes of the quote", _field_at(position), THIS._replace(quote=edit(THIS.quote)))


def resize_quote(rng: Random) -> Mutation:
    quote = THIS.quote
    if rng.random() < 0.5:
        cut = rng.choice((rng.randrange(len(quote)), len(quote) - rng.randrange(1, 40)))
        return Mutation("quote cut", "end", THIS._replace(quote=quote[:cut]))
    more = rng.randbytes(rng.randrange(1, 65)) if rng.random() < 0.5 else bytes(rng.randrange(1, 65))
    return Mutation("quote with more behind it", "end", THIS._replace(quote=quote + more))


def change_length(rng: Random) -> Mutation:
    """A length field, near the truth or far from it."""
    name, position, size = rng.choice((("signature data", 432, 4), ("QE auth", 1012, 2), ("chain", PEM_START - 4, 4)))
    old = int.from_bytes(THIS.quote[position : position + size], "little")
    limit = 1 << 8 * size
    new = rng.choice((old + rng.randrange(-70, 70), rng.randrange(limit), rng.choice((0, 1, limit - 1)))) % limit
    quote = THIS.quote[:position] + new.to_bytes(size, "little") + THIS.quote[position + size :]
    return Mutation("length in the quote", name, THIS._replace(quote=quote))


def swap_in_quote(rng: Random) -> Mutation:
    """Two places of the quote exchanged."""
    size = rng.choice((2, 16, 32, 64))
    one, two = sorted(rng.sample(range(0, PEM_START - size, 2), 2))
    two = max(two, one + size)
    quote = bytearray(THIS.quote)
    quote[one : one + size], quote[two : two + size] = quote[two : two + size], quote[one : one + size]
    return Mutation("places of the quote exchanged", _field_at(one), THIS._replace(quote=bytes(quote)))


def quote_of_two_machines(rng: Random) -> Mutation:
    """Some fields are those of another machine's quote."""
    other = BUILT[rng.choice(("other", "attacker's"))].quote
    names = rng.sample(list(FIELDS), rng.randrange(1, 6))
    quote = bytearray(THIS.quote)
    for name in names:
        start, end = FIELDS[name]
        quote[start:end] = other[start:end]
    return Mutation("quote of two machines", "fields", THIS._replace(quote=bytes(quote)))


# --- The quote, signed anew


def resign_report(rng: Random) -> Mutation:
    """What an enclave may be: attributes, measurements, versions."""
    fields: dict[str, object] = {}
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(("flags", "xfrm", "miscselect", "prod_id", "svn", "mrenclave", "data", "cpusvn", "reserved1"))
        fields[f"report__{name}"] = _report_value(rng, name)
    return Mutation("report signed anew", "report", changed(BASE, **fields).build())


def resign_qe_report(rng: Random) -> Mutation:
    """What a quoting enclave may be."""
    fields: dict[str, object] = {}
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(("flags", "xfrm", "miscselect", "prod_id", "svn", "svn", "mrsigner", "mrenclave", "data"))
        value = rng.randrange(12) if name == "svn" else _report_value(rng, name)
        fields[f"qe_report__{name}"] = value
    return Mutation("QE report signed anew", "QE report", changed(BASE, **fields).build())


def _report_value(rng: Random, name: str) -> object:
    sizes = {"mrenclave": 32, "mrsigner": 32, "data": 64, "cpusvn": 16, "reserved1": 28}
    if name in sizes:
        return rng.choice((bytes(sizes[name]), rng.randbytes(sizes[name])))
    if name == "flags":
        return 0x05 ^ rng.choice((1 << rng.randrange(10), 1 << rng.randrange(64), rng.getrandbits(8), 0x10))
    if name == "miscselect":
        return rng.choice((0, 1, 1 << rng.randrange(32)))
    if name == "xfrm":
        return rng.getrandbits(64)
    return rng.choice((0, 1, 2, rng.getrandbits(16)))


def other_signers(rng: Random) -> Mutation:
    keys = ("root", "pck ca", "pck", "tcb signer", "attestation", "attacker", "other pck")
    part = rng.choice(("quote_signer", "qe_report_signer", "pck__signer", "pck_ca__signer", "tcb_signer__signer"))
    part = rng.choice((part, "root_crl__signer", "pck_crl__signer", "tcb_info__signer", "qe_identity__signer"))
    return Mutation("signed by another", part, changed(BASE, **{part: rng.choice(keys)}).build())


def change_authentication(rng: Random) -> Mutation:
    """QE authentication data, certification type and attestation key that the quoting enclave vouches for."""
    changes = rng.choice(
        (
            {"qe_auth": rng.randbytes(32)},
            {"qe_auth": rng.randbytes(rng.choice((0, 1, 31, 33, 64, 1024)))},
            {"certification_type": rng.randrange(9)},
            {"attestation_key": rng.randbytes(64)},
            {"header__user_data": rng.randbytes(20), "header__qe_svn": rng.getrandbits(16)},
            {"header__pce_svn": rng.getrandbits(16)},
        )
    )
    return Mutation("quoting enclave vouches", next(iter(changes)), changed(BASE, **changes).build())


# --- Certificates


CERTIFICATES = ("pck", "pck_ca", "tcb_signer", "qe_identity_signer", "root")
NAMES = (
    *(f"{vendor} SGX {role}" for vendor in (VENDOR, "Intel") for role in ("Root CA", "PCK Certificate", "TCB Signing")),
    *(f"{VENDOR} SGX PCK {kind} CA" for kind in ("Platform", "Processor", "Other")),
    "",
)
USAGES = (None, (), (DIGITAL_SIGNATURE,), (KEY_CERT_SIGN,), (CRL_SIGN,), (KEY_CERT_SIGN, CRL_SIGN), (0, 1, 5, 6))


def resign_certificate(rng: Random) -> Mutation:
    """A field of a certificate, which its issuer signs so."""
    part = rng.choice(CERTIFICATES)
    certificate: Certificate = getattr(BASE, part)
    days = datetime.timedelta(seconds=rng.choice((1, 3600, 86400, 86400 * 400)) * rng.choice((-1, 0, 1)))
    choices: list[dict[str, object]] = [
        {"subject": rng.choice(NAMES)},
        {"issuer": rng.choice(NAMES)},
        {"serial": rng.choice((0, 1, -1, 127, 128, 1 << 159, 1 << 200, rng.getrandbits(rng.randrange(1, 170))))},
        {"ca": rng.choice((None, not certificate.ca))},
        {"path_length": rng.choice((None, 0, 1, 2, 200))},
        {"usage": rng.choice(USAGES)},
        {"not_before": NOW + days},
        {"not_after": NOW + days},
        {"algorithm": rng.choice(("SHA-1", "SHA-384"))},
        {"outer_algorithm": rng.choice(("SHA-1", "SHA-384"))},
        {"key": rng.choice(("attacker", f"{certificate.key}@P-384"))},
        {"version": rng.choice((1, 2, 4))},
        {"constraints_critical": False},
    ]
    change = rng.choice(choices)
    mutated = changed(BASE, **{f"{part}__{name}": value for name, value in change.items()})
    return Mutation(f"certificate, {next(iter(change))}", part, mutated.build())


def resign_certificate_bytes(rng: Random) -> Mutation:
    """Any bytes of a certificate, which its issuer signs so."""
    part = rng.choice(CERTIFICATES)
    body = len(getattr(BASE, part).der()) - 80
    _, edit = _bytes_changed(rng, body)
    return Mutation("bytes of a certificate", part, changed(BASE, **{f"{part}__edit": edit}).build())


def resign_extension_bytes(rng: Random) -> Mutation:
    """Any bytes of the SGX extension, which the PCK CA signs so."""
    assert BASE.pck.sgx is not None
    _, edit = _bytes_changed(rng, len(BASE.pck.sgx.der()))
    return Mutation("bytes of the SGX extension", "pck", changed(BASE, pck__sgx__edit_der=edit).build())


def resign_extension(rng: Random) -> Mutation:
    """Entries of the SGX extension: lost, twice, exchanged; other machines."""

    def edit(entries: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        one, two = Random(seed).sample(range(len(entries)), 2)
        made = list(entries)
        if how == 0:
            del made[one]
        elif how == 1:
            made.append(made[one])
        elif how == 2:
            made[one] = (made[one][0], made[two][1])
        else:
            made[one], made[two] = made[two], made[one]
        return made

    seed, how = rng.random(), rng.randrange(4)
    shuffled = rng.choice(("pck__sgx__edit", "pck__sgx__edit_tcb"))
    components = tuple(max(0, min(255, svn + rng.choice((0, 0, 0, 0, -1, 1)))) for svn in NEWEST)
    old = tuple(max(0, svn - (rng.randrange(12) if at < 2 else 0)) for at, svn in enumerate(NEWEST))
    choices: list[dict[str, object]] = [
        {shuffled: edit},
        {shuffled: edit},
        {"pck__sgx__components": components},
        {"pck__sgx__components": old},
        {"pck__sgx__pcesvn": rng.choice((0, 4, 5, 10, 11, 12, 14, 127, 128, 255, 0x7FFF))},
        {"pck__sgx__pceid": rng.choice((b"\0\1", b"\1\0", bytes(3)))},
        {"pck__sgx__fmspc": rng.randbytes(6)},
        {"pck__sgx__ppid": rng.randbytes(rng.choice((16, 16, 15)))},
        {"pck__sgx__sgx_type": rng.randrange(4)},
        {"pck__sgx__platform_instance": None},
    ]
    change = rng.choice(choices)
    return Mutation(f"SGX extension, {next(iter(change)).split('__')[-1]}", "pck", changed(BASE, **change).build())


def arrange_chain(rng: Random) -> Mutation:
    """Certificates of three machines in any order."""
    part = rng.choice(("pck_chain", "pck_chain", "tcb_info_chain", "qe_identity_chain", "pck_crl_chain"))
    chain = list(getattr(BASE, part))
    other = MACHINES[rng.choice(("this", "other", "attacker's"))]
    stranger: Certificate = getattr(other, rng.choice(("pck", "pck_ca", "tcb_signer", "root")))
    how = rng.randrange(5)
    if how == 0:
        rng.shuffle(chain)
    elif how == 1:
        del chain[rng.randrange(len(chain))]
    elif how == 2:
        chain.insert(rng.randrange(len(chain) + 1), stranger)
    elif how == 3:
        chain[rng.randrange(len(chain))] = stranger
    else:
        chain.append(rng.choice(chain))
    return Mutation("chain arranged anew", part, changed(BASE, **{part: tuple(chain)}).build())


def change_pem(rng: Random) -> Mutation:
    """The text of a chain, without changing what it encodes, or hardly."""
    part = rng.choice(("pck_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"))
    position = rng.random()
    junk = rng.choice((" ", "\n", "\r", "\t", "\0", "=", "A", "-", "hello\n", "-----BEGIN X-----\n", "\u00e9"))
    how = rng.randrange(6)

    def edit(text: str) -> str:
        at = int(position * len(text))
        line = text.index("\n", text.index("-----END")) + 1
        return {
            0: text.replace("\n", "\r\n"),
            1: text[:at] + junk + text[at:],
            2: text[:line] + junk + text[line:],
            3: text.rstrip("\n"),
            4: text.replace("CERTIFICATE", "X509 CERTIFICATE", 2),
            5: junk + text,
        }[how]

    if part == "pck_chain":
        data = edit(BASE.pem(BASE.pck_chain)).encode()
        return Mutation("text of a chain", part, changed(BASE, certification_data=data).build())
    return Mutation("text of a chain", part, _with_collateral(**{part: edit(THIS.collateral[part])}))


def _with_collateral(**entries: str) -> Built:
    return THIS._replace(collateral={**THIS.collateral, **entries})


# --- CRLs


def resign_crl(rng: Random) -> Mutation:
    part = rng.choice(("root_crl", "pck_crl"))
    serials = tuple(getattr(BASE, name).serial for name in CERTIFICATES)
    seconds = datetime.timedelta(seconds=rng.choice((1, 3600, 86400 * 400)) * rng.choice((-1, 0, 1)))
    choices: list[dict[str, object]] = [
        {"revoked": tuple(rng.sample((*serials, 1, 2, 0x7FFFFF), rng.randrange(1, 5)))},
        {"revoked": (rng.choice(serials),)},
        {"this_update": NOW + seconds},
        {"next_update": rng.choice((None, NOW + seconds))},
        {"issuer": rng.choice(NAMES)},
        {"signer": rng.choice(("root", "pck ca", "tcb signer", "attacker"))},
        {"algorithm": rng.choice(("SHA-1", "SHA-384"))},
        {"number": rng.choice((None, 0, 1 << 64, 1 << 160))},
    ]
    change = rng.choice(choices)
    mutated = changed(BASE, **{f"{part}__{name}": value for name, value in change.items()})
    return Mutation(f"CRL, {next(iter(change))}", part, mutated.build())


def change_crl_bytes(rng: Random) -> Mutation:
    """Any bytes of a CRL, signed so or not."""
    part = rng.choice(("root_crl", "pck_crl"))
    listed = changed(BASE, **{f"{part}__revoked": (1, 2, 3)})
    _, edit = _bytes_changed(rng, 250)
    name = rng.choice(("edit", "edit_body", "edit_body"))
    return Mutation(f"bytes of a CRL, {name}", part, changed(listed, **{f"{part}__{name}": edit}).build())


# --- TCB info and QE identity


STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 65535, 65536, 1 << 31, 1 << 32, 1 << 64, 0.5, 3.0),
    *("", "0000", "QE", "SGX", "TDX", "UpToDate", "OutOfDate", "Revoked", "SWHardeningNeeded", "Fine", "2026-01-01"),
    *("00", "FF" * 4, "00" * 16, "ff" * 32, "INTEL-SA-00001", iso(NOW), iso(NOW + DAY), iso(NOW - DAY)),
    *([], {}, [1], ["INTEL-SA-00001"], [None], {"svn": 1}),
)


def resign_json(rng: Random) -> Mutation:
    """One value somewhere in the document, which Intel signs so."""
    part = rng.choice(("tcb_info", "qe_identity"))
    seed = rng.random()

    def edit(text: str) -> str:
        inner = Random(seed)
        document = json.loads(text)
        where = inner.choice(list(_places(document)))
        _change_place(inner, *where)
        return compact(document)

    return Mutation("value of JSON", part, changed(BASE, **before(part, edit)).build())


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container with every key or index in it, the outermost more than once."""
    found: list[tuple[Any, Any]] = []
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        found += [(document, key), *_places(document[key])]
    return found * (4 if isinstance(document, dict) and "version" in document else 1)


def _change_place(rng: Random, container: Any, key: Any) -> None:
    how = rng.randrange(6)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, list):
        container.insert(key, container[key])
    elif how == 2 and isinstance(container[key], int):
        container[key] += rng.choice((-1, 1, 256))
    elif how == 3 and isinstance(container[key], str):
        container[key] = rng.choice((container[key].lower(), container[key] + " ", container[key][:-1]))
    else:
        container[key] = rng.choice(VALUES)


def resign_statuses(rng: Random) -> Mutation:
    """Other statuses and advisories of some levels, and a machine and a quoting enclave on any of them."""
    seed = rng.random()

    def edit(text: str, allowed: tuple[str, ...]) -> str:
        inner = Random(seed)
        document = json.loads(text)
        for level in document["tcbLevels"]:
            level["tcbStatus"] = inner.choice((*allowed, "Revoked") if inner.random() < 0.1 else allowed)
            level["advisoryIDs"] = [f"INTEL-SA-{inner.randrange(4):05}" for _ in range(inner.randrange(3))]
        return compact(document)

    old = rng.randrange(12)
    mutated = changed(
        BASE,
        pck__sgx__components=(old, old, *NEWEST[2:6], rng.choice((0, 12)), *NEWEST[7:]),
        qe_report__svn=rng.randrange(3, 9),
        tcb_info__text=Applied(lambda text: edit(text, STATUSES)),
        qe_identity__text=Applied(lambda text: edit(text, ("UpToDate", "OutOfDate"))),
    )
    return Mutation("statuses", "tcb_info", mutated.build())


def order_levels(rng: Random) -> Mutation:
    """Levels in another order, or not all."""
    part = rng.choice(("tcb_info", "qe_identity"))
    seed = rng.random()

    def edit(text: str) -> str:
        inner = Random(seed)
        document = json.loads(text)
        levels = document["tcbLevels"]
        document["tcbLevels"] = inner.sample(levels, inner.randrange(1, len(levels) + 1))
        return compact(document)

    old = rng.choice((11, 11, 9, 5, 3))
    components = {"pck__sgx__components": (old, old, *NEWEST[2:])}
    svn = {"qe_report__svn": rng.choice((8, 6, 4))}
    return Mutation("order of the levels", part, changed(BASE, **components, **svn, **before(part, edit)).build())


def resign_json_text(rng: Random) -> Mutation:
    """The text itself, which Intel signs so: keys twice, bytes, spaces."""
    part = rng.choice(("tcb_info", "qe_identity"))
    text: str = getattr(BASE, part).text
    how = rng.randrange(4)
    at = rng.randrange(len(text))
    if how == 0:
        pairs = [found for found in _pairs(text) if found]
        pair = rng.choice(pairs)
        text = text.replace(pair, rng.choice((f"{pair},{pair}", f'"later":1,{pair}', f'"x":1,"x":2,{pair}')), 1)
    elif how == 1:
        text = text[:at] + chr(ord(text[at]) ^ 1 << rng.randrange(7)) + text[at + 1 :]
    elif how == 2:
        text = text[:at] + rng.choice((" ", "\n", "\0", "0", "e1", ",", '"', "\u00e9", "\\u0000")) + text[at:]
    else:
        spaced = json.dumps(json.loads(text), indent=1)
        text = rng.choice((text[:at], text + "\n", text + "{}", "\ufeff" + text, spaced))
    return Mutation("text of JSON", part, changed(BASE, **{f"{part}__text": text}).build())


def _pairs(text: str) -> list[str]:
    """Pairs of a key and a plain value, as they stand in the text."""
    document = json.loads(text)
    pairs = [compact({key: value})[1:-1] for key, value in document.items() if not isinstance(value, list)]
    return pairs + [compact({key: value})[1:-1] for key, value in document["tcbLevels"][0]["tcb"].items()]


def change_json_unsigned(rng: Random) -> Mutation:
    part = rng.choice(("tcb_info", "qe_identity"))
    text = THIS.collateral[part]
    at = rng.randrange(len(text))
    new = rng.choice((text[:at] + text[at + 1 :], text[:at] + " " + text[at:], text[:at] + "0" + text[at + 1 :]))
    return Mutation("JSON changed after it was signed", part, _with_collateral(**{part: new}))


# --- Collateral as a whole, and dates


def mix_collateral(rng: Random) -> Mutation:
    """Some entries are those of another machine's collateral."""
    other = BUILT[rng.choice(("other", "attacker's"))].collateral
    names = rng.sample(list(other), rng.randrange(1, 9))
    built = _with_collateral(**{name: other[name] for name in names})
    if rng.random() < 0.3:
        built = built._replace(quote=BUILT["other"].quote)
    return Mutation("collateral of two machines", "entries", built)


def exchange_entries(rng: Random) -> Mutation:
    """Entries of the collateral exchanged, empty, cut or in other letters."""
    one, two = rng.sample(list(THIS.collateral), 2)
    text = THIS.collateral[one]
    how = rng.randrange(5)
    if how == 0:
        built = _with_collateral(**{one: THIS.collateral[two], two: text})
    elif how == 1:
        built = _with_collateral(**{one: rng.choice(("", text[:-1], text[: rng.randrange(len(text))], text + text))})
    elif how == 2:
        built = _with_collateral(**{one: rng.choice((text.upper(), text + "\n", " " + text, text + "00"))})
    elif how == 3:
        built = THIS._replace(collateral={key: value for key, value in THIS.collateral.items() if key != one})
    else:
        built = _with_collateral(**{rng.choice(("pck_certificate_chain", "later")): rng.choice(("", text))})
    return Mutation("entries of the collateral", one, built)


def change_signature(rng: Random) -> Mutation:
    name = rng.choice(("tcb_info_signature", "qe_identity_signature"))
    signature = bytearray.fromhex(THIS.collateral[name])
    signature[rng.randrange(64)] ^= 1 << rng.randrange(8)
    return Mutation("signature of the collateral", name, _with_collateral(**{name: signature.hex()}))


def move_now(rng: Random) -> Mutation:
    unit = rng.choice((datetime.timedelta(seconds=1), DAY, YEAR))
    machine = BUILT[rng.choice(("this", "other"))]
    return Mutation("another time", "now", machine._replace(now=NOW + rng.randrange(-45, 45) * unit))


def shift_everything(rng: Random) -> Mutation:
    """One document or CRL issued and valid around another time."""
    start, end = NOW + rng.randrange(-3, 2) * DAY, NOW + rng.randrange(-2, 3) * DAY
    part = rng.choice(("tcb_info", "qe_identity", "root_crl", "pck_crl"))
    if part.endswith("crl"):
        built = changed(BASE, **{f"{part}__this_update": start, f"{part}__next_update": end}).build()
    else:
        dates = {"issueDate": iso(start), "nextUpdate": iso(end)}
        built = changed(BASE, **before(part, lambda text: compact({**json.loads(text), **dates}))).build()
    return Mutation("dates", part, built)


def whole_machine(rng: Random) -> Mutation:
    """Nothing is wrong: both must accept."""
    name = rng.choice(("this", "other"))
    return Mutation("nothing", name, BUILT[name])


# How often, and what.
MUTATIONS: tuple[tuple[int, Callable[[Random], Mutation]], ...] = (
    (14, flip_in_quote),
    (8, flip_in_pem),
    (10, change_quote),
    (4, resize_quote),
    (3, change_length),
    (3, swap_in_quote),
    (1, quote_of_two_machines),
    (5, resign_report),
    (4, resign_qe_report),
    (1, other_signers),
    (2, change_authentication),
    (4, resign_certificate),
    (9, resign_certificate_bytes),
    (8, resign_extension_bytes),
    (5, resign_extension),
    (2, arrange_chain),
    (2, change_pem),
    (2, resign_crl),
    (5, change_crl_bytes),
    (10, resign_json),
    (7, resign_statuses),
    (3, order_levels),
    (5, resign_json_text),
    (1, change_json_unsigned),
    (1, mix_collateral),
    (2, exchange_entries),
    (1, change_signature),
    (2, move_now),
    (1, shift_everything),
    (1, whole_machine),
)


def mutation(number: int) -> Mutation:
    """Mutation of this number, the same in every run."""
    rng = Random(f"{SEED} {number}")
    weights = [weight for weight, _ in MUTATIONS]
    mutate = rng.choices([mutate for _, mutate in MUTATIONS], weights)[0]
    return mutate(rng)


# --- Verdicts


@dataclass(frozen=True)
class Verdict:
    """Of one verifier: accepted with status and advisories, or refused with a reason."""

    status: str | None = None
    advisories: frozenset[str] = frozenset()
    reason: str = ""

    @property
    def accepts(self) -> bool:
        return self.status is not None


@functools.lru_cache(16)
def _our_collateral(document: str) -> Collateral:
    return Collateral.from_json(document)


@functools.lru_cache(16)
def _their_collateral(document: str) -> Any:
    return dcap_qvl.QuoteCollateralV3.from_json(document)


def our_verdict(built: Built) -> Verdict:
    """What verification of a bare quote says."""
    try:
        collateral = _our_collateral(built.collateral_json)
        verified = verify_quote(built.quote, collateral, root=trusted(built.root_der), now=built.now)
    except AttestationError as error:
        return Verdict(reason=error.reason.value)
    return Verdict(verified.tcb_status.value, frozenset(verified.advisories))


def their_verdict(built: Built) -> Verdict:
    try:
        collateral = _their_collateral(built.collateral_json)
        report = dcap_qvl.verify_with_root_ca(built.quote, collateral, built.root_der, built.now_seconds)
    except ValueError as error:
        return Verdict(reason=str(error))
    return Verdict(report.status, frozenset(report.advisory_ids))


# --- Where the verdicts may differ


@dataclass(frozen=True)
class Difference:
    """A named difference: why it is there, and whether a mutation and our reason belong to it."""

    why: str
    covers: Callable[[Mutation, str], bool]


def _of_certificate(m: Mutation, *parts: str) -> bool:
    return m.kind.startswith(("certificate, ", "bytes of a certificate")) and m.part in parts


def _has_another_cpusvn(built: Built) -> bool:
    """Whether the CPUSVN of the PCK certificate is not what its 16 components say, as dcap-qvl reads them itself."""
    found = dcap_qvl.parse_quote(built.quote).pck_extension()
    components = [found.get_value(f"1.2.840.113741.1.13.1.2.{number}") for number in range(1, 17)]
    return [int.from_bytes(value, "big") if value else None for value in components] != list(found.cpu_svn)


LENGTHS = {"quote with more behind it", "length in the quote", "quote of two machines"}
CHAINS_OF_SIGNERS = {"tcb_info_chain", "qe_identity_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"}
SIGNERS = ("tcb_signer", "qe_identity_signer")

# We refuse, dcap-qvl accepts.
STRICTER: Mapping[str, Difference] = {
    "exact lengths": Difference(
        "dcap-qvl reads what it needs and leaves the rest: bytes behind a quote, size fields that say something else",
        lambda m, reason: reason == "quote-length" and (m.kind in LENGTHS or m.part == "certification data header"),
    ),
    "attributes of the enclave": Difference(
        "dcap-qvl looks at DEBUG alone; INIT, MODE64 and PROVISION_KEY are ours",
        lambda m, reason: reason == "enclave-attributes" and m.kind == "report signed anew",
    ),
    "PCE id": Difference(
        "dcap-qvl compares FMSPC but not PCE id",
        lambda m, reason: reason == "tcb-info-pceid" and m.part == "pck",
    ),
    "form of the SGX extension": Difference(
        "dcap-qvl takes the first entry of each OID it knows, of any type, and reads no components",
        lambda m, reason: reason == "pck-extension" and m.part == "pck",
    ),
    "components of the platform": Difference(
        "dcap-qvl compares the levels with CPUSVN instead of the 16 components, which Intel's documents name",
        lambda m, reason: reason in {"tcb-level-unknown", "tcb-revoked"} and _has_another_cpusvn(m.built),
    ),
    "three certificates in their order": Difference(
        "dcap-qvl looks for a path among whatever certificates a chain holds, in any order, between any text",
        lambda m, reason: reason == "chain-invalid" and m.part in {"pck_chain", "PEM"},
    ),
    "one signer below the root": Difference(
        "dcap-qvl accepts any chain to the root as the signer's, of any length: the PCK's too",
        lambda m, reason: reason == "tcb-signer" and m.part in CHAINS_OF_SIGNERS,
    ),
    "issuer chain of the PCK CRL": Difference(
        "dcap-qvl does not read it",
        lambda m, reason: (
            reason in {"chain-invalid", "certificate-role", "root-untrusted", "crl-issuer", "collateral-format"}
            and (m.part in {"pck_crl_chain", "pck_crl_issuer_chain"} or _is_pck_crl_chain_anothers(m.built))
        ),
    ),
    "root that the chains show": Difference(
        "dcap-qvl looks at the root it was given and not at the one in the chains",
        lambda m, reason: (
            (_of_certificate(m, "root") or _differs_in_the_root(m.built))
            and reason.startswith(("chain-", "certificate-", "root-"))
        ),
    ),
    "names of certificates": Difference(
        "dcap-qvl does not ask what a certificate is for: a PCK certificate may sign TCB info",
        lambda m, reason: (
            (reason == "certificate-role" and _of_certificate(m, "pck", "pck_ca"))
            or (reason == "tcb-signer" and _of_certificate(m, *SIGNERS))
        ),
    ),
    "key usage and basic constraints": Difference(
        "dcap-qvl wants certificates for TLS servers: no key usage, and constraints of CAs only",
        lambda m, reason: reason == "certificate-constraints" and _of_certificate(m, "pck", "pck_ca", *SIGNERS),
    ),
    "form of certificates": Difference(
        "dcap-qvl reads serial numbers and extensions that are no DER, or that RFC 5280 forbids",
        lambda m, reason: reason == "chain-invalid" and _of_certificate(m, "pck", "pck_ca"),
    ),
    "CRLs of the future": Difference(
        "dcap-qvl does not look at thisUpdate",
        lambda m, reason: reason == "crl-not-yet-valid" and m.part in {"root_crl", "pck_crl"},
    ),
    "form of CRLs": Difference(
        "dcap-qvl does without a number, and skips extensions it does not know",
        lambda m, reason: reason == "crl-format" and m.part in {"root_crl", "pck_crl"},
    ),
    "form of the collateral": Difference(
        "dcap-qvl skips keys it does not know and takes text that is not ASCII and hexadecimal in capitals",
        lambda m, reason: (
            reason == "collateral-format" and m.kind in {"entries of the collateral", "text of a chain", "text of JSON"}
        ),
    ),
    "form of TCB info and QE identity": Difference(
        "dcap-qvl skips keys it does not know, even twice, and does not look at version 3, tcbType and dates of levels",
        lambda m, reason: (
            reason in {"tcb-info-format", "qe-identity-format"}
            and m.kind in {"value of JSON", "text of JSON", "order of the levels"}
        ),
    ),
}

# dcap-qvl refuses what the specification accepts. Nothing else may be here than what its own words show.
LAXER: Mapping[str, Callable[[Mutation, str], bool]] = {
    # RFC 5280 and docs/attestation.md: a CRL holds up to and including nextUpdate. rustls-webpki: up to before it.
    "the last second of a CRL": lambda m, theirs: (
        "CrlExpired" in theirs and f"next_update: UnixTime({m.built.now_seconds}) }}" in theirs
    ),
    # The other side of "components of the platform".
    "CPUSVN lower than the components": lambda m, theirs: (
        theirs.endswith(("No matching TCB level found", "TCB status is invalid: Revoked"))
        and _has_another_cpusvn(m.built)
    ),
}


def _differs_in_the_root(built: Built) -> bool:
    """Whether the quote is the right one up to the root of its chain."""
    leaf_and_ca = THIS.quote.rindex(b"-----BEGIN")
    return built.quote[:leaf_and_ca] == THIS.quote[:leaf_and_ca]


def _is_pck_crl_chain_anothers(built: Built) -> bool:
    """Whether the PCK CRL's issuer chain is not what the quote's chain ends in."""
    return built.collateral.get("pck_crl_issuer_chain", "").encode() not in built.quote


@dataclass(frozen=True)
class Outcome:
    """Both verdicts on one mutation; `crash` is an exception of ours that is no AttestationError."""

    number: int
    mutation: Mutation
    ours: Verdict
    theirs: Verdict
    crash: str = ""

    def __str__(self) -> str:
        ours = self.ours.status or self.ours.reason or self.crash
        return f"{self.number}: {self.mutation.kind}, {self.mutation.part}: ours {ours}; theirs {self.theirs}"

    def difference(self) -> str | None:
        """The name of the difference this belongs to."""
        if self.theirs.accepts:
            names = [name for name, one in STRICTER.items() if one.covers(self.mutation, self.ours.reason)]
        else:
            names = [name for name, covers in LAXER.items() if covers(self.mutation, self.theirs.reason)]
        return names[0] if names else None


def outcome(number: int) -> Outcome:
    mutated = mutation(number)
    theirs = their_verdict(mutated.built)
    try:
        return Outcome(number, mutated, our_verdict(mutated.built), theirs)
    except Exception as error:
        return Outcome(number, mutated, Verdict(), theirs, crash=repr(error))


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [outcome(number) for number in range(COUNT)]


# Verdicts as in production, where warnings about odd certificates are no errors.
pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(f"ignore:{text}") for text in ODD_CERTIFICATES)]


def test_there_are_ten_thousand_of_every_kind(outcomes: list[Outcome]) -> None:
    kinds = Counter(one.mutation.kind.partition(", ")[0] for one in outcomes)
    both = Counter((one.ours.accepts, one.theirs.accepts) for one in outcomes)
    assert len(outcomes) == COUNT == 10_000
    assert (
        len({(built.now, built.quote, built.collateral_json) for built in (one.mutation.built for one in outcomes)})
        > 8_000
    )
    assert len(kinds) >= len(MUTATIONS)
    assert min(kinds.values()) >= 50
    assert both[True, True] > 1_000
    assert both[False, False] > 3_000


def test_hostile_bytes_raise_nothing_but_attestation_errors(outcomes: list[Outcome]) -> None:
    assert [str(one) for one in outcomes if one.crash] == []


def test_what_is_right_is_accepted_by_both(outcomes: list[Outcome]) -> None:
    right = [one for one in outcomes if one.mutation.kind == "nothing"]
    assert {one.mutation.part for one in right} == {"this", "other"}
    assert {(one.ours.status, one.theirs.status) for one in right} == {("UpToDate", "UpToDate")}


def test_nothing_is_accepted_that_dcap_qvl_refuses(outcomes: list[Outcome]) -> None:
    accepted = [one for one in outcomes if one.ours.accepts and not one.theirs.accepts]
    assert [str(one) for one in accepted if one.difference() is None] == []
    assert {one.difference() for one in accepted} == set(LAXER)


def test_what_is_refused_that_dcap_qvl_accepts_has_a_name(outcomes: list[Outcome]) -> None:
    refused = [one for one in outcomes if one.theirs.accepts and not one.ours.accepts and not one.crash]
    assert [str(one) for one in refused if one.difference() is None] == []
    assert {one.difference() for one in refused} == set(STRICTER)


def test_status_and_advisories_agree(outcomes: list[Outcome]) -> None:
    """For all that both accept, but for CPUSVN."""
    accepted = [one for one in outcomes if one.ours.accepts and one.theirs.accepts]
    different = [one for one in accepted if one.ours != one.theirs]
    assert [str(one) for one in different if not _has_another_cpusvn(one.mutation.built)] == []
    assert len({(one.ours.status, one.ours.advisories) for one in accepted}) > 20
    assert {one.ours.status for one in accepted} == set(STATUSES)
