"""Sealed files: who opens them, who does not and why, what any change to them does, and how they are replaced."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flat_reader
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import confidential_ml as cml
from confidential_ml.owner import sign_model
from confidential_ml.xgboost_format import to_flat_model

if TYPE_CHECKING:
    from conftest import EnclaveOf, RunPython

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
ROWS = np.load(FIXTURES / "X.npy")

# Where the fields of the header are (docs/formats.md 2.1).
MAGIC, VERSION, HEADER_SIZE, DIGEST = (0, 8), (8, 4), (12, 4), (16, 32)
POLICY, PLATFORM, PROD_ID, SVN = (48, 2), (50, 2), (52, 2), (54, 2)
MRENCLAVE, MRSIGNER, MODEL_DIGEST, SALT, KEY_CHECK = (56, 32), (88, 32), (120, 32), (152, 32), (184, 32)
OWNER, OWNER_SIGNATURE, MODEL_VERSION = (216, 32), (248, 64), (312, 8)
CIPHERTEXT_SIZE, MODEL_ID_SIZE, KEY_INFO_SIZE, MODEL_ID = (320, 8), (328, 2), (330, 2), 332

DAMAGED, WRONG, VERSION_ERROR = cml.DamagedSealedModelError, cml.WrongEnclaveError, cml.UnsupportedVersionError


@pytest.fixture(scope="module")
def sealed(regression_file: Path, enclave: cml.Enclave, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sealed file that opens."""
    path = tmp_path_factory.mktemp("sealed") / "good.sealed"
    cml.seal(regression_file, path, model_id="good-1", enclave=enclave)
    return path.read_bytes()


def with_digest(data: bytes | bytearray) -> bytes:
    """The file with a header digest that fits what its header says now: no accident but somebody's work."""
    header_size = struct.unpack_from("<I", data, HEADER_SIZE[0])[0]
    digest = hashlib.sha256(bytes(data[:16]) + bytes(data[48:header_size])).digest()
    return bytes(data[:16]) + digest + bytes(data[48:])


def changed(data: bytes, field: tuple[int, int], value: int | bytes) -> bytes:
    """The file with one field of its header replaced, and its header digest made to fit."""
    offset, size = field
    content = value if isinstance(value, bytes) else value.to_bytes(size, "little")
    assert len(content) == size
    return with_digest(data[:offset] + content + data[offset + size :])


def flipped(data: bytes, bit: int) -> bytes:
    result = bytearray(data)
    result[bit // 8] ^= 1 << bit % 8
    return bytes(result)


def class_that_names(path: Path, error: cml.SealError) -> type[Exception]:
    assert str(path) in str(error)
    return type(error)


def refusal(data: bytes, enclave: cml.Enclave, path: Path) -> type[Exception] | None:
    """The class that a file is refused with, or None if it opens; the extension and the package must agree."""
    path.write_bytes(data)
    try:
        cml.ConfidentialModel.load_sealed(path, enclave=enclave).close()
        by_package = None
    except cml.SealError as error:
        by_package = class_that_names(path, error)
    try:
        enclave._core.unload_model(enclave._core.load_model(data))
        by_extension = None
    except cml.SealError as error:
        by_extension = type(error)
    assert by_package is by_extension
    return by_package


def inspection(data: bytes, path: Path) -> type[Exception] | None:
    path.write_bytes(data)
    try:
        cml.inspect_sealed(path)
    except cml.SealError as error:
        return class_that_names(path, error)
    return None


# ---- the ordinary way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mrenclave", "mrsigner"])
def test_seal_inspect_and_load_tell_the_same(
    policy: cml.SealingPolicy, regression_file: Path, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "model.sealed"
    info = cml.seal(regression_file, path, model_id="Credit_2.v-1", policy=policy)
    assert info == cml.inspect_sealed(path)
    flat = to_flat_model(regression_file)
    identity = enclave.identity
    assert (info.model_id, info.policy, info.version) == ("Credit_2.v-1", policy, 2)
    assert (info.owner, info.model_version) == (None, 0)
    assert info.model_digest == hashlib.sha256(flat).hexdigest()
    assert (info.size, info.model_size) == (path.stat().st_size, len(flat))
    assert (info.mrenclave, info.mrsigner, info.platform) == (identity.mrenclave, identity.mrsigner, identity.platform)
    assert (info.isv_prod_id, info.isv_svn) == (identity.isv_prod_id, identity.isv_svn)
    with cml.ConfidentialModel.load_sealed(path) as model:
        assert (model.info.model_id, model.info.policy) == (info.model_id, policy)
        assert model.info.model_digest == info.model_digest
        assert model.enclave is enclave


def test_owner_and_version_are_kept_and_can_be_required(regression_file: Path, tmp_path: Path) -> None:
    path, key, other = tmp_path / "model.sealed", Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    owner, stranger = key.public_key().public_bytes_raw().hex(), other.public_key().public_bytes_raw().hex()
    info = cml.seal(regression_file, path, version=7, owner_key=key)
    assert (info.owner, info.model_version) == (owner, 7)
    load = cml.ConfidentialModel.load_sealed
    for accepted in ({}, {"owner": owner}, {"owner": owner.upper(), "min_version": 7}):
        with load(path, **accepted) as model:
            assert (model.info.owner, model.info.model_version) == (owner, 7)
    with pytest.raises(cml.SealError, match=f"its owner is {owner}, expected {stranger}"):
        load(path, owner=stranger)
    with pytest.raises(cml.SealError, match="its version is 7, expected at least 8"):
        load(path, owner=owner, min_version=8)
    with pytest.raises(cml.InvalidInputError, match="min_version needs owner"):
        load(path, min_version=7)
    cml.seal(regression_file, path, version=9)
    with pytest.raises(cml.SealError, match="its owner is nobody"):
        load(path, owner=owner, min_version=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": -1}, "version must be a whole number from 0 to 1844"),
        ({"version": 1 << 64}, "version must be a whole number from 0 to 1844"),
        ({"version": 1.0}, "version must be an integer, not float"),
        ({"owner_key": b"k" * 32}, "owner_key must be an Ed25519PrivateKey of the cryptography package, not bytes"),
    ],
)
def test_wrong_owners_and_versions_are_refused(
    arguments: dict[str, Any], message: str, regression_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(cml.InvalidInputError, match=message):
        cml.seal(regression_file, tmp_path / "model.sealed", **arguments)
    assert not (tmp_path / "model.sealed").exists()


def test_the_enclave_checks_the_owners_signature(regression_file: Path, enclave: cml.Enclave) -> None:
    key = Ed25519PrivateKey.generate()
    flat = to_flat_model(regression_file)
    genuine = key.public_key().public_bytes_raw() + sign_model(
        key, model_digest=hashlib.sha256(flat).hexdigest(), version=3, model_id="m"
    )
    assert enclave._core.seal_model(flat, b"m", 1, 3, genuine)
    for version, model_id, owner in ((4, b"m", genuine), (3, b"n", genuine), (3, b"m", genuine[:95] + b"\xff")):
        with pytest.raises(cml.SealError, match="owner's signature is not over"):
            enclave._core.seal_model(flat, model_id, 1, version, owner)


def test_the_default_policy_is_mrenclave(regression_file: Path, tmp_path: Path) -> None:
    info = cml.seal(regression_file, tmp_path / "model.sealed")
    assert (info.policy, info.model_id) == ("mrenclave", "model")


def test_every_kind_of_source_gives_one_model(tmp_path: Path) -> None:
    stem = FIXTURES / "xgb-3.4.1.reg"
    content = stem.with_name(stem.name + ".ubj").read_bytes()
    sources: list[Any] = [f"{stem}.json", f"{stem}.ubj", Path(f"{stem}.ubj"), content, bytearray(content)]
    infos = [cml.seal(source, str(tmp_path / "model.sealed")) for source in sources]
    assert len({info.model_digest for info in infos}) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "model.sealed"]


def test_no_two_sealings_share_a_salt_a_key_check_or_a_ciphertext(regression_file: Path, tmp_path: Path) -> None:
    files = []
    for number in range(3):
        cml.seal(regression_file, tmp_path / f"{number}.sealed")
        files.append((tmp_path / f"{number}.sealed").read_bytes())
    for offset, size in (SALT, KEY_CHECK):
        assert len({data[offset : offset + size] for data in files}) == 3
    assert len({data[-100:] for data in files}) == 3


def test_nothing_of_the_model_is_readable_in_the_file(regression_file: Path, sealed: bytes) -> None:
    flat = to_flat_model(regression_file)
    for offset in range(0, len(flat) - 16, 16):
        piece = flat[offset : offset + 16]
        assert len(set(piece)) < 6 or piece not in sealed


@pytest.mark.parametrize(
    "model_id", ["", "a" * 65, ".a", "_a", "-a", "a b", "a/b", "<b>", "a\n", "a\0", "é", "\u2170", "\udcff", "a\udcff"]
)
def test_model_ids_that_are_refused(model_id: str, regression_file: Path, tmp_path: Path) -> None:
    with pytest.raises(cml.InvalidInputError, match="1 to 64 characters") as caught:
        cml.seal(regression_file, tmp_path / "model.sealed", model_id=model_id)
    assert "CMLFLAT" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model_id", ["a", "9", "a" * 64, "A.b_c-D.", "0--"])
def test_model_ids_that_are_accepted(model_id: str, regression_file: Path, tmp_path: Path) -> None:
    assert cml.seal(regression_file, tmp_path / "model.sealed", model_id=model_id).model_id == model_id


@pytest.mark.parametrize("model_id", [None, 1, b"a"])
def test_model_ids_that_are_no_text(model_id: Any, regression_file: Path, tmp_path: Path) -> None:
    with pytest.raises(cml.InvalidInputError, match="model_id must be text"):
        cml.seal(regression_file, tmp_path / "model.sealed", model_id=model_id)


@pytest.mark.parametrize("policy", ["", "MRENCLAVE", "mrenclave ", "any", 1, None, [], b"mrenclave"])
def test_policies_that_are_refused(policy: Any, regression_file: Path, tmp_path: Path) -> None:
    with pytest.raises(cml.InvalidInputError, match="'mrenclave' or 'mrsigner'"):
        cml.seal(regression_file, tmp_path / "model.sealed", policy=policy)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("policy", [0, 3, 4, 2**32 - 1])
def test_the_enclave_knows_two_policies(policy: int, regression_file: Path, enclave: cml.Enclave) -> None:
    with pytest.raises(cml.InvalidInputError, match="policy"):
        enclave._core.seal_model(to_flat_model(regression_file), b"model", policy, 0, b"")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, tmp_path / "absent" / "absent"):
        for attempt in (cml.inspect_sealed, cml.ConfidentialModel.load_sealed):
            with pytest.raises(cml.SealError, match="cannot be read") as caught:
                attempt(path)
            assert type(caught.value) is cml.SealError
            assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"C", b"CMLSEA", b"{}", b"CMLFLAT\0" + bytes(100), bytes(2000)])
def test_files_that_are_no_sealed_models(content: bytes, enclave: cml.Enclave, tmp_path: Path) -> None:
    path = tmp_path / "other"
    assert refusal(content, enclave, path) is DAMAGED
    with pytest.raises(DAMAGED, match="not a sealed model"):
        cml.inspect_sealed(path)
    with pytest.raises(DAMAGED, match="not a sealed model"):
        cml.ConfidentialModel.load_sealed(path)


def test_a_file_larger_than_any_sealed_model_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DAMAGED, match="larger"):
        cml.inspect_sealed(path)
    with pytest.raises(DAMAGED, match="larger"):
        cml.ConfidentialModel.load_sealed(path)


def test_a_sparse_file_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    for size in (1 << 40, 1 << 20):
        with path.open("wb") as file:
            file.truncate(size)
        for read, error in ((cml.inspect_sealed, DAMAGED), (to_flat_model, cml.ModelFormatError)):
            tracemalloc.start()
            try:
                with pytest.raises(error):
                    read(path)
                assert tracemalloc.get_traced_memory()[1] < 4 << 20
            finally:
                tracemalloc.stop()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, run_python: RunPython) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = """
import sys
import confidential_ml as cml
from confidential_ml.owner import sign_model
for attempt in (
    lambda: cml.inspect_sealed(sys.argv[1]),
    lambda: cml.ConfidentialModel.load_sealed(sys.argv[1]),
    lambda: cml.seal(sys.argv[1], sys.argv[1] + ".sealed"),
):
    try:
        attempt()
    except cml.ConfidentialMLError as error:
        assert "not a regular file" in str(error), error
        print(type(error).__name__)
"""
    result = run_python(code, tmp_path / "pipe")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["SealError", "SealError", "InvalidInputError"]


@pytest.mark.parametrize("path", ["", b"", "a\0b", b"a\0b", "a\ud800b", 0, True, None, object()], ids=repr)
def test_what_no_file_can_be_named(path: Any, regression_file: Path, enclave: cml.Enclave) -> None:
    for attempt in (
        lambda: cml.seal(regression_file, path),
        lambda: cml.inspect_sealed(path),
        lambda: cml.ConfidentialModel.load_sealed(path),
    ):
        with pytest.raises(cml.InvalidInputError, match="path"):
            attempt()
    if isinstance(path, str):
        with pytest.raises(cml.InvalidInputError, match="path"):
            cml.seal(path, "never")
    if path is not None:
        with pytest.raises(cml.InvalidInputError, match="image"):
            cml.Enclave(path)


@pytest.mark.parametrize("name", ["new/", "new/.", "new/..", ".", ".."])
def test_what_only_a_directory_can_be_named_is_not_written(name: str, regression_file: Path, tmp_path: Path) -> None:
    with pytest.raises(cml.SealError, match="names a directory"):
        cml.seal(regression_file, f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


def test_paths_of_every_kind(regression_file: Path, tmp_path: Path) -> None:
    class BytesPath:
        def __init__(self, path: Path) -> None:
            self.path = path

        def __fspath__(self) -> bytes:
            return os.fsencode(self.path)

    for name in ("plain", "n\udcffn", "\N{GREEK SMALL LETTER PI}"):
        path = tmp_path / name
        for given in (path, str(path), os.fsencode(path), BytesPath(path)):
            info = cml.seal(regression_file, given)
            assert cml.inspect_sealed(given) == info
            cml.ConfidentialModel.load_sealed(given).close()
        assert path.exists()


def test_what_is_no_file_is_not_replaced(regression_file: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link", tmp_path):
        with pytest.raises(cml.SealError, match="cannot be written: it is no regular file"):
            cml.seal(regression_file, path)
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)


def test_a_link_stays_and_what_it_leads_to_is_replaced(regression_file: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    cml.seal(regression_file, tmp_path / "link", model_id="linked")
    assert (tmp_path / "link").is_symlink()
    assert cml.inspect_sealed(tmp_path / "real").model_id == "linked"


def test_the_model_itself_is_not_replaced(regression_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.ubj"
    copy.write_bytes(regression_file.read_bytes())
    (tmp_path / "other").symlink_to(copy)
    for path in (copy, tmp_path / "other"):
        with pytest.raises(cml.InvalidInputError, match="is the model that is to be sealed"):
            cml.seal(copy, path)
    assert copy.read_bytes() == regression_file.read_bytes()


def test_the_file_of_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.symlink_to(locked)
    for path, message in (
        (tmp_path / "absent", "there is no model file .*absent; check the path"),
        (tmp_path, "is a directory; give the path of a model file in it"),
        (locked, "locked cannot be read: Too many levels of symbolic links; check"),
    ):
        with pytest.raises(cml.InvalidInputError, match=message):
            cml.seal(path, tmp_path / "never")
    assert not (tmp_path / "never").exists()


# ---- another model in the place of this one -------------------------------------------------------------------------


def test_another_model_under_the_same_id_is_told_by_its_digest(
    regression_file: Path, classifier_file: Path, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "credit.sealed"
    digest = cml.seal(regression_file, path, model_id="credit").model_digest
    for spelling in (digest, digest.upper()):
        with cml.ConfidentialModel.load_sealed(path, expected_digest=spelling) as model:
            assert model.info.model_digest == digest
    other = cml.seal(classifier_file, path, model_id="credit").model_digest
    with pytest.raises(cml.SealError, match=f"{other}, expected {digest}") as caught:
        cml.ConfidentialModel.load_sealed(path, expected_digest=digest)
    assert str(path) in str(caught.value)
    for wrong in ("", digest[1:], digest + "0", "x" * 64, "\uff10" * 64, bytes.fromhex(digest), 5):
        bad: Any = wrong
        with pytest.raises(cml.InvalidInputError, match="expected_digest"):
            cml.ConfidentialModel.load_sealed(path, expected_digest=bad)


# ---- other enclaves and machines ------------------------------------------------------------------------------------


def opens(path: Path, enclave: cml.Enclave) -> str | None:
    """None if the file opens and predicts, or the message of the WrongEnclaveError."""
    try:
        with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
            assert model.predict(ROWS).shape == (len(ROWS),)
            return None
    except cml.WrongEnclaveError as error:
        return str(error)


def test_the_test_images_differ_in_what_they_say(enclave_of: EnclaveOf) -> None:
    base, newer, rebuilt, other = (
        enclave_of(name).identity for name in ("base", "higher_svn", "rebuilt", "other_signer")
    )
    assert base.isv_svn == 1
    assert newer.isv_svn == 7
    assert base.mrsigner == newer.mrsigner == rebuilt.mrsigner != other.mrsigner
    assert base.mrenclave != rebuilt.mrenclave
    assert len({one.isv_prod_id for one in (base, newer, rebuilt, other)}) == 1
    assert not any(one.debug or one.protects for one in (base, newer, rebuilt, other))


@pytest.mark.parametrize(
    ("policy", "sealer", "opener", "succeeds"),
    [
        ("mrenclave", "base", "base", True),
        ("mrenclave", "base", "rebuilt", False),
        ("mrenclave", "rebuilt", "base", False),
        ("mrenclave", "higher_svn", "base", False),
        ("mrsigner", "base", "base", True),
        ("mrsigner", "base", "rebuilt", True),
        ("mrsigner", "rebuilt", "base", True),
        ("mrsigner", "base", "higher_svn", True),
        ("mrsigner", "higher_svn", "higher_svn", True),
        ("mrsigner", "higher_svn", "base", False),
        ("mrsigner", "base", "other_signer", False),
        ("mrsigner", "other_signer", "base", False),
    ],
)
def test_which_image_opens_what(
    policy: cml.SealingPolicy,
    sealer: str,
    opener: str,
    succeeds: bool,
    regression_file: Path,
    enclave_of: EnclaveOf,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.sealed"
    sealing, opening = enclave_of(sealer), enclave_of(opener)
    cml.seal(regression_file, path, policy=policy, enclave=sealing)
    message = opens(path, opening)
    assert (message is None) == succeeds
    if message is not None:
        theirs, ours = sealing.identity, opening.identity
        named = (theirs.mrenclave, ours.mrenclave) if policy == "mrenclave" else (theirs.mrsigner, ours.mrsigner)
        for text in (*named, f"SVN {theirs.isv_svn}", f"SVN {ours.isv_svn}", theirs.platform, policy.upper()):
            assert text in message
        assert str(path) in message


def test_a_newer_version_is_named_as_the_reason(regression_file: Path, enclave_of: EnclaveOf, tmp_path: Path) -> None:
    path = tmp_path / "model.sealed"
    cml.seal(regression_file, path, policy="mrsigner", enclave=enclave_of("higher_svn"))
    with pytest.raises(WRONG, match=r"higher ISV SVN.*SVN 7.*SVN 1"):
        cml.ConfidentialModel.load_sealed(path, enclave=enclave_of("base"))


@pytest.mark.parametrize("policy", ["mrenclave", "mrsigner"])
def test_another_machine_opens_nothing(
    policy: cml.SealingPolicy, regression_file: Path, enclave_of: EnclaveOf, tmp_path: Path
) -> None:
    path = tmp_path / "model.sealed"
    here, there = enclave_of("base"), enclave_of("base", "other")
    assert here.identity == there.identity
    cml.seal(regression_file, path, policy=policy, enclave=here)
    message = opens(path, there)
    assert message is not None
    assert "another machine" in message
    assert opens(path, here) is None
    cml.seal(regression_file, path, policy=policy, enclave=there)
    assert opens(path, there) is None
    assert opens(path, here) is not None


def test_one_machine_opens_in_another_process(regression_file: Path, run_python: RunPython, tmp_path: Path) -> None:
    path = tmp_path / "model.sealed"
    cml.seal(regression_file, path)
    code = "import sys, confidential_ml as c; print(c.ConfidentialModel.load_sealed(sys.argv[1]).info.model_digest)"
    result = run_python(code, path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == cml.inspect_sealed(path).model_digest


# ---- files that were changed ----------------------------------------------------------------------------------------


def test_every_bit_of_the_header_is_guarded(sealed: bytes, enclave: cml.Enclave, tmp_path: Path) -> None:
    path = tmp_path / "flipped"
    header_size = struct.unpack_from("<I", sealed, HEADER_SIZE[0])[0]
    core = enclave._core
    for bit in range(8 * header_size):
        data = flipped(sealed, bit)
        with pytest.raises(DAMAGED):
            core.load_model(data)
        if bit % 7 == 0:
            assert refusal(data, enclave, path) is DAMAGED
            assert inspection(data, path) is DAMAGED


def test_every_bit_of_the_header_is_guarded_when_its_digest_is_made_to_fit(
    sealed: bytes, enclave: cml.Enclave, tmp_path: Path
) -> None:
    """What the digest does not find, a check of a field, the key or the tag does, by docs/formats.md 2.3."""
    path = tmp_path / "flipped"
    header_size = struct.unpack_from("<I", sealed, HEADER_SIZE[0])[0]
    disagreements: list[tuple[int, int, type[Exception] | None, type[Exception]]] = []
    for bit in range(64, 8 * header_size):
        offset = bit // 8
        if offset < 48 and offset not in range(*_span(VERSION)):
            continue
        data = with_digest(flipped(sealed, bit))
        expected = expected_class(offset, data)
        try:
            enclave._core.load_model(data)
            actual: type[Exception] | None = None
        except cml.SealError as error:
            actual = type(error)
        if actual is not expected:
            disagreements.append((offset, bit % 8, actual, expected))
        if bit % 5 == 0 and actual is expected and refusal(data, enclave, path) is not expected:
            disagreements.append((offset, bit % 8, None, expected))
    assert disagreements == []


def _span(field: tuple[int, int]) -> tuple[int, int]:
    return field[0], field[0] + field[1]


def expected_class(offset: int, data: bytes) -> type[Exception]:
    """By docs/formats.md 2.3, for a change of a byte at `offset` under a digest that fits."""
    platform, svn = (struct.unpack_from("<H", data, at)[0] for at in (PLATFORM[0], SVN[0]))
    key_info = MODEL_ID + struct.unpack_from("<H", data, MODEL_ID_SIZE[0])[0]
    if offset in range(*_span(VERSION)):
        return VERSION_ERROR
    if offset in range(*_span(PLATFORM)):
        return WRONG if platform in (1, 2, 3) else DAMAGED
    if offset in range(*_span(SVN)):
        return WRONG if svn > 1 else DAMAGED  # below: not the version of the key info
    if offset in range(*_span(SALT)) or offset in range(*_span(KEY_CHECK)):
        return WRONG
    # Key name, policy and SVN of the key info repeat the header; whatever else it says names another key.
    if offset >= key_info + 6:
        return WRONG
    return DAMAGED


def test_inspection_agrees_with_the_enclave_about_what_can_be_seen_from_outside(
    sealed: bytes, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "changed"
    id_size = struct.unpack_from("<H", sealed, MODEL_ID_SIZE[0])[0]
    damaged = {
        "policy 0": changed(sealed, POLICY, 0),
        "policy 3": changed(sealed, POLICY, 3),
        "platform 0": changed(sealed, PLATFORM, 0),
        "platform 4": changed(sealed, PLATFORM, 4),
        "ciphertext too short": changed(sealed, CIPHERTEXT_SIZE, len(sealed) - 1000),
        "ciphertext beyond 64 bits of file": changed(sealed, CIPHERTEXT_SIZE, 2**64 - 1),
        "id size 0": changed(changed(sealed, MODEL_ID_SIZE, 0), KEY_INFO_SIZE, 512 + id_size),
        "id size 65": changed(changed(sealed, MODEL_ID_SIZE, 65), KEY_INFO_SIZE, 512 + id_size - 65),
        "key info size 0": changed(changed(sealed, MODEL_ID_SIZE, 512 + id_size), KEY_INFO_SIZE, 0),
        "key info size too large": changed(sealed, KEY_INFO_SIZE, 1025),
        "id with a space": changed(sealed, (MODEL_ID + 1, 1), b" "),
        "id with a tag": changed(sealed, (MODEL_ID, 3), b"<b>"),
        "id with a NUL": changed(sealed, (MODEL_ID + 1, 1), b"\0"),
        "id beyond ASCII": changed(sealed, (MODEL_ID, 1), b"\xe9"),
        "id that begins with a dot": changed(sealed, (MODEL_ID, 1), b"."),
    }
    disagreements = [name for name, data in damaged.items() if refusal(data, enclave, path) is not DAMAGED]
    assert disagreements == []
    disagreements = [name for name, data in damaged.items() if inspection(data, path) is not DAMAGED]
    assert disagreements == []
    other = {
        "version 0": (changed(sealed, VERSION, 0), VERSION_ERROR),
        "version 1": (changed(sealed, VERSION, 1), VERSION_ERROR),
        "version 3": (changed(sealed, VERSION, 3), VERSION_ERROR),
        "another platform": (changed(sealed, PLATFORM, 3), None),
        "higher SVN": (changed(sealed, SVN, 500), None),
    }
    for name, (data, expected) in other.items():
        assert (name, inspection(data, path)) == (name, expected)
        assert (name, refusal(data, enclave, path)) == (name, expected or WRONG)


def test_another_version_may_have_another_header_but_not_a_broken_one(sealed: bytes, tmp_path: Path) -> None:
    """The first 48 bytes keep their meaning: a later version's file is told from a damaged one."""
    path = tmp_path / "later"
    later = with_digest(sealed[:8] + struct.pack("<II", 3, 48) + bytes(32) + b"whatever version 3 holds")
    assert inspection(later, path) is VERSION_ERROR
    assert inspection(later[:-30], path) is DAMAGED
    assert inspection(flipped(later, 8 * 9), path) is DAMAGED


def test_sizes_of_the_header_beyond_the_file_or_their_bounds(
    sealed: bytes, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "sizes"
    for size in (0, 15, 16, 47, 48, 49, 100, 331, 332, len(sealed), len(sealed) + 1, 4097, 2**31, 2**32 - 1):
        data = sealed[:12] + struct.pack("<I", size) + sealed[16:]
        data = with_digest(data) if size >= 48 else data
        assert (size, refusal(data, enclave, path)) == (size, DAMAGED)
        assert (size, inspection(data, path)) == (size, DAMAGED)


def test_truncated_and_lengthened_files(sealed: bytes, enclave: cml.Enclave, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    header_size = struct.unpack_from("<I", sealed, HEADER_SIZE[0])[0]
    lengths = {*range(64), *range(220, 260), header_size - 1, header_size, header_size + 1, len(sealed) - 17}
    lengths |= {len(sealed) - 16, len(sealed) - 1, *random.Random(4).sample(range(len(sealed)), 40)}
    for length in sorted(lengths):
        assert (length, refusal(sealed[:length], enclave, path)) == (length, DAMAGED)
        assert (length, inspection(sealed[:length], path)) == (length, DAMAGED)
    for more in (b"\0", b"\n", bytes(16), sealed):
        assert refusal(sealed + more, enclave, path) is DAMAGED
        assert inspection(sealed + more, path) is DAMAGED


def test_changes_after_the_header_are_found_by_the_tag(sealed: bytes, enclave: cml.Enclave, tmp_path: Path) -> None:
    path = tmp_path / "body"
    header_size = struct.unpack_from("<I", sealed, HEADER_SIZE[0])[0]
    rng = random.Random(8)
    bits = [rng.randrange(8 * header_size, 8 * len(sealed)) for _ in range(300)]
    for bit in [*bits, *range(8 * (len(sealed) - 16), 8 * len(sealed))]:
        data = flipped(sealed, bit)
        with pytest.raises(DAMAGED):
            enclave._core.load_model(data)
    assert refusal(data, enclave, path) is DAMAGED
    assert inspection(data, path) is None  # nothing to see from outside


def test_parts_of_two_sealed_files_make_none(
    regression_file: Path, sealed: bytes, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "second"
    cml.seal(regression_file, path, model_id="good-1", enclave=enclave)
    second = path.read_bytes()
    header_size = struct.unpack_from("<I", sealed, HEADER_SIZE[0])[0]
    assert refusal(sealed[:header_size] + second[header_size:], enclave, path) is DAMAGED
    for field in (SALT, KEY_CHECK):
        assert refusal(changed(sealed, field, second[slice(*_span(field))]), enclave, path) is WRONG
    assert refusal(changed(sealed, (MODEL_ID, 6), b"good-2"), enclave, path) is DAMAGED
    assert refusal(second, enclave, path) is None


def corrupted(data: bytes, rng: random.Random) -> bytes:
    """One of the things that happen to files: bits flip, bytes are set, parts go, come, move or repeat."""
    result = bytearray(data)
    kind = rng.randrange(7)
    at = rng.randrange(len(result))
    if kind == 0:
        result[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        result[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == 2:
        at -= at % 4
        result[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2, 3, 7, 2**16, 2**20 + 1, 2**31, 2**32 - 1]))
    elif kind == 3:
        del result[at : at + rng.choice([1, 4, 100])]
    elif kind == 4:
        result[at:at] = rng.randbytes(rng.choice([1, 4, 64]))
    elif kind == 5:
        other = rng.randrange(len(result))
        result[at : at + 8], result[other : other + 8] = result[other : other + 8], result[at : at + 8]
    else:
        end = at + rng.choice([4, 64])
        result[at:end] = bytes(len(result[at:end]))
    return bytes(result)


def test_a_thousand_corruptions_of_a_sealed_file(sealed: bytes, enclave: cml.Enclave, tmp_path: Path) -> None:
    rng = random.Random(20)
    path = tmp_path / "corrupted"
    for round_ in range(1000):
        data = corrupted(sealed, rng)
        if data == sealed:
            continue
        path.write_bytes(data)
        with pytest.raises(DAMAGED):
            cml.ConfidentialModel.load_sealed(path, enclave=enclave)
        if round_ % 4 == 0 and inspection(data, path) is None:
            header_size = struct.unpack_from("<I", sealed, HEADER_SIZE[0])[0]
            assert data[:header_size] == sealed[:header_size]


def test_a_thousand_corruptions_of_flat_models(enclave: cml.Enclave) -> None:
    """The enclave refuses just what the reader of the tests, written from docs/formats.md alone, refuses."""
    rng = random.Random(21)
    names = ["reg", "softprob", "dart", "linear", "cat", "vectorleaf", "multitarget", "quantile"]
    models = [to_flat_model(FIXTURES / f"xgb-3.4.1.{name}.ubj") for name in names]
    accepted = refused = 0
    for _ in range(1000):
        # Half of the changes go into the first bytes, where the structure is.
        model = rng.choice(models)
        head = model[: rng.choice([64, 400, len(model)])]
        data = corrupted(head, rng) + model[len(head) :]
        try:
            flat_reader.read(data)
            readable = True
        except ValueError:
            readable = False
        try:
            enclave._core.seal_model(data, b"m", 1, 0, b"")
            assert readable
            accepted += 1
        except cml.ModelFormatError:
            assert not readable
            refused += 1
    assert accepted > 100
    assert refused > 400


# ---- files are replaced whole or not at all -------------------------------------------------------------------------


def test_new_files_are_for_their_owner_only(regression_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.sealed"
    before = os.umask(0)
    try:
        cml.seal(regression_file, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        cml.seal(regression_file, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_meet_a_missing_or_partial_file(
    regression_file: Path, classifier_file: Path, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "model.sealed"
    cml.seal(regression_file, path, enclave=enclave)
    done = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(60):
                cml.seal((classifier_file, regression_file)[number % 2], path, enclave=enclave)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        while not done.is_set():
            cml.inspect_sealed(path)
            with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
                seen.add(model.info.n_groups)
    finally:
        writer.join()
    assert failures == []
    assert seen == {1, 3}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(
    regression_file: Path, enclave: cml.Enclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.sealed"
    cml.seal(regression_file, path)
    before = path.read_bytes()
    for name in ("fsync", "replace"):
        for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

            def fail(*_: object, _error: BaseException = error) -> None:
                raise _error

            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                expected: type[BaseException] = cml.SealError if isinstance(error, OSError) else KeyboardInterrupt
                with pytest.raises(expected):
                    cml.seal(regression_file, path, enclave=enclave)
            assert path.read_bytes() == before
            assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(regression_file: Path, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    places = [tmp_path / "absent" / "model.sealed", tmp_path / "directory", tmp_path / "file" / "model.sealed"]
    for place in places:
        with pytest.raises(cml.SealError, match="cannot be written") as caught:
            cml.seal(regression_file, place)
        assert type(caught.value) is cml.SealError
        assert str(place) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "directory", tmp_path / "file"]
    assert list((tmp_path / "directory").iterdir()) == []


def test_the_longest_name_a_file_can_have(regression_file: Path, tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    cml.seal(regression_file, path)
    assert list(tmp_path.iterdir()) == [path]
    for too_long in (tmp_path / ("n" * 256), tmp_path.joinpath(*["n"] * 2100)):
        with pytest.raises(cml.InvalidInputError, match=r"cannot be the path of a file: it has \d+ characters"):
            cml.seal(regression_file, too_long)


def test_a_directory_that_cannot_be_listed_is_written_to(
    regression_file: Path, tmp_path: Path, run_python: RunPython
) -> None:
    """Whoever may do everything is made nobody first."""
    code = """
import os, sys
import confidential_ml as cml
from confidential_ml.owner import sign_model
enclave = cml.Enclave()
cml.seal, cml.inspect_sealed  # imported at first use, which nobody may do
from pathlib import Path
model = Path(sys.argv[1]).read_bytes()
directory = sys.argv[2]
os.chmod(directory, 0o300)
if os.getuid() == 0:
    os.chown(directory, 65534, 65534)
    os.chdir(directory)
    os.setgid(65534)
    os.setuid(65534)
else:
    os.chdir(directory)
print(cml.seal(model, "model.sealed", enclave=enclave).model_id)
assert cml.inspect_sealed("model.sealed").model_id == "model"
"""
    (tmp_path / "directory").mkdir()
    result = run_python(code, regression_file, tmp_path / "directory")
    (tmp_path / "directory").chmod(0o700)
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "directory").iterdir()] == ["model.sealed"]


def test_a_directory_that_cannot_be_synced(
    regression_file: Path, enclave: cml.Enclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "model.sealed", os.fsync
    for number in (errno.EINVAL, errno.EIO):

        def fail_for_directories(descriptor: int, _number: int = number) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(_number, os.strerror(_number))
            sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_for_directories)
            if number == errno.EINVAL:  # what file systems say that cannot
                cml.seal(regression_file, path, enclave=enclave)
            else:
                with pytest.raises(cml.SealError, match="was replaced, but may be lost"):
                    cml.seal(regression_file, path, model_id="second", enclave=enclave)
                assert cml.inspect_sealed(path).model_id == "second"
        assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(regression_file: Path, run_python: RunPython, tmp_path: Path) -> None:
    path = tmp_path / "model.sealed"
    cml.seal(regression_file, path)
    before = path.read_bytes()
    code = """
import resource, sys
import confidential_ml as cml
from confidential_ml.owner import sign_model
enclave = cml.Enclave()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    cml.seal(sys.argv[1], sys.argv[2], enclave=enclave)
except cml.SealError as error:
    print(type(error).__name__, error)
"""
    result = run_python(code, regression_file, path)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(r"SealError .*cannot be written: File too large", result.stdout)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_killed_while_sealing_in_a_loop(
    regression_file: Path, classifier_file: Path, enclave: cml.Enclave, tmp_path: Path
) -> None:
    path = tmp_path / "model.sealed"
    code = """
import sys, confidential_ml as cml
enclave = cml.Enclave()
while True:
    for model in sys.argv[1:3]:
        cml.seal(model, sys.argv[3], enclave=enclave)
        print("sealed", flush=True)
"""
    rng = random.Random(2)
    for _ in range(5):
        command = [sys.executable, "-W", "ignore", "-c", code, str(regression_file), str(classifier_file), str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"sealed\n"
            time.sleep(rng.random() * 0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
            assert model.info.n_groups in (1, 3)
    # What a killed process was writing may lie about, hidden; it never takes the place of the file.
    assert all(found == path or found.match(".confidential_ml-*.tmp") for found in tmp_path.iterdir())
    cml.seal(regression_file, path, enclave=enclave)
    assert list(tmp_path.iterdir()) == [path]


# ---- the fuse key of the simulated machine --------------------------------------------------------------------------


def needs_a_fuse_key(enclave: cml.Enclave) -> None:
    if enclave.identity.platform == "openenclave":
        pytest.skip("SGX has a fuse key of its own")


@pytest.mark.parametrize("given", ["", "00", "zz" * 32, "0" * 63, "0" * 65, "\uff10" * 64])
def test_fuse_keys_that_are_refused(given: str, enclave: cml.Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_a_fuse_key(enclave)
    monkeypatch.setenv("CONFIDENTIAL_ML_SIMULATION_FUSE_KEY", given)
    with pytest.raises(cml.EnclaveError, match="does not hold a fuse key") as caught:
        cml.Enclave()
    assert not given or given not in str(caught.value)


def test_the_fuse_key_is_made_once_for_its_owner_only(
    enclave: cml.Enclave, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_a_fuse_key(enclave)
    from confidential_ml import simulation

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(simulation.fuse_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert set(keys) == {simulation.fuse_key()}
    file = tmp_path / "confidential_ml" / "simulation-fuse-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]
    file.write_text("not a key")
    with pytest.raises(cml.EnclaveError, match="does not hold a fuse key"):
        simulation.fuse_key()
    file.unlink()
    file.mkdir()
    with pytest.raises(cml.EnclaveError, match="cannot be read or made"):
        simulation.fuse_key()


def test_fuse_keys_in_files_that_are_refused(
    enclave: cml.Enclave, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_a_fuse_key(enclave)
    from confidential_ml import simulation

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "confidential_ml" / "simulation-fuse-key"
    simulation.fuse_key()
    for mode in (0o640, 0o604, 0o610, 0o666):
        file.chmod(mode)
        with pytest.raises(cml.EnclaveError, match="chmod 600"):
            simulation.fuse_key()
    file.chmod(0o600)
    simulation.fuse_key()
    os.truncate(file, 1 << 40)
    with pytest.raises(cml.EnclaveError, match="does not hold a fuse key"):
        simulation.fuse_key()
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(cml.EnclaveError, match="not a regular file"):
        simulation.fuse_key()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_fuse_key_is_made_where_there_are_no_hard_links(
    number: int, enclave: cml.Enclave, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_a_fuse_key(enclave)
    from confidential_ml import simulation

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "link", refuse)
    key = simulation.fuse_key()
    assert simulation.fuse_key() == key
    (file,) = (tmp_path / "confidential_ml").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_user_without_a_home_is_told_what_to_set(enclave: cml.Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_a_fuse_key(enclave)
    from confidential_ml import simulation

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.delenv("XDG_STATE_HOME")
    with pytest.raises(cml.EnclaveError, match="set XDG_STATE_HOME"):
        simulation.fuse_key()
