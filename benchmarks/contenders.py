"""The libraries compared: how each converts a model once, loads it and predicts.

Imported by name when used: a library without a wheel for this Python is left out of the run, not a reason to fail.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from benchmarks.models import FloatArray, TrainedModel

Predictor = Callable[[FloatArray], npt.NDArray[Any]]

OURS = "confidential_ml"
REFERENCE = "xgboost"


class CannotRunError(Exception):
    """The library has no way to run this model; the message says why."""


class Contender(Protocol):
    """A library that runs models.

    Attributes
    ----------
    name
        As the report calls it.
    distributions
        The packages whose versions decide whether a converted model is still good.
    call
        What is timed, for the report.
    """

    name: str
    distributions: tuple[str, ...]
    call: str

    def artifact(self, model: TrainedModel) -> Path:
        """The file that `load` reads."""

    def prepare(self, model: TrainedModel) -> None:
        """Write the file that `load` reads; never timed as loading."""

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        """Load the file; the function returned takes float32 rows and gives what ``inplace_predict`` would."""


def versions(contender: Contender) -> dict[str, str]:
    """Versions of the contender's packages.

    Raises
    ------
    CannotRunError
        If one is not installed.
    """
    found = {}
    for name in contender.distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise CannotRunError(f"the package {name} is not installed; is there a wheel for this Python?") from None
    return found


def _converted(contender: Contender, model: TrainedModel, suffix: str) -> Path:
    tag = "-".join(versions(contender).values())
    return model.beside(f".{contender.name.replace(' ', '-')}-{tag}{suffix}")


class _ConfidentialMl(Contender):
    """The library of this repository."""

    name = OURS
    distributions = ("confidential_ml",)
    call = "ConfidentialModel.predict"

    def artifact(self, model: TrainedModel) -> Path:
        return model.beside(".sealed")

    def prepare(self, model: TrainedModel) -> None:
        cml = _ours()
        cml.seal(model.ubjson, self.artifact(model), model_id=model.name)

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        loaded = _ours().ConfidentialModel.load_sealed(self.artifact(model))

        def predict(rows: FloatArray) -> npt.NDArray[Any]:
            # One row is never split among threads; without an option the call is the one that most programs make.
            if len(rows) == 1:
                return loaded.predict(rows)  # type: ignore[no-any-return]
            return loaded.predict(rows, n_threads=threads)  # type: ignore[no-any-return]

        return predict


class _Xgboost(Contender):
    """The reference."""

    name = REFERENCE
    # Either package holds the same code; the one of the `bench` extra.
    distributions = ("xgboost-cpu",)
    call = "Booster.inplace_predict"

    def artifact(self, model: TrainedModel) -> Path:
        return model.ubjson

    def prepare(self, model: TrainedModel) -> None:
        pass

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        booster = importlib.import_module("xgboost").Booster(model_file=model.ubjson)
        booster.set_param({"nthread": threads})
        predict: Predictor = booster.inplace_predict
        return predict


class _OnnxRuntime(Contender):
    """ONNX Runtime, with the model converted by onnxmltools."""

    name = "onnxruntime"
    distributions = ("onnxruntime", "onnxmltools")
    call = "InferenceSession.run"

    def artifact(self, model: TrainedModel) -> Path:
        return _converted(self, model, ".onnx")

    def prepare(self, model: TrainedModel) -> None:
        booster = importlib.import_module("xgboost").Booster(model_file=model.ubjson)
        tensor = importlib.import_module("onnxmltools.convert.common.data_types").FloatTensorType
        convert = importlib.import_module("onnxmltools.convert").convert_xgboost
        onnx = convert(booster, initial_types=[("rows", tensor([None, booster.num_features()]))], target_opset=15)
        self.artifact(model).write_bytes(onnx.SerializeToString())

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        ort = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(str(self.artifact(model)), options, providers=["CPUExecutionProvider"])
        # A classifier's first output is the label; only the probabilities are asked for.
        wanted = [session.get_outputs()[-1].name]
        binary = model.recipe.parameters["objective"] == "binary:logistic"
        single = model.recipe.parameters["objective"] == "reg:squarederror"

        def predict(rows: FloatArray) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = session.run(wanted, {"rows": rows})[0]
            return values[:, 1] if binary else values[:, 0] if single else values

        return predict


class _Daal4py(Contender):
    """oneDAL through daal4py (scikit-learn-intelex), the model converted by its model builders."""

    name = "daal4py"
    distributions = ("scikit-learn-intelex",)
    call = "GBTDAALModel.predict or predict_proba"

    def artifact(self, model: TrainedModel) -> Path:
        return _converted(self, model, ".pickle")

    def prepare(self, model: TrainedModel) -> None:
        if model.recipe.has_categories:
            raise CannotRunError("the model builders take no categorical splits")
        booster = importlib.import_module("xgboost").Booster(model_file=model.ubjson)
        converted = importlib.import_module("daal4py.mb").convert_model(booster)
        self.artifact(model).write_bytes(pickle.dumps(converted))

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        importlib.import_module("daal4py").daalinit(threads)
        importlib.import_module("daal4py.mb")
        loaded = pickle.loads(self.artifact(model).read_bytes())  # noqa: S301 - written by prepare()
        objective = model.recipe.parameters["objective"]

        def predict(rows: FloatArray) -> npt.NDArray[Any]:
            if objective == "reg:squarederror":
                return loaded.predict(rows)  # type: ignore[no-any-return]
            values: npt.NDArray[Any] = loaded.predict_proba(rows)
            return values[:, 1] if objective == "binary:logistic" else values

        return predict


class _Tl2cgen(Contender):
    """Trees compiled to C with gcc by tl2cgen."""

    name = "tl2cgen"
    distributions = ("tl2cgen", "treelite")
    call = "Predictor.predict(DMatrix(rows))"

    def artifact(self, model: TrainedModel) -> Path:
        return _converted(self, model, ".so")

    def prepare(self, model: TrainedModel) -> None:
        if model.recipe.few_runs:
            raise CannotRunError("millions of nodes as C source are too much for a compiler")
        if not shutil.which("gcc"):
            raise CannotRunError("needs gcc")
        forest = importlib.import_module("treelite").frontend.load_xgboost_model(model.ubjson)
        files = max(1, model.recipe.rounds // 10)
        importlib.import_module("tl2cgen").export_lib(
            forest,
            toolchain="gcc",
            libpath=self.artifact(model),
            params={"parallel_comp": files},
            options=["-O2"],
        )

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        tl2cgen = importlib.import_module("tl2cgen")
        loaded = tl2cgen.Predictor(self.artifact(model), nthread=threads)
        matrix = tl2cgen.DMatrix

        def predict(rows: FloatArray) -> npt.NDArray[Any]:
            return _squeezed(loaded.predict(matrix(rows, dtype="float32")))

        return predict


class _TreeliteGtil(Contender):
    """Treelite's general tree inference library."""

    name = "treelite gtil"
    distributions = ("treelite",)
    call = "gtil.predict"

    def artifact(self, model: TrainedModel) -> Path:
        return _converted(self, model, ".treelite")

    def prepare(self, model: TrainedModel) -> None:
        importlib.import_module("treelite").frontend.load_xgboost_model(model.ubjson).serialize(self.artifact(model))

    def load(self, model: TrainedModel, threads: int) -> Predictor:
        treelite = importlib.import_module("treelite")
        loaded = treelite.Model.deserialize(self.artifact(model))
        call = treelite.gtil.predict

        def predict(rows: FloatArray) -> npt.NDArray[Any]:
            return _squeezed(call(loaded, rows, nthread=threads))

        return predict


def _squeezed(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(rows, 1, 1) to (rows,) and (rows, 1, classes) to (rows, classes), without a copy."""
    return values.reshape(-1) if values.shape[-1] == 1 else values.reshape(len(values), -1)


def _ours() -> Any:
    cml = importlib.import_module(OURS)
    warnings.simplefilter("ignore", cml.SimulationWarning)
    return cml


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (_ConfidentialMl(), _Xgboost(), _OnnxRuntime(), _Daal4py(), _Tl2cgen(), _TreeliteGtil())
}


def why(error: BaseException) -> str:
    """The first line of an error, short enough for a footnote."""
    if isinstance(error, CannotRunError):
        return str(error)
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"
