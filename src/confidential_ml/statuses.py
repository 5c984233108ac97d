"""What an enclave's statuses mean, for those who have no extension module: the same as in host/status_table.cpp."""

from __future__ import annotations

from typing import NamedTuple

from confidential_ml.errors import (
    ConfidentialMLError,
    DamagedSealedModelError,
    EnclaveError,
    InvalidInputError,
    ModelFormatError,
    RequestUnreadableError,
    SealError,
    UnsupportedVersionError,
    WrongEnclaveError,
)

__all__ = ["MEANINGS", "UNKNOWN", "Meaning", "error_of"]


class Meaning(NamedTuple):
    """An exception and what it says."""

    exception: type[ConfidentialMLError]
    sentence: str


# Numbers are those of common/status.h; a test compares them, classes and sentences with the C++ table.
MEANINGS = {
    101: Meaning(
        EnclaveError,
        "the enclave refused the sizes of a call; the library and its enclave image do not match, reinstall "
        "the package",
    ),
    102: Meaning(EnclaveError, "the enclave has not been started; make a new Enclave"),
    103: Meaning(EnclaveError, "the enclave has been started already; make a new Enclave"),
    104: Meaning(
        EnclaveError,
        "the enclave's heap is too small for this; unload models you do not need or raise NumHeapPages in "
        "enclave.conf and build again",
    ),
    105: Meaning(EnclaveError, "the enclave failed in a way that should not happen; please report it"),
    106: Meaning(EnclaveError, "the model is not loaded (any more); load the sealed file again"),
    107: Meaning(EnclaveError, "the enclave holds 256 models, its limit; close those you do not need"),
    108: Meaning(EnclaveError, "the enclave's answer does not fit; the library and its enclave image do not match"),
    201: Meaning(
        EnclaveError,
        "this CPU lacks AVX2, FMA, AES-NI or PCLMULQDQ, for which the enclave was built; use another machine,"
        " or for simulation build with CONFIDENTIAL_ML_INSTRUCTION_SET=portable",
    ),
    202: Meaning(EnclaveError, "the platform gave no random bytes; try again"),
    203: Meaning(SealError, "the platform gave no sealing key; check that SGX and its driver work on this machine"),
    204: Meaning(EnclaveError, "libcrypto failed inside the enclave; rebuild the package"),
    205: Meaning(
        EnclaveError,
        "the enclave refused its start-up input; a simulation needs a fuse key of 32 bytes, SGX takes none",
    ),
    206: Meaning(
        EnclaveError,
        "the platform gave no evidence; check that the DCAP quote provider and the quoting enclave are installed and "
        "work (docs/building.md)",
    ),
    301: Meaning(ModelFormatError, "this is no flat model (docs/formats.md); export it with confidential_ml"),
    302: Meaning(
        ModelFormatError,
        "the flat model has a format version this enclave does not read; export it again with this release",
    ),
    303: Meaning(ModelFormatError, "the flat model is cut off or has bytes left over; export it again"),
    304: Meaning(
        ModelFormatError,
        "the model is over a limit of docs/formats.md (size, trees, nodes, features, groups, rounds); train a"
        " smaller one",
    ),
    305: Meaning(ModelFormatError, "the flat model names a booster this enclave does not know"),
    306: Meaning(ModelFormatError, "the flat model names an objective this enclave does not know"),
    307: Meaning(ModelFormatError, "the flat model's leaf vectors do not fit its groups; export it again"),
    308: Meaning(ModelFormatError, "the flat model's rounds do not cover its trees in order; export it again"),
    309: Meaning(ModelFormatError, "a tree of the flat model breaks a rule of docs/formats.md 1.3; export it again"),
    310: Meaning(ModelFormatError, "a tree is deeper than 4096 levels; train with max_depth or max_leaves"),
    311: Meaning(
        ModelFormatError,
        "a category set of the flat model breaks a rule of docs/formats.md; export it again",
    ),
    312: Meaning(ModelFormatError, "the model contains a number that is not finite; train it again"),
    313: Meaning(
        ModelFormatError,
        "base_score has no margin under the model's objective (logistic: 0 to 1; log links: not negative)",
    ),
    314: Meaning(
        ModelFormatError,
        "the model would take more memory in the enclave than a limit of docs/formats.md allows; train a smaller one",
    ),
    401: Meaning(DamagedSealedModelError, "this is not a sealed model; make one with confidential_ml.seal"),
    402: Meaning(
        DamagedSealedModelError,
        "the sealed model is damaged: bytes were changed, lost or added; restore the file or seal again",
    ),
    403: Meaning(
        UnsupportedVersionError,
        "the sealed model has a format version this enclave does not read; use the release that sealed it",
    ),
    404: Meaning(
        WrongEnclaveError,
        "the model was sealed on another platform (simulation, openenclave-simulation and openenclave do not "
        "open each other's files); seal it again here",
    ),
    405: Meaning(
        WrongEnclaveError,
        "the model was sealed by a newer version of the enclave (higher ISV SVN); install that version",
    ),
    406: Meaning(
        WrongEnclaveError,
        "the model was sealed by another enclave or on another machine; seal it again with this one",
    ),
    407: Meaning(
        InvalidInputError,
        "a model id has 1 to 64 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit",
    ),
    408: Meaning(InvalidInputError, "the sealing policy must be 'mrenclave' or 'mrsigner'"),
    409: Meaning(SealError, "the owner's signature is not over this model, version and id; sign them again"),
    501: Meaning(InvalidInputError, "the rows do not match the model's features or are too many for one call"),
    502: Meaning(InvalidInputError, "iteration_range is outside the model's boosting rounds"),
    503: Meaning(InvalidInputError, "base_margin must hold one value per row and group"),
    601: Meaning(
        RequestUnreadableError,
        "the enclave cannot read the request: it was changed on the way, sent twice, or encrypted to a key that the "
        "enclave does not have; get new evidence and send it again",
    ),
    602: Meaning(
        EnclaveError,
        "the enclave opened the request but its fields are not those of docs/protocol.md; client and enclave do not "
        "match",
    ),
    603: Meaning(EnclaveError, "the answer does not fit the size that the request named for it; name a larger one"),
}
UNKNOWN = Meaning(
    EnclaveError,
    "the enclave answered with a status this library does not know; the library and its image do not match",
)


def error_of(status: int) -> ConfidentialMLError:
    """The error to raise for a status other than 0."""
    meaning = MEANINGS.get(status, UNKNOWN)
    return meaning.exception(meaning.sentence)
