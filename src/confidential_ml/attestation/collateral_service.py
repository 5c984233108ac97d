"""Fetches the collateral of a quote from Intel's PCS or from a PCCS (docs/attestation.md 3).

Source: Intel, "SGX and TDX Provisioning Certification Service API", version 4. A PCCS, as in Intel's
SGXDataCenterAttestationPrimitives, answers the same requests, and has the root CA's CRL too.
"""

from __future__ import annotations

import datetime
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from confidential_ml.attestation import der
from confidential_ml.attestation.collateral import Collateral
from confidential_ml.attestation.collateral_cache import CollateralCache, default_directory
from confidential_ml.attestation.files import StrPath
from confidential_ml.attestation.http_get import HttpGet, checked_url
from confidential_ml.attestation.pck_extension import SGX_EXTENSION_OID, parse_pck_extension
from confidential_ml.attestation.quote import parse_evidence
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.service_responses import SignedDocument, crl, issuer_chain, signed_document, unusable
from confidential_ml.attestation.verify import checked_now
from confidential_ml.errors import AttestationError, CollateralError, InvalidInputError
from confidential_ml.regular_file import checked_path

__all__ = ["INTEL_PCS_URL", "INTEL_ROOT_CA_CRL_URL", "CollateralService"]

INTEL_PCS_URL = "https://api.trustedservices.intel.com/sgx/certification/v4"
INTEL_ROOT_CA_CRL_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_API = "/sgx/certification/v4"
_MAX_TIMEOUT, _MAX_RETRIES = 3600.0, 20
_PCK_CA = re.compile(r"SGX PCK (Platform|Processor) CA\Z")
_PCK_CRL_CHAIN = ("SGX-PCK-CRL-Issuer-Chain",)
_QE_IDENTITY_CHAIN = ("SGX-Enclave-Identity-Issuer-Chain",)
_TCB_INFO_CHAIN = ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")  # the second in version 3, and in some caches


def _system_clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class CollateralService:
    """Fetches collateral and keeps it on disk. Safe to use from any number of threads and processes.

    Nobody needs to trust what it fetches: :func:`confidential_ml.attestation.verify` checks every signature and date.

    Parameters
    ----------
    url
        Intel's PCS, or a PCCS such as ``https://host:8081/sgx/certification/v4``; http:// to this very machine only.
    root_ca_crl_url
        Where the CRL of the root CA is. By default Intel's distribution point with Intel's PCS, ``url/rootcacrl`` with
        any other; a cache that has none needs `INTEL_ROOT_CA_CRL_URL` here.
    ca_file
        PEM file of the only certificates by which the host of `url` is believed, for a PCCS: its own self-signed one,
        or its CA's. By default the CAs of the system.
    cache_directory
        Where collateral is kept; by default a directory among this user's caches.
    max_age
        Collateral that is older is fetched again even if it has not expired, so that a revocation or a TCB recovery
        is not missed for longer. Zero keeps nothing.
    timeout
        Seconds for one attempt at one of the four documents, from connecting to the last byte; looking up the name of
        the host does not count.
    retries
        Attempts after the first at each document, if the connection fails or is cut, and for HTTP 429 and 5xx. The
        waits between them double, from a second on; a ``Retry-After`` of up to a minute is kept to.
    update
        ``"early"``: TCB info and QE identity from the day on which a TCB recovery is disclosed; ``"standard"``: later,
        when operators have had time to update.
    clock, sleep
        For tests, and for programs with another notion of waiting.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used.
    """

    def __init__(
        self,
        url: str = INTEL_PCS_URL,
        *,
        root_ca_crl_url: str | None = None,
        ca_file: StrPath | None = None,
        cache_directory: StrPath | None = None,
        max_age: datetime.timedelta = datetime.timedelta(days=1),
        timeout: float = 30.0,
        retries: int = 3,
        update: Literal["standard", "early"] = "standard",
        clock: Callable[[], datetime.datetime] = _system_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = _checked_service(url)
        self._root_ca_crl_url = _checked_root_ca_crl(root_ca_crl_url, self._url)
        _check_numbers(max_age, timeout, retries)
        if update not in ("standard", "early"):
            raise InvalidInputError("update must be 'standard' or 'early'")
        self._is_early, self._clock = update == "early", clock
        self._cache = _cache(cache_directory, max_age)

        context = None if ca_file is None else _context_of(ca_file)

        def asks(one: str) -> HttpGet:
            # A PCCS's own certificate says nothing about another host.
            is_service = urllib.parse.urlsplit(one).netloc == urllib.parse.urlsplit(self._url).netloc
            trusted = context if is_service else None
            return HttpGet(one, context=trusted, timeout=timeout, retries=retries, clock=clock, sleep=sleep)

        self._service, self._root_service = asks(self._url), asks(self._root_ca_crl_url)

    def collateral(self, quote: bytes, *, refresh: bool = False) -> Collateral:
        """What `quote` is verified with: from disk if there and neither too old nor expired, else from the service.

        Parameters
        ----------
        quote
            A quote, or evidence: what follows the quote does not matter here.
        refresh
            Ask the service even if there is collateral on disk, and replace that.

        Returns
        -------
        Collateral
            Well formed, but not verified.

        Raises
        ------
        CollateralError
            If it cannot be fetched; says which part, from where, and what to do.
        AttestationError
            If the quote is malformed, or does not say which machine it is of.
        InvalidInputError
            If the quote is not bytes, or the clock has no time zone.
        """
        fmspc, ca = _machine_of(quote)
        key = "\n".join((self._url, self._root_ca_crl_url, str(self._is_early), fmspc, ca))
        now = checked_now(self._clock())
        if self._cache and not refresh:
            kept = self._cache.read(key, now)
            if kept is not None:
                return kept
        collateral = self._fetch(fmspc, ca)
        if self._cache:
            self._cache.write(key, collateral, now)
        return collateral

    def _fetch(self, fmspc: str, ca: str) -> Collateral:
        tcb_info = self._tcb_info(fmspc)
        qe_identity = self._qe_identity()
        pck_crl, pck_crl_issuer_chain = self._pck_crl(ca)
        try:
            return Collateral(
                pck_crl_issuer_chain=pck_crl_issuer_chain,
                root_ca_crl=self._root_ca_crl(),
                pck_crl=pck_crl,
                tcb_info_issuer_chain=tcb_info.chain,
                tcb_info=tcb_info.text,
                tcb_info_signature=tcb_info.signature,
                qe_identity_issuer_chain=qe_identity.chain,
                qe_identity=qe_identity.text,
                qe_identity_signature=qe_identity.signature,
            )
        except AttestationError as error:
            raise CollateralError(f"what {self._url} responds cannot be used: {error.sentence}; ask another") from None

    def _tcb_info(self, fmspc: str) -> SignedDocument:
        what = f"the TCB info of FMSPC {fmspc}"
        early = "&update=early" if self._is_early else ""
        response = self._service.get(f"{self._url}/tcb?fmspc={fmspc}{early}", what)
        document = signed_document(response, "tcbInfo", _TCB_INFO_CHAIN, what)
        if not document.says("fmspc", fmspc):
            raise unusable(response, what, "it is for another FMSPC")
        return document

    def _qe_identity(self) -> SignedDocument:
        what = "the QE identity"
        early = "?update=early" if self._is_early else ""
        response = self._service.get(f"{self._url}/qe/identity{early}", what)
        document = signed_document(response, "enclaveIdentity", _QE_IDENTITY_CHAIN, what)
        if not document.says("id", "QE"):
            raise unusable(response, what, "it is of another enclave")
        return document

    def _pck_crl(self, ca: str) -> tuple[bytes, str]:
        what = f"the CRL of the PCK {ca} CA"
        response = self._service.get(f"{self._url}/pckcrl?ca={ca.lower()}&encoding=der", what)
        return crl(response, f"SGX PCK {ca} CA", what), issuer_chain(response, _PCK_CRL_CHAIN, what)

    def _root_ca_crl(self) -> bytes:
        what = "the CRL of the root CA"
        return crl(self._root_service.get(self._root_ca_crl_url, what), "SGX Root CA", what)


def _machine_of(quote: bytes) -> tuple[str, str]:
    """FMSPC, in hexadecimal as Intel writes it, and the CA of the PCK certificate in a quote: Platform or Processor."""
    pem = parse_evidence(quote).quote.certificates.removesuffix(b"\0")
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        (issuer,) = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        found = [one for one in leaf.extensions if one.oid.dotted_string == SGX_EXTENSION_OID]
        # Whatever cryptography does not know comes as its bytes.
        extension = parse_pck_extension(found[0].value.value if found else b"")
    except der.DerError as error:
        raise AttestationError(
            Reason.PCK_EXTENSION, f"the SGX extension of the PCK certificate is missing or malformed: {error}"
        ) from None
    except Exception:  # whatever a library raises on hostile bytes
        raise AttestationError(Reason.CHAIN_INVALID, "the quote holds a PCK certificate that cannot be read") from None
    ca = _PCK_CA.search(str(issuer.value))
    if ca is None:
        raise AttestationError(
            Reason.CERTIFICATE_ROLE, "the PCK certificate is issued by neither a Platform nor a Processor CA"
        )
    return extension.fmspc.upper(), ca[1]


def _checked_service(url: str) -> str:
    checked = checked_url(url, "url")
    if not checked.endswith(_API):
        raise InvalidInputError(f"url must end in {_API}, the version of the API that is spoken here: {checked}")
    return checked


def _checked_root_ca_crl(url: str | None, service: str) -> str:
    if url is not None:
        return checked_url(url, "root_ca_crl_url")
    is_intel = urllib.parse.urlsplit(service).hostname == urllib.parse.urlsplit(INTEL_PCS_URL).hostname
    return INTEL_ROOT_CA_CRL_URL if is_intel else f"{service}/rootcacrl"


def _check_numbers(max_age: object, timeout: float, retries: object) -> None:
    if not isinstance(max_age, datetime.timedelta) or max_age < datetime.timedelta(0):
        raise InvalidInputError("max_age must be a timedelta of zero or more")
    if type(timeout) not in (int, float) or not 0 < timeout <= _MAX_TIMEOUT:
        raise InvalidInputError(f"timeout must be a number of seconds over 0, at most {_MAX_TIMEOUT:.0f}")
    if type(retries) is not int or not 0 <= retries <= _MAX_RETRIES:
        raise InvalidInputError(f"retries must be an integer from 0 to {_MAX_RETRIES}")


def _cache(directory: StrPath | None, max_age: datetime.timedelta) -> CollateralCache | None:
    where = default_directory() if directory is None else Path(checked_path(directory, "cache_directory"))
    return CollateralCache(where, max_age) if where is not None and max_age else None


def _context_of(ca_file: StrPath) -> ssl.SSLContext:
    where = checked_path(ca_file, "ca_file")
    try:
        context = ssl.create_default_context(cafile=where)
    except OSError as error:
        raise InvalidInputError(
            f"ca_file {where} cannot be read: {error.strerror or error}; give PEM certificates"
        ) from error
    # Signatures, dates and the host's name are checked as ever. But a server's own certificate may be what is trusted,
    # and it need not have every extension of RFC 5280, which the one made by PCCS's instructions has not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
