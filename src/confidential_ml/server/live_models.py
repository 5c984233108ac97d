"""The loaded models: which one a request means, and that it stays until the last request is done with it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from types import TracebackType

from confidential_ml.model import ConfidentialModel
from confidential_ml.server.errors import HttpError
from confidential_ml.server.store import StoredModel

__all__ = ["Lease", "LiveModel", "LiveModels", "ModelEntry"]


@dataclass(frozen=True)
class ModelEntry:
    """What is told of a loaded model (docs/http.md 2.3)."""

    model_id: str
    version: int
    model_digest: str
    owner: str | None
    objective: str
    booster: str
    n_features: int
    n_groups: int
    n_values: int
    n_trees: int
    n_rounds: int
    policy: str
    current: bool


class LiveModel:
    """A model that is loaded.

    Attributes
    ----------
    entry
        What is told of it.
    model
        To predict with, while it is leased.
    stored
        Its file.
    """

    def __init__(self, model: ConfidentialModel, stored: StoredModel) -> None:
        info = model.info
        self.model = model
        self.stored = stored
        self.entry = ModelEntry(
            model_id=info.model_id,
            version=info.model_version,
            model_digest=info.model_digest,
            owner=info.owner,
            objective=info.objective,
            booster=info.booster,
            n_features=info.n_features,
            n_groups=info.n_groups,
            n_values=info.n_values,
            n_trees=info.n_trees,
            n_rounds=info.n_rounds,
            policy=info.policy,
            current=False,
        )
        self.lease_count = 0
        self.is_retired = False


class Lease:
    """Keeps a model usable inside ``with``, though it be deleted meanwhile."""

    __slots__ = ("_live", "_mutex")

    def __init__(self, live: LiveModel, mutex: threading.Lock) -> None:
        self._live = live
        self._mutex = mutex

    def __enter__(self) -> LiveModel:
        return self._live

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._mutex:
            self._live.lease_count -= 1
            is_last = self._live.is_retired and self._live.lease_count == 0
        if is_last:
            self._live.model.close()


class LiveModels:
    """The models that are loaded, by id and version. Safe to use from any number of threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._versions: dict[str, dict[int, LiveModel]] = {}
        self._current: dict[str, LiveModel] = {}
        self.most_nodes_per_byte = 0.0
        """Of a row, over all models: what a request of so many bytes can at most mean for the engine."""

    def __len__(self) -> int:
        with self._mutex:
            return sum(map(len, self._versions.values()))

    def entries(self) -> list[ModelEntry]:
        """All of them, by id, then version."""
        with self._mutex:
            return [
                versions[version].entry
                for _, versions in sorted(self._versions.items())
                for version in sorted(versions)
            ]

    def add(self, live: LiveModel) -> ModelEntry:
        """Let requests have a model."""
        with self._mutex:
            self._versions.setdefault(live.entry.model_id, {})[live.entry.version] = live
            self._refresh(live.entry.model_id)
            return live.entry

    def find(self, model_id: str, version: int | None) -> list[LiveModel]:
        """The models of an id, or the one of that version."""
        with self._mutex:
            versions = self._versions.get(model_id, {})
            return [live for number, live in sorted(versions.items()) if version in (None, number)]

    def retire(self, models: list[LiveModel]) -> None:
        """Let no new request have them, and close each when its last request is done."""
        idle = []
        with self._mutex:
            for live in models:
                versions = self._versions.get(live.entry.model_id, {})
                if versions.get(live.entry.version) is not live:
                    continue
                del versions[live.entry.version]
                live.is_retired = True
                if live.lease_count == 0:
                    idle.append(live)
                self._refresh(live.entry.model_id)
        for live in idle:
            live.model.close()

    def lease(self, model_id: str | None, version: int | None) -> Lease:
        """The model that a request means, to be used in ``with``.

        Parameters
        ----------
        model_id
            None for the only one there is.
        version
            None for the current one.

        Raises
        ------
        HttpError
            404 ``model_unknown``, 400 ``model_id_missing``.
        """
        with self._mutex:
            if model_id is None:
                if len(self._current) > 1:
                    raise HttpError(400, "model_id_missing", "there are several models; name one with model_id")
                model_id = next(iter(self._current), "")
            versions = self._versions.get(model_id, {})
            live = self._current.get(model_id) if version is None else versions.get(version)
            if live is None:
                problem = "there is no such model or version" if self._current else "no model is loaded"
                raise HttpError(404, "model_unknown", f"{problem}; GET /models lists those that are loaded")
            live.lease_count += 1
        return Lease(live, self._mutex)

    def close(self) -> None:
        """Retire all."""
        with self._mutex:
            models = [live for versions in self._versions.values() for live in versions.values()]
        self.retire(models)

    def _refresh(self, model_id: str) -> None:
        """Say anew which version is current."""
        infos = [live.model.info for versions in self._versions.values() for live in versions.values()]
        self.most_nodes_per_byte = max((info.n_nodes / (4 * info.n_features) for info in infos), default=0.0)
        versions = self._versions[model_id]
        if not versions:
            del self._versions[model_id]
            self._current.pop(model_id, None)
        else:
            highest = max(versions)
            for version, live in versions.items():
                live.entry = replace(live.entry, current=version == highest)
            self._current[model_id] = versions[highest]
