"""A host with a reference enclave, and a transport to it that tests can listen to and tamper with."""

from __future__ import annotations

import datetime
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from reference_enclave import MRENCLAVE, ReferenceEnclave

from confidential_ml.attestation import ANY, AttestationPolicy, Collateral
from confidential_ml.endpoint import ConfidentialEndpoint
from confidential_ml.protocol import Operation
from confidential_ml.remote import RemoteModel
from confidential_ml.simulated_platform import SimulatedPlatform

POLICY = AttestationPolicy(mrenclave=MRENCLAVE.hex(), allow_debug=True, model_digest=ANY)


class Clock:
    """A time that passes when told to: a date for clients, seconds for endpoints."""

    def __init__(self) -> None:
        self.now = datetime.datetime.now(datetime.UTC)

    def __call__(self) -> datetime.datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def advance(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


def exit_code_of_child(check: Callable[[], object]) -> int:
    """0 if `check` passes in a forked child; 1 if it raises; minus a signal's number if it hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Host:
    """An endpoint, the enclave behind it, and the wire to it."""

    def __init__(self, platform: SimulatedPlatform, enclave: ReferenceEnclave, **options: Any) -> None:
        self.clock = Clock()
        self.platform = platform
        self.enclave = enclave
        self.options: dict[str, Any] = {"collateral": self.collateral, "clock": self.clock.seconds, **options}
        self.endpoint = ConfidentialEndpoint(enclave, **self.options)
        self.wire: list[tuple[bytes, bytes]] = []
        self.change_message: Callable[[bytes], bytes] = lambda message: message
        self.change_reply: Callable[[bytes, bytes], bytes] = lambda reply, _: reply
        self._collateral: Collateral | None = None

    def collateral(self) -> Collateral:
        if self._collateral is None:
            self._collateral = self.platform.collateral(self.clock.now)
        return self._collateral

    def forget_collateral(self) -> None:
        self._collateral = None

    def transport(self, message: bytes) -> bytes:
        sent = self.change_message(message)
        reply = self.change_reply(self.endpoint.handle(sent), sent)
        self.wire.append((message, reply))
        return reply

    def client(self, policy: AttestationPolicy = POLICY, **options: Any) -> RemoteModel:
        return RemoteModel(self.transport, policy, root=self.platform.root, clock=self.clock, **options)

    def restart(self) -> None:
        """Replace the enclave by another run of it, as after a crash of the host."""
        self.enclave = self.enclave.restarted()
        self.endpoint = ConfidentialEndpoint(self.enclave, **self.options)

    def sent(self, operation: Operation) -> list[bytes]:
        """Messages of a kind that clients have sent."""
        prefix = b"\1\0" + operation.to_bytes(2, "little")
        return [message for message, _ in self.wire if message.startswith(prefix)]
