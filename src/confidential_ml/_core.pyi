"""The extension module: the untrusted host side of the enclave (host/module.cpp)."""

from collections.abc import Callable
from types import NotImplementedType
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

platform: str
image_name: str
takes_fuse_key: bool
thread_count: int

class IdentityFields(TypedDict):
    platform: int
    isv_prod_id: int
    isv_svn: int
    debug: bool
    mrenclave: bytes
    mrsigner: bytes

class ModelFields(TypedDict):
    booster: int
    objective: int
    n_features: int
    n_groups: int
    n_columns: int
    n_rounds: int
    n_trees: int
    n_nodes: int
    depth: int
    leaf_size: int
    policy: int
    plan_size: int
    digest: bytes
    owner: bytes
    model_version: int
    model_id: str

def wait_for_calls() -> None: ...

class Enclave:
    def __init__(self, image: bytes, platform_input: bytes) -> None: ...
    def identity(self) -> IdentityFields: ...
    def seal_model(self, model: bytes, model_id: bytes, policy: int, model_version: int, owner: bytes) -> bytes: ...
    def evidence(self, nonce: bytes) -> bytes: ...
    def new_epoch(self) -> None: ...
    def end_former_epoch(self) -> None: ...
    def check_request(self, header: bytes, request_size: int) -> None: ...
    def answer_request(self, request: bytes | memoryview) -> bytes: ...
    def import_model(self, request: bytes) -> tuple[bytes, bytes]: ...
    def load_model(self, sealed: bytes, owned: list[int] | None = None) -> int: ...
    def unload_model(self, handle: int) -> None: ...
    def describe_model(self, handle: int) -> ModelFields: ...
    def predict(
        self,
        handle: int,
        rows: npt.NDArray[np.float32],
        group_count: int,
        columns: int,
        node_count: int,
        output_margin: bool,
        round_begin: int,
        round_end: int,
        base_margin: npt.NDArray[np.float32] | None,
        thread_count: int,
    ) -> npt.NDArray[np.float32]: ...
    def row_function(
        self, handle: int, feature_count: int, group_count: int, columns: int, node_count: int
    ) -> Callable[[Any], npt.NDArray[np.float32] | NotImplementedType]: ...
    def close(self) -> None: ...
    @property
    def is_open(self) -> bool: ...
