"""The enclave's half of docs/protocol.md in plain Python, written from the document alone. For tests; protects nothing.

It shares no code with `confidential_ml` but the simulated platform, which signs its quotes: layouts are written down
here a second time, and HPKE is pyhpke's. Its "model" is a trivial function of the rows.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, PyHPKEError

from confidential_ml.errors import RequestUnreadableError
from confidential_ml.simulated_platform import SimulatedPlatform

ROOT = Path(__file__).parent.parent
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
MRENCLAVE = hashlib.sha256(b"reference enclave of the tests").digest()
MRSIGNER = hashlib.sha256(b"signer of the reference enclave").digest()
Floats = npt.NDArray[np.float32]

UNKNOWN_MODEL, REQUEST_INVALID, ANSWER_TOO_SMALL, OWNER_SIGNATURE_WRONG = 106, 602, 603, 409
MODEL_NOT_FLAT, MODEL_ID_INVALID, POLICY_UNKNOWN = 301, 407, 408
ROWS_WRONG, ROUNDS_WRONG, MARGIN_WRONG = 501, 502, 503
MAX_CONTENT = {1: "kMaxRequestContent", 2: "kMaxProvisionContent"}
CONFIG_LIMITS = [
    *["kMaxFlatModelSize", "kMaxFeatures", "kMaxGroups", "kMaxRounds", "kMaxTrees", "kMaxNodes", "kMaxDepth"],
    *["kMaxCategoryWords", "kMaxQuantiles", "kMaxPlanSize", "kMaxColumnBytes", "kMaxModelIdSize", "kMaxLoadedModels"],
    *["kMaxPredictBytes", "kMaxRequestContent", "kMaxAnswerContent", "kMaxEpochRequests"],
]


class StatusError(Exception):
    """A failure after the request was opened."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@functools.cache
def limits() -> dict[str, int]:
    """The numbers of common/limits.h."""
    found: dict[str, int] = {}
    text = (ROOT / "common" / "limits.h").read_text(encoding="utf-8")
    for name, expression in re.findall(r"inline constexpr \w+ (k\w+) =\s*([^;]+);", text):
        plain = re.sub(r"uint64_t\{(\d+)\}|(\d+)u\b", r"\1\2", expression)
        found[name] = eval(plain, {"__builtins__": {}}, dict(found))
    return found


def config_digest() -> bytes:
    values = [limits()[name].to_bytes(8, "little") for name in CONFIG_LIMITS]
    return hashlib.sha256(b"confidential_ml config v1" + b"".join(values)).digest()


def anybody_can_sign(key: bytes) -> bool:
    """Whether eight times the point of a public key is the neutral one, or its y is not reduced."""
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime)
    y = int.from_bytes(key, "little") % 2**255
    if y >= prime:
        return True
    for _ in range(3):  # double it: x^2 follows from -x^2 + y^2 = 1 + d x^2 y^2
        x2 = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
        y = (y * y + x2) * pow(2 - y * y + x2, -1, prime) % prime
    return y == 1


def is_bucket(size: int) -> bool:
    return any(size == m << k for m in range(8, 16) for k in range(5, 40))


def smallest_bucket(size: int) -> int:
    return min(m << k for m in range(8, 16) for k in range(5, 40) if m << k >= size)


@dataclass(frozen=True)
class ReferenceModel:
    """Something that maps rows to numbers, with the shape and rules of a model."""

    model_id: str = "reference"
    features: int = 4
    groups: int = 1
    values: int = 1
    rounds: int = 10
    is_linear: bool = False
    owner: bytes = bytes(32)
    version: int = 0
    flat: bytes = b""

    @property
    def digest(self) -> bytes:
        # Not over id, owner and version, which are no part of a flat model.
        shape = f"{self.features} {self.groups} {self.values} {self.rounds} {self.is_linear}"
        return hashlib.sha256(self.flat or shape.encode()).digest()

    def predict(self, rows: Floats, margins: Floats | None, output_margin: bool, begin: int, end: int) -> Floats:
        if self.is_linear:
            if begin != 0:
                raise StatusError(ROUNDS_WRONG)
            begin, end = 0, self.rounds
        end = end or self.rounds
        if begin > end or end > self.rounds:
            raise StatusError(ROUNDS_WRONG)
        start = np.full((len(rows), self.groups), 0.5, np.float32) if margins is None else margins
        with np.errstate(all="ignore"):
            sums = np.where(np.isnan(rows), np.float32(0), rows).sum(axis=1, keepdims=True) * np.float32(end - begin)
            found: Floats = (start + sums * np.arange(1, self.groups + 1, dtype=np.float32)).astype(np.float32)
        if output_margin:
            return found
        if self.values == self.groups:
            return (found * 2).astype(np.float32)
        best: Floats = np.argmax(found, axis=1, keepdims=True).astype(np.float32)
        return best


class Epoch:
    """A key, what was opened with it, and the part of the claims that names it."""

    def __init__(self, number: int, instance: bytes, receipt_key: Ed25519PrivateKey) -> None:
        self.private_key = X25519PrivateKey.generate()
        self.salt = os.urandom(16)
        self.opened: set[bytes] = set()
        self.part = b"".join(
            (
                b"CMLCLAIM",
                struct.pack("<IHHHHI", 1, 1, 1, 1, 0, 0),
                struct.pack("<Q", number),
                instance,
                config_digest(),
                self.private_key.public_key().public_bytes_raw(),
                receipt_key.public_key().public_bytes_raw(),
            )
        )
        self.number = number
        self.digest = hashlib.sha256(self.part).digest()
        self.key_id = self.digest[:8]


@dataclass
class Opened:
    """A request that could be opened."""

    message: bytes
    epoch: Epoch
    kind: int
    digest: bytes
    answer_size: int
    plaintext: bytes
    secret: bytes


class ReferenceEnclave:
    """Answers as the enclave must; see `confidential_ml.endpoint.ServingEnclave` for what a host asks of it."""

    def __init__(self, platform: SimulatedPlatform, *models: ReferenceModel, max_epoch_requests: int = 1 << 18) -> None:
        self._platform = platform
        self._lock = threading.RLock()
        self._instance = os.urandom(16)
        self._receipt_key = Ed25519PrivateKey.generate()
        self._receipt_count = 0
        self._max_epoch_requests = max_epoch_requests
        self.models = list(models)
        self.former: Epoch | None = None
        self.epoch = Epoch(1, self._instance, self._receipt_key)
        self.evidence_count = 0

    # ---- evidence and epochs

    def claims(self, nonce: bytes = b"") -> bytes:
        models = b"".join(
            struct.pack("<32s32sQ", one.digest, one.owner, one.version)
            + struct.pack("<IIIH", one.features, one.groups, one.values, len(one.model_id))
            + one.model_id.encode()
            for one in self.models
        )
        return self.epoch.part + struct.pack("<HHI", len(nonce), len(self.models), 0) + nonce + models

    def evidence(self, nonce: bytes = b"") -> bytes:
        with self._lock:
            self.evidence_count += 1
            claims = self.claims(nonce)
        body = bytearray(384)
        body[48:64] = struct.pack("<QQ", 0x7, 0x3)  # INIT, DEBUG, MODE64; x87 and SSE
        body[64:96], body[128:160] = MRENCLAVE, MRSIGNER
        body[256:260] = struct.pack("<HH", 1, 1)
        body[320:352] = hashlib.sha256(claims).digest()
        return self._platform.quote(bytes(body)) + claims

    def new_epoch(self) -> None:
        with self._lock:
            self.former, self.epoch = self.epoch, Epoch(self.epoch.number + 1, self._instance, self._receipt_key)

    def end_former_epoch(self) -> None:
        with self._lock:
            self.former = None

    # ---- requests

    def answer_request(self, request: bytes | memoryview) -> bytes:
        return self._answered(self._open(bytes(request), 1), self._predict)

    def import_model(self, request: bytes) -> tuple[bytes, bytes]:
        sealed: list[bytes] = []

        def provision(opened: Opened) -> tuple[bytes, bytes, bytes]:
            receipt, one = self._provision(opened)
            sealed.append(one)
            return b"", receipt, bytes(32)

        answer = self._answered(self._open(request, 2), provision)
        return (sealed[0] if sealed else b""), answer

    def check_request(self, header: bytes, size: int) -> None:
        if len(header) != 56:
            raise RequestUnreadableError
        self._epoch_of(header, size, int.from_bytes(header[4:6], "little"))

    def _epoch_of(self, header: bytes, request_size: int, kind: int) -> Epoch:
        size = request_size - 104 - 16
        if kind not in MAX_CONTENT or not is_bucket(size) or size > limits()[MAX_CONTENT[kind]]:
            raise RequestUnreadableError
        version, suite, found_kind, zero, key_id, digest, answer_size, zero_too = struct.unpack("<HHHH8s32sII", header)
        if (version, suite, found_kind, zero, zero_too) != (1, 1, kind, 0, 0) or (kind == 2 and digest != bytes(32)):
            raise RequestUnreadableError
        if not is_bucket(answer_size) or answer_size > min(self._longest_answer(kind, digest, size), 16 << 20):
            raise RequestUnreadableError
        with self._lock:
            epochs = [one for one in (self.epoch, self.former) if one is not None and one.key_id == key_id]
        if not epochs:
            raise RequestUnreadableError
        return epochs[0]

    def _longest_answer(self, kind: int, digest: bytes, plaintext_size: int) -> int:
        found = [(one.features, max(one.groups, one.values)) for one in self.models if one.digest == digest]
        features, columns = found[0] if found else (1, 1)
        rows = (plaintext_size - 40) // (4 * features) if kind == 1 else 0
        return max(64 << 10, smallest_bucket(392 + 4 * rows * columns))

    def _open(self, request: bytes, kind: int) -> Opened:
        header, enc, nonce = request[:56], request[56:88], request[88:104]
        if len(header) != 56:
            raise RequestUnreadableError
        epoch = self._epoch_of(header, len(request), kind)
        digest, answer_size = header[16:48], int.from_bytes(header[48:52], "little")
        info = b"confidential_ml request v1" + header + nonce + epoch.digest
        try:
            context = SUITE.create_recipient_context(enc, KEMKey.from_pyca_cryptography_key(epoch.private_key), info)
            plaintext = context.open(request[104:], header)
        except (PyHPKEError, ValueError):
            raise RequestUnreadableError from None
        self._record(epoch, enc + nonce)
        secret = context.export(b"confidential_ml answer v1", 32)
        return Opened(request, epoch, kind, digest, answer_size, plaintext, secret)

    def _record(self, epoch: Epoch, enc_and_nonce: bytes) -> None:
        mark = hashlib.sha256(epoch.salt + enc_and_nonce).digest()[:16]
        with self._lock:
            if mark in epoch.opened or len(epoch.opened) >= self._max_epoch_requests:
                raise RequestUnreadableError
            epoch.opened.add(mark)
            if epoch is self.epoch and len(epoch.opened) == self._max_epoch_requests:
                self.new_epoch()
                self.former = None

    def _answered(self, opened: Opened, act: Callable[[Opened], tuple[bytes, bytes, bytes]]) -> bytes:
        try:
            content, receipt, blind = act(opened)
            status = 0
            if 48 + len(content) + len(receipt) > opened.answer_size:
                raise StatusError(ANSWER_TOO_SMALL)
        except StatusError as error:
            status, content, receipt, blind = error.status, b"", b"", bytes(32)
        plaintext = struct.pack("<IIQ32s", status, len(receipt), len(content), blind) + content + receipt
        return self.encrypted_answer(opened, plaintext.ljust(opened.answer_size, b"\0"))

    def encrypted_answer(self, opened: Opened, plaintext: bytes) -> bytes:
        header = struct.pack("<HHI8s", 1, opened.kind, 0, opened.epoch.key_id)
        nonce = os.urandom(32)
        # HKDF (RFC 5869) of one block each.
        prk = hmac.new(opened.message[56:88] + nonce, opened.secret, "sha256").digest()
        key = hmac.new(prk, b"key\x01", "sha256").digest()
        gcm_nonce = hmac.new(prk, b"nonce\x01", "sha256").digest()[:12]
        return header + nonce + AESGCM(key).encrypt(gcm_nonce, plaintext, header)

    # ---- what is asked for

    def _predict(self, opened: Opened) -> tuple[bytes, bytes, bytes]:
        plaintext = opened.plaintext
        _check_fields(plaintext, 40)
        flags, begin, end, features, row_count, margin_size, time = struct.unpack_from("<IIIIQQQ", plaintext)
        rows_end = 40 + row_count * features * 4
        content_end = rows_end + margin_size
        _check_padding(plaintext, content_end)
        if flags > 3:
            raise StatusError(REQUEST_INVALID)
        model = next((one for one in self.models if one.digest == opened.digest), None)
        if model is None:
            raise StatusError(UNKNOWN_MODEL)
        if features != model.features:
            raise StatusError(ROWS_WRONG)
        if margin_size not in (0, row_count * model.groups * 4):
            raise StatusError(MARGIN_WRONG)
        rows = np.frombuffer(plaintext[40:rows_end], "<f4").reshape(row_count, features)
        margins = np.frombuffer(plaintext[rows_end:content_end], "<f4").reshape(-1, model.groups)
        found = model.predict(rows, margins if margin_size else None, bool(flags & 1), begin, end)
        content = found.astype("<f4").tobytes()
        if not flags & 2:
            return content, b"", bytes(32)
        blind = os.urandom(32)
        hashed = hashlib.sha256(b"confidential_ml content v1" + blind + content).digest()
        if 48 + len(content) + 344 > opened.answer_size:
            raise StatusError(ANSWER_TOO_SMALL)
        return content, self._receipt(opened, 0, time, model, hashed), blind

    def _provision(self, opened: Opened) -> tuple[bytes, bytes]:
        plaintext = opened.plaintext
        _check_fields(plaintext, 128)
        policy, zero, id_size, version, time, model_size, owner, signature = struct.unpack_from(
            "<IHHQQQ32s64s", plaintext
        )
        model_end = 128 + id_size + model_size
        _check_padding(plaintext, model_end)
        if zero:
            raise StatusError(REQUEST_INVALID)
        model_id, flat = plaintext[128 : 128 + id_size], plaintext[128 + id_size : model_end]
        if not re.fullmatch(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", model_id):
            raise StatusError(MODEL_ID_INVALID)
        if policy not in (1, 2):
            raise StatusError(POLICY_UNKNOWN)
        if not flat.startswith(b"CMLFLAT\0"):
            raise StatusError(MODEL_NOT_FLAT)
        digest = hashlib.sha256(flat).digest()
        if owner == bytes(32):
            if signature != bytes(64):
                raise StatusError(OWNER_SIGNATURE_WRONG)
        else:
            signed = digest + struct.pack("<QH", version, id_size) + model_id
            try:
                if anybody_can_sign(owner):
                    raise InvalidSignature
                key = Ed25519PublicKey.from_public_bytes(owner)
                key.verify(signature, b"confidential_ml owner v1" + signed)
            except InvalidSignature:
                raise StatusError(OWNER_SIGNATURE_WRONG) from None
        if opened.answer_size < 48 + 344:
            raise StatusError(ANSWER_TOO_SMALL)
        sealed = _sealed(policy, digest, model_id, flat, owner + signature + struct.pack("<Q", version))
        model = ReferenceModel(model_id.decode(), owner=owner, version=version, flat=flat)
        return self._receipt(opened, policy, time, model, hashlib.sha256(sealed).digest()), sealed

    def _receipt(self, opened: Opened, policy: int, time: int, model: ReferenceModel, hashed: bytes) -> bytes:
        with self._lock:
            self._receipt_count += 1
            count = self._receipt_count
        body = b"".join(
            (
                b"CMLRCPT\0",
                struct.pack("<IHH", 1, opened.kind, policy),
                self._instance,
                struct.pack("<QQQ", count, time, model.version),
                model.digest,
                model.owner,
                opened.epoch.digest,
                MRENCLAVE,
                hashlib.sha256(opened.message).digest(),
                hashed,
                bytes(32),
            )
        )
        return body + self._receipt_key.sign(b"confidential_ml receipt v1" + body)

    def restarted(self) -> ReferenceEnclave:
        """Another run of the same enclave: same models, other keys."""
        return ReferenceEnclave(self._platform, *self.models, max_epoch_requests=self._max_epoch_requests)


def _check_fields(plaintext: bytes, size: int) -> None:
    if len(plaintext) < size:
        raise StatusError(REQUEST_INVALID)


def _check_padding(plaintext: bytes, content_end: int) -> None:
    if content_end > len(plaintext) or len(plaintext) != smallest_bucket(content_end):
        raise StatusError(REQUEST_INVALID)
    if plaintext[content_end:].strip(b"\0"):
        raise StatusError(REQUEST_INVALID)


def _sealed(policy: int, digest: bytes, model_id: bytes, flat: bytes, ownership: bytes) -> bytes:
    """A file with the header of docs/formats.md 2.1; nobody can open it, its key is thrown away."""
    fields = struct.pack(
        "<HHHH32s32s32s32s32s104sQHH",
        *(policy, 1, 1, 1, MRENCLAVE, MRSIGNER, digest, os.urandom(32), os.urandom(32), ownership),
        *(len(flat), len(model_id), 1),
    )
    rest = fields + model_id + b"\0"
    start = struct.pack("<8sII", b"CMLSEAL\0", 2, 48 + len(rest))
    header = start + hashlib.sha256(start + rest).digest() + rest
    return header + AESGCM(os.urandom(32)).encrypt(bytes(12), flat, header)
