"""The server's private folder: the sockets and logs of its workers.

Who is killed cannot tidy up. So each server holds a lock on its folder, which the system takes back
with the process, and removes the folders that nobody holds.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "lmstudio-async-"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, for the time of the block."""
    if sys.platform == "win32":
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
            yield Path(name)
        return
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if (lock := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    while (lock := _lock(folder := Path(tempfile.mkdtemp(prefix=_PREFIX)))) is None:
        pass  # another server has taken it for one left behind
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


if sys.platform != "win32":
    import fcntl

    def _lock(folder: Path) -> int | None:
        """Hold a folder of this user's; None if somebody else holds it, or it is gone."""
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            here = os.fstat(lock)
            if here.st_uid == os.getuid() and os.path.samestat(here, os.stat(folder)):
                return lock
        os.close(lock)
        return None
