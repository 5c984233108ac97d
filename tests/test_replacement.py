"""Files that take the place of others: what killed writers leave over is removed, and nothing that is in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from confidential_ml.replacement import replacing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is nothing removed")

WRITE_AND_WAIT = """
import sys
from pathlib import Path
from confidential_ml.replacement import replacing
with replacing(Path(sys.argv[1]), mode=0o600) as file:
    file.write(b"half a mod")
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


def write(path: Path, content: bytes = b"new") -> None:
    with replacing(path, mode=0o600) as file:
        file.write(content)


def writer(path: Path) -> subprocess.Popen[bytes]:
    """A process in the middle of writing."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "model"
    process = writer(target)
    (left,) = tmp_path.iterdir()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert left.read_bytes() == b"half a mod"
    write(tmp_path / "another")
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_what_a_writer_is_writing_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "model"
    process = writer(target)
    write(target)
    assert len(list(tmp_path.iterdir())) == 2
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert target.read_bytes() == b"half a mod"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    zeros = "0" * 16
    names = [f".confidential_ml-{zeros}.tmp.old", f".confidential_ml-{zeros}0.tmp", ".confidential_ml-notes.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"somebody's")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.write_bytes(b"somebody's")
    (tmp_path / f".confidential_ml-{zeros}.tmp").symlink_to(elsewhere)
    (tmp_path / f".confidential_ml-{'1' * 16}.tmp").mkdir()
    os.mkfifo(tmp_path / f".confidential_ml-{'2' * 16}.tmp")
    before = sorted(tmp_path.iterdir())
    write(tmp_path / "model")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "model"])
    assert elsewhere.read_bytes() == b"somebody's"


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and locking it a new file looks dead to others."""
    import fcntl

    real = fcntl.flock
    removed: list[Path] = []

    def flock(file: int, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write(tmp_path / "model")
    assert len(removed) == 1
    assert (tmp_path / "model").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_file_made_again_after_two_took_it_for_dead_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One remover opens a file, another removes it, its writer makes it again: then the first one gets its lock."""
    import fcntl

    dead = tmp_path / f".confidential_ml-{'3' * 16}.tmp"
    dead.write_bytes(b"not locked yet")
    real = fcntl.flock
    calls: list[int] = []

    def flock(file: int, operation: int) -> None:
        if not calls:
            dead.unlink()
            dead.write_bytes(b"made again")
        calls.append(operation)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write(tmp_path / "model")
    assert calls[0] == fcntl.LOCK_EX | fcntl.LOCK_NB
    assert dead.read_bytes() == b"made again"


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = WRITE_AND_WAIT.split("with")[0] + (
        "for number in range(150):\n"
        "    with replacing(Path(sys.argv[1]), mode=0o600) as file:\n"
        "        file.write(b'whole' * 100)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path / f"{n % 2}"]) for n in range(4)]
    for process in processes:
        assert process.wait(120) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert all(path.read_bytes() == b"whole" * 100 for path in tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "model", b"old")

    def fail() -> None:
        with replacing(tmp_path / "model", mode=0o600) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "model").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_where_no_file_can_be_the_error_names_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "missing" / "model", mode=0o600):
        pass
    assert caught.value.filename == str(tmp_path / "missing" / "model")


def test_the_mode_is_as_asked_for(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        for mode, expected in ((0o600, 0o600), (0o666, 0o644)):
            with replacing(tmp_path / "file", mode=mode):
                pass
            assert (tmp_path / "file").stat().st_mode & 0o777 == expected
    finally:
        os.umask(former)
