"""What GGUF files say of themselves, read in processes of their own and remembered on disk."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import msgspec
from msgspec import Struct

from lmstudio_async.embedded.paths import cache_dir

logger = logging.getLogger("lmstudio_async.embedded")

_SCRIPT = Path(__file__).with_name("gguf_metadata.py")
_TIMEOUT = 120  # seconds for one file
_READERS = 2
# Part of every cache key: raise it when the script prints something else than before.
_VERSION = 1


class GgufMetadata(Struct, kw_only=True, frozen=True):
    """Some facts about a GGUF file. `pooling` is llama.cpp's number for it, None for no word."""

    architecture: str
    params_string: str | None
    quantization: str | None
    context_length: int
    layers: int
    context_bytes_per_token: int
    pooling: int | None
    knows_tools: bool


class MetadataCache:
    """Metadata by file. What could not be read is remembered, too, until the file changes."""

    def __init__(self) -> None:
        self._directory = cache_dir() / "metadata"
        self._known: dict[str, GgufMetadata | None] = {}

    async def read(self, paths: list[Path]) -> dict[Path, GgufMetadata]:
        """The metadata of those files that can be read; a warning is logged for the others."""
        found: dict[Path, GgufMetadata] = {}
        readers = anyio.CapacityLimiter(_READERS)

        async def read_one(path: Path) -> None:
            async with readers:
                metadata = await self._read(path)
            if metadata is not None:
                found[path] = metadata

        async with anyio.create_task_group() as tasks:
            for path in paths:
                tasks.start_soon(read_one, path)
        return found

    async def _read(self, path: Path) -> GgufMetadata | None:
        key = _identity(path)
        if key not in self._known:
            stored = self._directory / f"{key}.json"
            metadata = _load(stored)
            if metadata is None and (metadata := await _run_script(path)) is not None:
                _store(stored, metadata)
            self._known[key] = metadata
        return self._known[key]


def _identity(path: Path) -> str:
    """A text that is another one as soon as the file is another one."""
    try:
        stat = path.stat()
        about = f"{_VERSION}\n{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
    except OSError as error:
        about = f"{path}\n{error}"  # deleted since it was listed; reading it will fail
    return hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()


async def _run_script(path: Path) -> GgufMetadata | None:
    # -P: beside the script lie modules that it must not find.
    command = [sys.executable, "-P", str(_SCRIPT), str(path)]
    try:
        with anyio.fail_after(_TIMEOUT):
            done = await anyio.run_process(command, stdin=subprocess.DEVNULL, check=False)
        return msgspec.json.decode(done.stdout, type=GgufMetadata)
    except TimeoutError:
        reason = f"reading it took more than {_TIMEOUT} s"
    except msgspec.DecodeError:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    logger.warning("skipping %s, which is no readable GGUF file: %s", path, reason)
    return None


def _load(stored: Path) -> GgufMetadata | None:
    try:
        return msgspec.json.decode(stored.read_bytes(), type=GgufMetadata)
    except (OSError, msgspec.DecodeError):
        return None


def _store(target: Path, metadata: GgufMetadata) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(msgspec.json.encode(metadata))
        os.replace(file.name, target)
    except OSError as error:
        logger.warning("could not remember the metadata of a model: %s", error)
