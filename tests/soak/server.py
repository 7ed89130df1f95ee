"""The embedded server of a soak: its models, and the errors in its log."""

import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lmstudio_async.embedded import EmbeddedServer, starter_model

EMBEDDER = "embedder"
# "common" is asked for under two names, "rare" so seldom that it is often unloaded.
LLMS = ("common",) * 4 + ("alias-of-common",) * 2 + ("rare",)

_LINE_OF_LOG = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)


@asynccontextmanager
async def logged_server(bugs: list[str]) -> AsyncIterator[EmbeddedServer]:
    """A running server of one file under several keys. At the end `bugs` gets what it logged as
    errors."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        server = EmbeddedServer(
            _linked_models(Path(folder)),
            aliases={"alias-of-common": "common"},
            embedding_models={EMBEDDER: "common"},
        )
        terminal = os.dup(2)
        os.dup2(log.fileno(), 2)  # the server takes over this process's standard error
        try:
            await server.__aenter__()
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        try:
            yield server
        finally:
            await server.__aexit__(None, None, None)
            log.seek(0)
            lines = _LINE_OF_LOG.split(log.read().decode(errors="replace"))
            bugs += [line for line in lines if " ERROR " in line or "Traceback" in line]


def _linked_models(folder: Path) -> Path:
    starter = starter_model()
    for name in ("common", "rare"):
        file = folder / "soak" / name / f"{name}.gguf"
        file.parent.mkdir(parents=True)
        file.symlink_to(starter)
    return folder
