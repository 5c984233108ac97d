"""The model store: what was acknowledged stays, whatever happens; what is not its own is left alone."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from conftest import RunPython
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import confidential_ml as cml

pytest.importorskip("starlette")

import httpx
from server_process import JSON, ServerProcess, server_process, settings_for

from confidential_ml.server.store import ModelStore, StoredModel, StoreRefusalError

MAX_VERSION = (1 << 64) - 1
MODEL = Path(__file__).parent / "fixtures" / "xgboost" / "xgb-3.4.1.reg.ubj"
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]


def add(
    store: ModelStore,
    model_id: str,
    version: int,
    key: Ed25519PrivateKey | None = None,
    *,
    is_provisioned: bool = False,
) -> StoredModel:
    staged = store.stage(is_provisioned=is_provisioned)
    cml.seal(MODEL, staged.path, model_id=model_id, version=version, owner_key=key)
    return store.commit(staged)


def opened(directory: Path, max_models: int = 256, max_provisioned: int = 64) -> ModelStore:
    return ModelStore(directory / "store", max_models=max_models, max_provisioned=max_provisioned)


def keys(store: ModelStore) -> list[tuple[str, int]]:
    return [model.key for model in store.models()]


def test_models_are_there_after_a_restart_and_deleted_ones_are_not(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    for version in (3, MAX_VERSION, 0):
        add(store, "credit", version)
    gone = add(store, "a.b-c_d", 10, is_provisioned=True)
    expected = [("credit", 0), ("credit", 3), ("credit", MAX_VERSION)]
    assert keys(store) == [("a.b-c_d", 10), *expected]
    store.remove([gone])
    store.close()
    again = opened(tmp_path)
    assert keys(again) == expected
    again.close()


def test_the_next_version_is_the_highest_plus_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.next_version("credit") == 1
    add(store, "credit", 7)
    add(store, "credit", 2)
    assert (store.next_version("credit"), store.next_version("other")) == (8, 1)
    add(store, "credit", MAX_VERSION)
    with pytest.raises(StoreRefusalError) as refused:
        store.next_version("credit")
    assert refused.value.code == "version_exists"
    store.close()


def refusal(store: ModelStore, model_id: str, version: int, key: Ed25519PrivateKey | None, provisioned: bool) -> str:
    before = sorted(path.name for path in (store._directory).iterdir())
    with pytest.raises(StoreRefusalError) as refused:
        add(store, model_id, version, key, is_provisioned=provisioned)
    assert sorted(path.name for path in store._directory.iterdir()) == before  # nothing is left of it
    return refused.value.code


def test_what_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path, max_models=4, max_provisioned=1)
    add(store, "credit", 1, KEYS[0], is_provisioned=True)
    add(store, "nobodys", 1)
    assert refusal(store, "credit", 1, KEYS[0], False) == "version_exists"
    assert refusal(store, "credit", 2, KEYS[1], False) == "other_owner"
    assert refusal(store, "credit", 2, None, False) == "other_owner"
    assert refusal(store, "nobodys", 2, KEYS[0], False) == "other_owner"
    assert refusal(store, "credit", 2, KEYS[0], True) == "store_full"  # of provisioned ones
    add(store, "credit", 2, KEYS[0])
    add(store, "third", 1)
    assert refusal(store, "fourth", 1, None, False) == "store_full"
    store.remove([model for model in store.models() if model.info.model_id == "credit"])
    add(store, "credit", 1, KEYS[1], is_provisioned=True)  # free again
    store.close()


def test_two_processes_never_share_a_store(tmp_path: Path, run_python: RunPython) -> None:
    store = opened(tmp_path)
    code = """
import sys
from confidential_ml.server.store import ModelStore
ModelStore(sys.argv[1], max_provisioned=1)
"""
    result = run_python(code, tmp_path / "store")
    assert result.returncode == 1
    assert "another server has the model store" in result.stderr
    store.close()
    assert run_python(code, tmp_path / "store").returncode == 0


def test_files_that_are_no_models_are_reported_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path)
    directory = tmp_path / "store"
    damaged = add(store, "credit", 2).path
    add(store, "credit", 1)
    add(store, "debt", 1, KEYS[0])
    store.close()
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    cml.seal(MODEL, directory / "copied.sealed", model_id="credit", version=1)
    cml.seal(MODEL, directory / "moved-here.sealed", model_id="guest", version=5)
    cml.seal(MODEL, directory / "intruder.sealed", model_id="debt", version=9, owner_key=KEYS[1])
    (directory / "empty.sealed").write_bytes(b"")
    (directory / "folder.sealed").mkdir()
    (directory / "notes.txt").write_text("mine")
    (directory / "x\nWARNING a line of the log.sealed").write_bytes(b"")
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    again = opened(tmp_path)
    assert keys(again) == [("credit", 1), ("debt", 1), ("guest", 5)]
    for name in ("credit@2", "copied", "intruder", "empty", "folder"):
        assert f"{name}.sealed is not served" in caplog.text
    assert "x?WARNING a line of the log.sealed is not served" in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    # The name of the damaged one stays its own: it is neither replaced nor given out again.
    assert again.next_version("credit") == 3
    assert refusal(again, "credit", 2, None, False) == "version_exists"
    assert damaged.read_bytes() == bytes(content)
    again.close()


def test_leftovers_of_a_crash_are_removed_and_nothing_else(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, "credit", 1)
    staged = store.stage()
    cml.seal(MODEL, staged.path, model_id="credit", version=2)
    store.close()
    directory = tmp_path / "store"
    (directory / f".confidential_ml-{'0' * 16}.tmp").write_bytes(b"half a mod")
    (directory / ".confidential_ml-notes.tmp").write_bytes(b"somebody's")
    again = opened(tmp_path)
    assert sorted(path.name for path in directory.iterdir()) == [
        ".confidential_ml-notes.tmp",
        ".lock",
        "credit@1.sealed",
    ]
    assert keys(again) == [("credit", 1)]
    again.close()


def test_a_model_is_synced_with_its_directory_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    events: list[str] = []
    real_fsync, real_rename, real_unlink = os.fsync, os.rename, os.unlink

    def fsync(descriptor: int) -> None:
        events.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        events.append("rename")
        real_rename(source, target)

    def unlink(path: Path) -> None:
        events.append("unlink")
        real_unlink(path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    model = add(store, "credit", 1)
    assert events[0] == "file"
    assert events[-2:] == ["rename", "directory"]
    events.clear()
    monkeypatch.setattr(os, "unlink", unlink)
    store.remove([model])
    assert events == ["unlink", "directory"]
    store.close()


def test_a_disk_that_fails_at_the_last_moment_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    staged = store.stage()
    cml.seal(MODEL, staged.path, model_id="credit", version=1)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(cml.SealError, match="Input/output error"):
            store.commit(staged)
    assert keys(store) == []
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]
    store.close()


# ---- a server that is killed ----------------------------------------------------------------------------------------


def test_another_directory_under_its_path_is_not_the_store(tmp_path: Path) -> None:
    """Moved away and perhaps made anew, as by whoever mounts a disk there or restores a backup."""
    store = opened(tmp_path)
    kept = add(store, "kept", 1)
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(cml.SealError, match=r"cannot be (used|written)"):
        add(store, "m", 1)
    with pytest.raises(cml.SealError, match="cannot be used"):
        store.remove([kept])
    other = opened(tmp_path)
    for attempt in (lambda: add(store, "m", 1), lambda: store.remove([kept])):
        with pytest.raises(cml.SealError, match="no longer the directory that this server started with"):
            attempt()
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]
    other.close()
    (tmp_path / "store" / ".lock").unlink()
    (tmp_path / "store").rmdir()
    (tmp_path / "moved").rename(tmp_path / "store")
    assert kept.path.exists()
    add(store, "m", 1)
    assert keys(store) == [("kept", 1), ("m", 1)]
    store.close()


class Uploads:
    """Two clients that upload until the server is gone; what it acknowledged, by id and version."""

    def __init__(self) -> None:
        self.acknowledged: dict[tuple[str, int], str] = {}

    def until_killed(self, server: ServerProcess, *, after: int, then: float) -> None:
        """Kill the server `then` seconds after another `after` uploads are acknowledged."""
        # Counted, not timed: a fast disk would fill the store's 256 places before a clock says stop.
        enough = len(self.acknowledged) + after
        reached = threading.Event()

        def upload(model_id: str) -> None:
            with server.client() as client:
                while self._is_acknowledged(client, model_id):
                    if len(self.acknowledged) >= enough:
                        reached.set()

        threads = [threading.Thread(target=upload, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        assert reached.wait(60), "the server takes no uploads"
        time.sleep(then)
        server.kill()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    def _is_acknowledged(self, client: httpx.Client, model_id: str) -> bool:
        try:
            answer = client.post(
                "/model/upload", params={"model_id": model_id}, content=MODEL.read_bytes(), headers=JSON
            )
        except httpx.TransportError:
            return False
        assert answer.status_code == 201
        entry = answer.json()
        self.acknowledged[entry["model_id"], entry["version"]] = entry["model_digest"]
        return True


def test_every_acknowledged_upload_survives_kill_9(tmp_path: Path) -> None:
    """Uploads from two clients, the server killed in the middle at ever other moments, started again, and so on."""
    uploads = Uploads()
    acknowledged = uploads.acknowledged
    settings = settings_for(tmp_path / "store")

    for round_number in range(4):
        with server_process(settings) as server:
            with server.client() as client:
                there = {(one["model_id"], one["version"]): one for one in client.get("/models").json()["models"]}
            # Uploads that were under way when it was killed may be there as well.
            assert set(acknowledged) <= set(there)
            assert all(there[key]["model_digest"] == digest for key, digest in acknowledged.items())
            uploads.until_killed(server, after=10 + 7 * round_number, then=0.0023 * round_number)
    with server_process(settings) as server, server.client() as client:
        there = {(one["model_id"], one["version"]): one for one in client.get("/models").json()["models"]}
        assert set(acknowledged) <= set(there)
        deleted = sorted(acknowledged)[0]
        assert client.delete(f"/models/{deleted[0]}/versions/{deleted[1]}").status_code == 204
        server.kill()
    with server_process(settings) as server, server.client() as client:
        after = {(one["model_id"], one["version"]) for one in client.get("/models").json()["models"]}
    assert after == set(there) - {deleted}
