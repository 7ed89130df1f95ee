"""What users want to give to the server, read into memory by a worker thread."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from inspect import iscoroutinefunction
from typing import Any, BinaryIO, TypeAlias

from anyio import to_thread

from lmstudio_async.arguments import check_text
from lmstudio_async.errors import (
    LMStudioFileNotFoundError,
    LMStudioOSError,
    LMStudioTypeError,
    LMStudioValueError,
)

LocalFileInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# In bytes. It is 86 MiB in base64, and WebSocket servers on Node take messages of up to 100 MiB.
MAX_SIZE = 64 * 2**20


@dataclass(frozen=True)
class LocalFile:
    """A file in memory. `digest` tells its content from every other."""

    name: str
    content: bytes = field(repr=False)
    digest: str


async def read_local_file(src: LocalFileInput, name: str | None) -> LocalFile:
    """Read the file at a path, a binary file object from where it stands, or take bytes.

    name: what to call it; None takes the name of the file, or else makes one up.

    Raises LMStudioFileNotFoundError, LMStudioOSError, LMStudioTypeError or LMStudioValueError.
    """
    if name is not None and not check_text("name", name):
        raise LMStudioValueError("name is empty; None takes the name of the file")
    # Not abandoned on cancellation: nobody may go on reading a file object behind its owner's back.
    return await to_thread.run_sync(_read, src, name)


def _read(src: LocalFileInput, name: str | None) -> LocalFile:
    try:
        content = _content(src)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        kind = LMStudioFileNotFoundError if missing else LMStudioOSError
        where = () if error.filename is None else (error.filename,)
        raise kind(*error.args, *where) from error
    if not content:
        raise LMStudioValueError("src has no content")
    digest = sha256(content).hexdigest()
    return LocalFile(name or _name(src) or digest[:32], content, digest)


def _content(src: Any) -> bytes:
    if isinstance(src, str | os.PathLike):
        with _opened(src) as file:
            return b"".join(_chunks(file))
    if hasattr(src, "read"):
        return b"".join(_chunks(src))
    try:
        view = memoryview(src)
    except TypeError:
        raise LMStudioTypeError(
            f"src must be a path, a binary file object or bytes, not {type(src).__name__}"
        ) from None
    _check_size(view.nbytes)
    return src if isinstance(src, bytes) else view.tobytes()


def _opened(path: "str | os.PathLike[str]") -> BinaryIO:
    try:
        return open(path, "rb")
    except ValueError as error:
        raise LMStudioValueError(f"src is no path: {error}") from None


def _chunks(file: Any) -> Iterator[bytes]:
    if iscoroutinefunction(file.read):
        raise LMStudioTypeError("src is read asynchronously; pass `await src.read()` instead")
    size = 0
    # A file object without a buffer may give less than it was asked for.
    while chunk := file.read(MAX_SIZE + 1 - size):
        if not isinstance(chunk, bytes):
            raise LMStudioTypeError(
                f"src gives {type(chunk).__name__}, not bytes; open it in binary mode"
            )
        size += len(chunk)
        _check_size(size)
        yield chunk


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise LMStudioValueError(
            f"src is larger than {MAX_SIZE // 2**20} MiB, the most that can be sent"
        )


def _name(src: Any) -> str:
    path = src if isinstance(src, str | os.PathLike) else getattr(src, "name", None)
    if not isinstance(path, str | os.PathLike):
        return ""  # a file object's name may also be a number
    # Names that are no Unicode exist, and cannot be sent.
    return os.fsencode(os.path.basename(path)).decode(errors="replace")
