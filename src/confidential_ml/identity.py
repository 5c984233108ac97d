"""Who an enclave is."""

from __future__ import annotations

from dataclasses import dataclass

from confidential_ml import card


@dataclass(frozen=True)
class EnclaveIdentity:
    """Who an enclave is.

    Attributes
    ----------
    platform
        ``"simulation"``, ``"openenclave-simulation"`` or ``"openenclave"``.
    mrenclave, mrsigner
        Measurement of the image and of its signer, SHA-256 in hexadecimal (Intel SDM vol. 3D, 38.4).
    isv_prod_id, isv_svn
        Product id and security version of the image.
    debug
        True if the image is signed for a debugger, which may read the enclave's memory. That of a simulation can be
        read in any case, and its evidence says so.
    """

    platform: str
    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int
    debug: bool

    @property
    def protects(self) -> bool:
        """Whether this enclave keeps anything from its host: SGX, and not a debug enclave."""
        return self.platform == "openenclave" and not self.debug

    def _repr_html_(self) -> str:
        return card.of_enclave("Identity of an enclave", self, [])
