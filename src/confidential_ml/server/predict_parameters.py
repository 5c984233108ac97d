"""What a request asks for besides its rows: which model, and margins or values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from confidential_ml.server.errors import HttpError

__all__ = ["PredictParameters", "from_query"]

MAX_VERSION = (1 << 64) - 1


class PredictParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of a prediction; in JSON, and as the query of a URL where the body has no room for them."""

    model_id: str | msgspec.UnsetType = msgspec.UNSET
    version: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    output_margin: bool = False

    @property
    def id_or_none(self) -> str | None:
        """The model's id, None if the only model is meant."""
        return None if self.model_id is msgspec.UNSET else self.model_id

    @property
    def version_or_none(self) -> int | None:
        """The model's version, None if the current one is meant."""
        return None if self.version is msgspec.UNSET else self.version


def from_query(query: Iterable[tuple[str, str]]) -> PredictParameters:
    """Read the parameters from the query of a URL.

    Parameters
    ----------
    query
        Names and values, as ``request.query_params.multi_items()`` gives them.

    Raises
    ------
    HttpError
        400 ``parameter_invalid`` for unknown names, a name twice, and values of another type.
    """
    pairs = list(query)
    given = dict(pairs)
    if len(given) != len(pairs):
        raise HttpError(400, "parameter_invalid", "the query has a parameter twice; leave one of them out")
    try:
        return msgspec.convert(given, PredictParameters, strict=False)
    except msgspec.ValidationError:
        raise HttpError(
            400,
            "parameter_invalid",
            "the query may have model_id, version (a whole number) and output_margin (true or false), nothing else",
        ) from None
