"""Enclaves and models from first use to the end of the process: closing, collecting, forking, threads, exit."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import os
import pickle
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

import confidential_ml as cml
from confidential_ml import _core
from confidential_ml.enclave import _OpenEnclaves, default_enclave

if TYPE_CHECKING:
    from conftest import RunPython

Array = npt.NDArray[Any]

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
ROWS: Array = np.load(FIXTURES / "X.npy")

# How often things are done that go wrong once in a while, if they go wrong. Each makes an enclave.
FORKS, FORKS_WHILE_LOADING, EXITS = (20, 60, 12) if _core.platform == "simulation" else (3, 3, 2)

# A sanitizer's own allocator has locks too, which it does not look after at fork().
NOT_SANITIZED = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer does not survive fork() beside threads"
)


@pytest.fixture(scope="module")
def path(regression_file: Path, enclave: cml.Enclave, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed regression model."""
    path = tmp_path_factory.mktemp("lifecycle") / "regression.sealed"
    cml.seal(regression_file, path, model_id="regression", enclave=enclave)
    return path


@pytest.fixture
def model(path: Path, enclave: cml.Enclave) -> cml.ConfidentialModel:
    """A model in the shared enclave that a test may close."""
    return cml.ConfidentialModel.load_sealed(path, enclave=enclave)


@pytest.fixture(scope="module")
def expected(path: Path, enclave: cml.Enclave) -> Array:
    with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
        return model.predict(ROWS)


@pytest.fixture(scope="module")
def spare(enclave: cml.Enclave) -> cml.Enclave:
    """A second enclave of this process, open until `test_an_enclave_closes_once_and_for_all`."""
    return cml.Enclave()


# ---- closing --------------------------------------------------------------------------------------------------------


def test_a_closed_model_predicts_no_more(model: cml.ConfidentialModel) -> None:
    assert model.is_open
    model.close()
    assert not model.is_open
    with pytest.raises(cml.EnclaveError, match="model is closed"), model:
        raise AssertionError
    with pytest.raises(cml.EnclaveError, match="model is closed"):
        model.predict(ROWS)
    model.close()
    assert model.info.model_id == "regression"
    assert ", closed>" in repr(model)
    assert "(closed)" in model._repr_html_()


def test_with_closes_a_model_whatever_happens(path: Path, enclave: cml.Enclave, expected: Array) -> None:
    with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
        np.testing.assert_array_equal(model.predict(ROWS), expected)
    assert not model.is_open
    with pytest.raises(KeyError), cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
        raise KeyError
    assert not model.is_open
    assert enclave.is_open


def test_two_enclaves_have_models_of_their_own(
    path: Path, classifier_file: Path, enclave: cml.Enclave, spare: cml.Enclave, expected: Array, tmp_path: Path
) -> None:
    assert spare is not enclave
    assert spare.identity == enclave.identity
    cml.seal(classifier_file, tmp_path / "classifier.sealed", enclave=spare)
    # One file opens in both: the image and the machine are the same.
    one = cml.ConfidentialModel.load_sealed(path, enclave=enclave)
    two = cml.ConfidentialModel.load_sealed(tmp_path / "classifier.sealed", enclave=spare)
    assert one.enclave is enclave
    assert two.enclave is spare
    np.testing.assert_array_equal(one.predict(ROWS), expected)
    assert two.predict(ROWS).shape == (len(ROWS), 3)
    unknown = 10**9
    for core in (enclave._core, spare._core):
        with pytest.raises(cml.EnclaveError, match="not loaded"):
            core.describe_model(unknown)
    one.close()
    assert two.predict(ROWS).shape == (len(ROWS), 3)
    two.close()


def test_calls_without_an_enclave_share_one(path: Path, enclave: cml.Enclave) -> None:
    with cml.ConfidentialModel.load_sealed(path) as one, cml.ConfidentialModel.load_sealed(path) as two:
        assert one.enclave is two.enclave is enclave is default_enclave()


def test_an_enclave_closes_once_and_for_all(path: Path, spare: cml.Enclave, enclave: cml.Enclave) -> None:
    model = cml.ConfidentialModel.load_sealed(path, enclave=spare)
    with spare:
        assert spare.is_open
        assert model.is_open
    assert not spare.is_open
    assert not model.is_open
    assert ", closed>" in repr(spare)
    assert "(closed)" in spare._repr_html_()
    spare.close()
    with pytest.raises(cml.EnclaveError, match="enclave is closed"), spare:
        raise AssertionError
    for attempt in (
        lambda: model.predict(ROWS),
        lambda: cml.ConfidentialModel.load_sealed(path, enclave=spare),
        lambda: cml.seal(FIXTURES / "xgb-3.4.1.reg.ubj", path.with_name("never"), enclave=spare),
    ):
        with pytest.raises(cml.EnclaveError, match="closed"):
            attempt()
    assert not path.with_name("never").exists()
    model.close()
    assert enclave.is_open


@pytest.mark.parametrize("where", ["hook", "handler"])
def test_the_shared_enclave_is_not_waited_for_by_who_makes_it(where: str, path: Path, run_python: RunPython) -> None:
    code = """
import signal, sys, threading, time, warnings
import confidential_ml as cml
from confidential_ml.enclave import default_enclave
refusals = []
def use(*_, **__):
    try:
        default_enclave()
    except cml.EnclaveError as error:
        refusals.append(str(error))
if sys.argv[1] == "hook":
    warnings.showwarning = use
    warnings.simplefilter("always")
else:
    real = cml.Enclave.__init__
    def interrupted(self):
        signal.raise_signal(signal.SIGUSR1)
        real(self)
    signal.signal(signal.SIGUSR1, use)
    cml.Enclave.__init__ = interrupted
enclave = default_enclave()
assert enclave.is_open and default_enclave() is enclave
assert len(refusals) == 1 and "being made" in refusals[0], refusals
"""
    if _core.platform == "openenclave":
        pytest.skip("not a simulation")
    result = run_python(code, where)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_enclave_that_was_made_is_closed_at_the_end() -> None:
    class Made:
        def __init__(self) -> None:
            self._core = self
            self.closed = False

        def close(self) -> None:
            self.closed = True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            register: Any = _OpenEnclaves()
            added: list[Made] = []

            def add_until_ended(register: Any = register, added: list[Made] = added) -> None:
                with contextlib.suppress(cml.EnclaveError):
                    while True:
                        one = Made()
                        register.add(one)
                        added.append(one)

            threads = [threading.Thread(target=add_until_ended) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.01)
            register.close()
            for thread in threads:
                thread.join()
            assert all(one.closed for one in added)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("attempt", [copy.copy, copy.deepcopy, pickle.dumps])
def test_nothing_is_copied_or_pickled(attempt: Any, model: cml.ConfidentialModel, enclave: cml.Enclave) -> None:
    for thing in (model, enclave):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(thing)
    assert model.predict(ROWS).shape == (len(ROWS),)
    model.close()


# ---- garbage --------------------------------------------------------------------------------------------------------


def test_a_model_nobody_holds_is_unloaded(path: Path, enclave: cml.Enclave) -> None:
    model = cml.ConfidentialModel.load_sealed(path, enclave=enclave)
    handle, gone = model._handle, weakref.ref(model)
    assert enclave._core.describe_model(handle)["model_id"] == "regression"
    del model
    gc.collect()
    assert gone() is None
    with pytest.raises(cml.EnclaveError, match="not loaded"):
        enclave._core.describe_model(handle)


def test_a_load_that_is_interrupted_leaves_no_model_behind(
    path: Path, enclave: cml.Enclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        """The enclave of an impatient user, whose signal comes as the call returns."""

        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def load_model(self, *arguments: Any) -> int:
            core.load_model(*arguments)
            raise KeyboardInterrupt

    core = enclave._core
    with monkeypatch.context() as patch:
        patch.setattr(enclave, "_core", Interrupted())
        for _ in range(257):  # one more than there may be
            with pytest.raises(KeyboardInterrupt):
                cml.ConfidentialModel.load_sealed(path, enclave=enclave)
    cml.ConfidentialModel.load_sealed(path, enclave=enclave).close()


def test_models_are_loaded_and_forgotten_a_thousand_times(path: Path, enclave: cml.Enclave, expected: Array) -> None:
    """Four times the number an enclave holds: each must have gone before."""
    handles = set()
    for number in range(1000):
        model = cml.ConfidentialModel.load_sealed(path, enclave=enclave)
        handles.add(model._handle)
        if number % 2:
            model.close()
        if number % 100 == 0:
            np.testing.assert_array_equal(model.predict(ROWS), expected)
        del model
    assert len(handles) == 1000  # a handle is never used twice


def test_an_enclave_holds_256_models(path: Path, enclave: cml.Enclave) -> None:
    models: list[cml.ConfidentialModel] = []

    def load_one_more() -> None:
        models.append(cml.ConfidentialModel.load_sealed(path, enclave=enclave))

    def load_too_many() -> None:
        for _ in range(257):
            load_one_more()

    with pytest.raises(cml.EnclaveError, match=r"256 models.*close"):
        load_too_many()
    assert len(models) > 200  # others share the enclave
    models.pop().close()
    cml.ConfidentialModel.load_sealed(path, enclave=enclave).close()
    for model in models:
        model.close()


def test_garbage_of_every_kind_in_a_process_of_its_own(path: Path, run_python: RunPython) -> None:
    code = """
import gc, sys, weakref
import numpy as np
import confidential_ml as cml
path = sys.argv[1]
rows = np.zeros((3, 6), np.float32)

# An enclave nobody holds ends; its models keep it.
enclave = cml.Enclave()
model = cml.ConfidentialModel.load_sealed(path, enclave=enclave)
gone = weakref.ref(enclave)
core = enclave._core
del enclave
gc.collect()
assert gone() is not None and model.predict(rows).shape == (3,)
del model
gc.collect()
assert gone() is None and not core.is_open

# A cycle goes with the collector.
enclave = cml.Enclave()
enclave.itself = enclave
core = enclave._core
del enclave
gc.collect()
assert not core.is_open

# The shared enclave is made again after it was closed.
one = cml.ConfidentialModel.load_sealed(path)
one.enclave.close()
two = cml.ConfidentialModel.load_sealed(path)
assert two.enclave is not one.enclave and not one.is_open and two.predict(rows).shape == (3,)
"""
    result = run_python(code, path)
    assert (result.returncode, result.stderr) == (0, "")


def test_enclaves_that_come_and_go_leave_nothing_behind(run_python: RunPython) -> None:
    if _core.platform != "simulation":
        pytest.skip("how the simulation unloads its image")
    code = """
import ctypes
import confidential_ml as cml

class Heap(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks used free keep".split()
    ]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Heap

def bytes_in_use():
    heap = mallinfo2()
    return heap.used + heap.hblkhd

for _ in range(5):
    cml.Enclave().close()
before = bytes_in_use()
for _ in range(100):
    cml.Enclave().close()
print((bytes_in_use() - before) // 100)
"""
    result = run_python(code)
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout) < 1024  # bytes for each


# ---- the end of the process -----------------------------------------------------------------------------------------

PRELUDE = """
import os, sys, threading, time
import numpy as np
import confidential_ml as cml
path = sys.argv[1]
rows = np.random.default_rng(0).normal(size=(20000, 6)).astype(np.float32)
model = cml.ConfidentialModel.load_sealed(path)
expected = model.predict(rows)
"""


def daemon_threads(work: str) -> str:
    """Source of what starts four threads that do it for ever, and then waits a while."""
    return f"""
def for_ever():
    while True:{work}
for _ in range(4):
    threading.Thread(target=for_ever, daemon=True).start()
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise KeyError('the end')", 1),
        ("import atexit; atexit.register(lambda: model.predict(rows)); atexit.register(model.predict, rows)", 0),
        ("other = cml.Enclave(); second = cml.ConfidentialModel.load_sealed(path, enclave=other)", 0),
        ("sys.modules['kept'] = model; del model", 0),
        ("class A: pass\na = A(); a.a = a; a.model = model; a.enclave = model.enclave", 0),
        ("model.enclave.close()", 0),
        ("os._exit(0)", 0),
    ],
)
def test_ends_with_models_open(ending: str, code: int, path: Path, run_python: RunPython) -> None:
    result = run_python(PRELUDE + ending, path)
    assert result.returncode == code, result.stderr
    assert ("KeyError: 'the end'" in result.stderr) == (code == 1)
    assert code == 1 or result.stderr == ""


# What threads may be doing when the interpreter ends.
ENDLESS = {
    "predict": """
        model.predict(rows)
""",
    "load": """
        with cml.ConfidentialModel.load_sealed(path) as another:
            another.predict(rows[:5])
""",
    "make enclaves": """
        with cml.Enclave() as enclave, cml.ConfidentialModel.load_sealed(path, enclave=enclave) as another:
            another.predict(rows[:5])
""",
}


@pytest.mark.parametrize("work", ENDLESS)
def test_ends_while_daemon_threads_go_on(work: str, path: Path, run_python: RunPython) -> None:
    for number in range(EXITS):
        result = run_python(PRELUDE + daemon_threads(ENDLESS[work]), path, 0.01 * (number % 4), timeout=60)
        assert (result.returncode, result.stderr) == (0, "")


def test_other_errors_of_threads_at_exit_are_reported(path: Path, run_python: RunPython) -> None:
    code = """
import atexit
def waits_then_fails(error):
    ending.wait()
    raise error
ending = threading.Event()
threads = [threading.Thread(target=waits_then_fails, args=(error,), daemon=True) for error in (
    cml.EnclaveError("of a closed enclave"), ValueError("of their own"))]
for thread in threads:
    thread.start()
def end():
    ending.set()
    [thread.join() for thread in threads]
atexit._run_exitfuncs()  # what confidential_ml does at exit is done
end()
"""
    result = run_python(PRELUDE + code, path)
    assert result.returncode == 0
    assert "ValueError: of their own" in result.stderr
    assert "of a closed enclave" not in result.stderr


def test_is_killed_by_a_signal_while_predicting(path: Path, run_python: RunPython) -> None:
    # Python leaves SIGINT ignored if it was when it started, as it is in a shell's background.
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
while True: model.predict(rows)
"""
    result = run_python(PRELUDE + code, path)
    assert result.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in result.stderr
    assert "Fatal" not in result.stderr


@pytest.mark.parametrize("what", ["model", "model.enclave"])
def test_a_signal_handler_closes_what_it_interrupts(path: Path, run_python: RunPython, what: str) -> None:
    code = f"""
import signal
faulthandler.dump_traceback_later(50, exit=True)
many = np.tile(rows, (2_000_000 // len(rows), 1))
calls = []
def handler(_, frame):
    if frame.f_code.co_name != "predict":  # between two calls
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return
    calls.append(1)
    {what}.close()
    {what}.close()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
while not calls:
    found = model.predict(many, n_threads=1)  # goes on to its end
assert np.array_equal(found[:len(rows)], expected)
assert not {what}.is_open
try:
    model.predict(rows)
except cml.EnclaveError:
    print("closed")
"""
    result = run_python(PRELUDE.replace("import ", "import faulthandler, ", 1) + code, path, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "closed\n", "")


def test_a_signal_handler_closes_what_is_interrupted_below_another(path: Path, run_python: RunPython) -> None:
    code = """
import signal
faulthandler.dump_traceback_later(50, exit=True)
many = np.tile(rows, (2_000_000 // len(rows), 1))
other = cml.ConfidentialModel.load_sealed(path, enclave=cml.Enclave())
calls = []
def handler(_, frame):
    if frame.f_code.co_name != "predict":  # between two calls
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return
    calls.append(1)
    if len(calls) == 1:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        while len(calls) == 1:
            other.predict(many, n_threads=1)
    else:
        model.close()
        model.enclave.close()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
while not calls:
    found = model.predict(many, n_threads=1)
assert np.array_equal(found[:len(rows)], expected)
assert not model.enclave.is_open
assert np.array_equal(other.predict(rows), expected)
print("closed")
"""
    result = run_python(PRELUDE.replace("import ", "import faulthandler, ", 1) + code, path, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "closed\n", "")


# ---- fork -----------------------------------------------------------------------------------------------------------

IN_THE_CHILD = """
import signal, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

def check_in_child():
    signal.alarm(30)  # instead of hanging
    assert not model.is_open and not model.enclave.is_open
    for attempt in (
        lambda: model.predict(rows),
        lambda: cml.ConfidentialModel.load_sealed(path, enclave=model.enclave),
        lambda: cml.seal(sys.argv[2], path + ".never", enclave=model.enclave),
    ):
        try:
            attempt()
        except cml.EnclaveError as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError("an enclave of the parent was used")
    mine = cml.ConfidentialModel.load_sealed(path)
    assert mine.enclave is not model.enclave
    assert np.array_equal(mine.predict(rows), expected)
    model.close()
    model.enclave.close()
    assert np.array_equal(mine.predict(rows), expected)
"""

FORK = """
def fork(leave):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check_in_child()
            code = 0
        finally:
            leave(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_makes_an_enclave_of_its_own(path: Path, regression_file: Path, run_python: RunPython) -> None:
    code = """
for leave in (os._exit, sys.exit):  # with and without the end of the interpreter
    for _ in range(3):
        assert fork(leave) == 0
        assert np.array_equal(model.predict(rows), expected)
assert model.is_open and model.enclave.is_open
"""
    result = run_python(PRELUDE + IN_THE_CHILD + FORK + code, path, regression_file, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_daemon_that_closes_all_descriptors_makes_an_enclave_of_its_own(path: Path, run_python: RunPython) -> None:
    if _core.platform != "simulation":
        pytest.skip("the simulation's loader works with descriptors")
    code = """
if (child := os.fork()) == 0:
    os.closerange(3, 1024)
    np.testing.assert_array_equal(cml.ConfidentialModel.load_sealed(path).predict(rows), expected)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    result = run_python(PRELUDE + code, path)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_image_is_not_taken_for_another_whose_descriptor_is_gone(
    path: Path, regression_file: Path, image_path: Callable[[str], Path], run_python: RunPython, tmp_path: Path
) -> None:
    if _core.platform != "simulation":
        pytest.skip("the simulation's loader works with descriptors")
    code = """
first = cml.Enclave()
for number in os.listdir("/proc/self/fd"):
    try:
        if "confidential_ml" in os.readlink(f"/proc/self/fd/{number}"):
            os.close(int(number))
    except OSError:
        pass
second = cml.Enclave(sys.argv[2])
assert first.identity != second.identity
for enclave in (first, second):
    info = cml.seal(sys.argv[3], sys.argv[4], enclave=enclave)
    assert info.mrenclave == enclave.identity.mrenclave
    cml.ConfidentialModel.load_sealed(sys.argv[4], enclave=enclave).predict(rows)
"""
    result = run_python(PRELUDE + code, path, image_path("rebuilt"), regression_file, tmp_path / "m.sealed")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_grandchild_too(path: Path, regression_file: Path, run_python: RunPython) -> None:
    code = """
def child_and_grandchild():
    global model
    check_in_child()
    model = cml.ConfidentialModel.load_sealed(path)
    pid = os.fork()
    if pid == 0:
        check_in_child()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
pid = os.fork()
if pid == 0:
    child_and_grandchild()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert np.array_equal(model.predict(rows), expected)
"""
    result = run_python(PRELUDE + IN_THE_CHILD + code, path, regression_file)
    assert (result.returncode, result.stderr) == (0, "")


@NOT_SANITIZED
def test_forks_while_threads_predict(path: Path, regression_file: Path, run_python: RunPython) -> None:
    """A lock that a thread of the parent holds at that moment stays locked in the child: nobody may wait for it."""
    code = f"""
stop = threading.Event()
failures = []
def predict_until_stopped(n):
    while not stop.is_set():
        if not np.array_equal(model.predict(rows[:n]), expected[:n]):
            failures.append("other bits")
threads = [threading.Thread(target=predict_until_stopped, args=(n,)) for n in (1, 1, 1, 1, 10, 20000)]
for thread in threads:
    thread.start()
codes = [fork(os._exit if number % 2 else sys.exit) for number in range({FORKS})]
stop.set()
for thread in threads:
    thread.join()
assert codes == [0] * {FORKS}, codes
assert failures == []
"""
    result = run_python(PRELUDE + IN_THE_CHILD + FORK + code, path, regression_file, timeout=200)
    assert (result.returncode, result.stderr) == (0, "")


@NOT_SANITIZED
def test_forks_while_threads_make_and_close_enclaves(path: Path, regression_file: Path, run_python: RunPython) -> None:
    """The dynamic linker and libcrypto have locks too."""
    code = f"""
stop = threading.Event()
def make_until_stopped():
    while not stop.is_set():
        cml.Enclave().close()
threads = [threading.Thread(target=make_until_stopped) for _ in range(3)]
for thread in threads:
    thread.start()
codes = [fork(os._exit) for _ in range({FORKS_WHILE_LOADING})]
stop.set()
for thread in threads:
    thread.join()
assert codes == [0] * {FORKS_WHILE_LOADING}, codes
"""
    result = run_python(PRELUDE + IN_THE_CHILD + FORK + code, path, regression_file, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")


def test_workers_of_multiprocessing(path: Path, regression_file: Path, run_python: RunPython) -> None:
    code = """
import multiprocessing
def work(number):
    mine = cml.ConfidentialModel.load_sealed(path)
    return mine.predict(rows[number : number + 10]).tobytes()
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        parts = pool.map(work, range(0, 100, 10))
    assert b"".join(parts) == expected[:100].tobytes()
    assert np.array_equal(model.predict(rows), expected)
"""
    result = run_python(PRELUDE + IN_THE_CHILD + code, path, regression_file, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


# ---- threads --------------------------------------------------------------------------------------------------------


def test_more_threads_than_the_enclave_has_slots(model: cml.ConfidentialModel, expected: Array) -> None:
    n_threads = 3 * _core.thread_count
    barrier = threading.Barrier(n_threads)

    def work(number: int) -> int:
        barrier.wait(60)
        rng = np.random.default_rng(number)
        for _ in range(30):
            begin = int(rng.integers(0, len(ROWS)))
            np.testing.assert_array_equal(model.predict(ROWS[begin:]), expected[begin:] if begin < len(ROWS) else [])
        return number

    with ThreadPoolExecutor(n_threads) as pool:
        assert sorted(pool.map(work, range(n_threads))) == list(range(n_threads))
    model.close()


def test_threads_load_predict_seal_and_close_at_once(
    path: Path, regression_file: Path, enclave: cml.Enclave, expected: Array, tmp_path: Path
) -> None:
    def work(number: int) -> None:
        mine = tmp_path / f"{number}.sealed"
        for _ in range(5):
            cml.seal(regression_file, mine, enclave=enclave)
            with cml.ConfidentialModel.load_sealed(mine, enclave=enclave) as model:
                np.testing.assert_array_equal(model.predict(ROWS), expected)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))


def large_batch(model: cml.ConfidentialModel, seconds: float) -> Array:
    """Rows that keep `predict` busy for about so long, in many blocks."""
    rows: Array = np.tile(ROWS, (2000, 1))
    started = time.perf_counter()
    model.predict(rows)
    took = time.perf_counter() - started
    return np.tile(rows, (min(max(1, round(seconds / took)), 8), 1))


def test_other_threads_run_during_a_prediction(model: cml.ConfidentialModel) -> None:
    rows = large_batch(model, 0.4)
    # Holding the interpreter lock would make one pause as long as the prediction, every time; a busy machine makes
    # one now and then.
    shares = [longest_pause_during_a_prediction(model, rows) for _ in range(5)]
    assert min(shares) < 0.5, shares
    model.close()


def longest_pause_during_a_prediction(model: cml.ConfidentialModel, rows: Array) -> float:
    """As a share of the time that the prediction took."""
    done = threading.Event()

    def predict() -> None:
        model.predict(rows)
        done.set()

    worker = threading.Thread(target=predict)
    started = last = time.perf_counter()
    worker.start()
    longest = 0.0
    while not done.is_set():
        time.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    worker.join()
    return longest / (last - started)


def test_one_row_is_predicted_while_long_predictions_take_every_slot(
    model: cml.ConfidentialModel, expected: Array
) -> None:
    """Short predictions keep the interpreter lock and long ones do not: all come to an end, with their bits."""
    rows = large_batch(model, 0.2)
    n_alone = 0
    with ThreadPoolExecutor(2 * _core.thread_count) as pool:
        under_way = [pool.submit(model.predict, rows, n_threads=1) for _ in range(2 * _core.thread_count)]
        while not all(one.done() for one in under_way):
            number = n_alone % len(ROWS)
            np.testing.assert_array_equal(model.predict(ROWS[number : number + 1]), expected[number : number + 1])
            n_alone += 1
        for one in under_way:
            np.testing.assert_array_equal(one.result(), np.tile(expected, len(rows) // len(ROWS)))
    assert n_alone > 0
    model.close()


@pytest.mark.parametrize("closed", ["model", "enclave"])
def test_a_prediction_under_way_is_finished_before_its_model_or_enclave_goes(
    closed: str, path: Path, run_python: RunPython
) -> None:
    """However many blocks it is made of: docs of `ConfidentialModel.close` and `Enclave.close`."""
    code = """
big = np.tile(rows, (80, 1))
whole = np.tile(expected, 80)
inside = threading.Event()
results = []
def predict():
    inside.set()
    try:
        results.append(model.predict(big))
    except cml.EnclaveError as error:
        results.append(error)
started = time.perf_counter()
model.predict(big)
took = time.perf_counter() - started
threads = [threading.Thread(target=predict) for _ in range(2)]
for thread in threads:
    thread.start()
inside.wait()
time.sleep(took / 3)
(model if sys.argv[2] == "model" else model.enclave).close()
for thread in threads:
    thread.join()
assert all(isinstance(result, np.ndarray) and np.array_equal(result, whole) for result in results), results
assert not model.is_open
"""
    result = run_python(PRELUDE + code, path, closed)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["model", "enclave"])
def test_closing_while_many_threads_predict(closed: str, path: Path, run_python: RunPython) -> None:
    code = """
small, wanted = rows[:500], expected[:500]
wrong, finished = [], []
def predict_until_closed():
    try:
        while True:
            if not np.array_equal(model.predict(small), wanted):
                wrong.append("other bits")
    except cml.EnclaveError:
        finished.append(1)
threads = [threading.Thread(target=predict_until_closed) for _ in range(20)]
for thread in threads:
    thread.start()
time.sleep(0.05)
(model if sys.argv[2] == "model" else model.enclave).close()
for thread in threads:
    thread.join(30)
assert len(finished) == 20 and not wrong
"""
    result = run_python(PRELUDE + code, path, closed)
    assert (result.returncode, result.stderr) == (0, "")


def test_batches_larger_than_a_block_equal_their_rows(model: cml.ConfidentialModel, expected: Array) -> None:
    """Blocks are of at most 256 KiB: 10,752 rows of six features, a multiple of 256."""
    n_rows = 60_003
    rows = np.resize(ROWS, (n_rows, ROWS.shape[1]))
    np.testing.assert_array_equal(model.predict(rows), np.resize(expected, n_rows))
    margins = np.arange(n_rows, dtype=np.float32) / 1024
    shifted = model.predict(rows, base_margin=margins)
    for begin in (0, 10_747, 10_750, 10_752, 21_502, n_rows - 5):
        part = slice(begin, begin + 5)
        np.testing.assert_array_equal(shifted[part], model.predict(rows[part], base_margin=margins[part]))
    model.close()


def test_large_batches_of_several_outputs(classifier: cml.ConfidentialModel) -> None:
    rows = np.resize(ROWS, (180_000, ROWS.shape[1]))
    once = classifier.predict(ROWS)
    np.testing.assert_array_equal(classifier.predict(rows), np.resize(once, (180_000, 3)))


def test_what_the_caller_set_in_the_floating_point_unit_stays_outside(
    classifier: cml.ConfidentialModel, enclave: cml.Enclave
) -> None:
    """The transform of softprob rounds at every step."""
    fenv = ctypes.CDLL("libm.so.6")
    nearest, upward = 0x000, 0x800
    expected = classifier.predict(ROWS)
    single = np.concatenate([classifier.predict(row.reshape(1, -1)) for row in ROWS])
    assert fenv.fesetround(upward) == 0
    try:
        actual = classifier.predict(ROWS, n_threads=1)
        rows_one_by_one = [classifier.predict(row.reshape(1, -1)) for row in ROWS]
        kept = fenv.fegetround()
    finally:
        fenv.fesetround(nearest)
    assert kept == upward
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.concatenate(rows_one_by_one), single)


# ---- how they look --------------------------------------------------------------------------------------------------


def test_relative_paths(regression_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cml.seal(regression_file, "model.sealed")
    assert cml.inspect_sealed("model.sealed").model_id == "model"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with cml.ConfidentialModel.load_sealed("../model.sealed") as model:
        assert model.predict(ROWS).shape == (len(ROWS),)
    cml.seal(regression_file, Path("../second.sealed"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "model.sealed", "second.sealed"]


def test_making_a_simulated_enclave_warns_at_the_callers_line(path: Path, run_python: RunPython) -> None:
    if _core.platform == "openenclave":
        pytest.skip("not a simulation")
    for statement in (
        "cml.Enclave()",
        "cml.ConfidentialModel.load_sealed(sys.argv[1])",
        "cml.seal(sys.argv[2], sys.argv[1] + '.second')",
    ):
        code = f"""
import sys, warnings
import confidential_ml as cml
def use():
    {statement}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    use()
(one,) = caught
assert one.category is cml.SimulationWarning and "protects nothing" in str(one.message)
print(one.filename, one.lineno)
"""
        result = run_python(code, path, FIXTURES / "xgb-3.4.1.reg.ubj")
        assert (result.returncode, result.stderr) == (0, "")
        assert (statement, result.stdout.strip()) == (statement, "<string> 5")


def test_a_simulation_warning_turned_error_makes_no_enclave(path: Path, run_python: RunPython) -> None:
    code = """
import sys, warnings
import confidential_ml as cml
warnings.simplefilter("error", cml.SimulationWarning)
try:
    cml.ConfidentialModel.load_sealed(sys.argv[1])
except cml.SimulationWarning:
    print("refused")
"""
    if _core.platform == "openenclave":
        pytest.skip("not a simulation")
    result = run_python(code, path)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "refused", "")


@pytest.mark.parametrize(
    "section", ["providers=b\n[b]\nnull=c\n[c]\nactivate=1\n", "alg_section=b\n[b]\ndefault_properties=fips=yes\n"]
)
def test_nothing_is_read_from_a_configuration_of_openssl(
    section: str, path: Path, run_python: RunPython, tmp_path: Path
) -> None:
    """Neither by libcrypto in the enclave nor by the loader's; what these forbid is all that they need."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text("openssl_conf=a\n[a]\n" + section)
    result = run_python(PRELUDE, path, env={"OPENSSL_CONF": str(configuration)})
    assert (result.returncode, result.stderr) == (0, "")


def test_images_that_are_none(tmp_path: Path, enclave: cml.Enclave) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(bytes(5000))
    names: list[Path | str] = [
        tmp_path / "absent",
        tmp_path,
        tmp_path / "empty",
        tmp_path / "other",
        str(tmp_path / "n\udcffn"),
    ]
    for image in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cml.SimulationWarning)
            with pytest.raises(cml.EnclaveError, match="could not be created from"):
                cml.Enclave(image)


def test_a_changed_image_is_refused(tmp_path: Path, enclave: cml.Enclave) -> None:
    if _core.platform != "simulation":
        pytest.skip("Open Enclave in simulation does not measure; SGX does")
    image = Path(cml.__file__).parent / _core.image_name
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed").write_bytes(data)
    with pytest.raises(cml.EnclaveError, match="could not be created from"):
        cml.Enclave(tmp_path / "changed")
