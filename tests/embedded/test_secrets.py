"""Tokens and passkeys stay where they belong, whatever is logged; folders are private."""

import logging
import os
import signal
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer
from lmstudio_async.embedded.auth import Authenticator
from lmstudio_async.embedded.management import ModelEndpoints
from lmstudio_async.embedded.server import ServerConfig, run_server
from lmstudio_async.wire.messages import Authentication

from .raw import GUEST, connected

IDENTIFIER, PASSKEY = "abcdEF12", "0123456789abcdefghij"
TOKEN = f"sk-lm-{IDENTIFIER}:{PASSKEY}"
WRONG = "sk-lm-zyxwVU98:zzzzzzzzzzzzzzzzzzzz"


async def fail(*_: Any) -> None:
    raise ZeroDivisionError("a bug")


async def server_and_client_at_their_noisiest(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Whatever the two say of themselves, in good times and in bad."""
    monkeypatch.setattr(ModelEndpoints, "list_loaded", fail)
    config = ServerConfig(models_dir=str(folder), api_token=TOKEN)
    said = [repr(config), repr(Authenticator(TOKEN)), repr(Authentication(IDENTIFIER, PASSKEY))]
    async with run_server(config) as running:
        said.append(repr(running))
        for client in (_client(running.address, TOKEN), _client(running.address, WRONG)):
            async with client:
                for call in (client.system.version, client.llm.list_loaded):
                    try:
                        await call()
                    except lms.LMStudioError as error:
                        said.append(_with_locals(error))
                said += [repr(client), repr(client.llm), repr(client.system), str(vars(client))]
        for credentials in (
            {"authVersion": 1, "clientIdentifier": IDENTIFIER, "clientPasskey": "wrong"},
            {"authVersion": 7, "clientIdentifier": IDENTIFIER, "clientPasskey": PASSKEY},
            {"authVersion": "x", "clientIdentifier": IDENTIFIER, "clientPasskey": PASSKEY},
            {"clientIdentifier": [IDENTIFIER], "clientPasskey": PASSKEY},
        ):
            async with connected(running.address, "llm", None) as socket:
                await socket.send_unchecked(str(credentials))
                await socket.authenticate(GUEST)
    return "\n".join(said)


def _client(address: str, token: str) -> lms.Client:
    return lms.Client(address, api_token=token)


def _with_locals(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


@pytest.fixture
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        for name in ("asyncio", "aiohttp", "websockets", "lmstudio_async"):
            caplog.set_level(logging.DEBUG, name)
        yield


@pytest.mark.usefixtures("everything_is_logged")
def test_no_secret_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = {"debug": True}
    said = anyio.run(
        server_and_client_at_their_noisiest, monkeypatch, tmp_path, backend_options=options
    )
    said += caplog.text + "".join(capfd.readouterr())
    assert "ZeroDivisionError" in said
    assert "LMStudioClientError" in said
    for secret in (PASSKEY, TOKEN, WRONG.partition(":")[2], "zyxwVU98"):
        assert secret not in said


@pytest.mark.engine
@pytest.mark.asyncio
async def test_workers_do_not_know_the_token(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LM_API_TOKEN", TOKEN)
    monkeypatch.setenv("LMSTUDIO_API_TOKEN", TOKEN)
    monkeypatch.setenv("KEPT", "for the worker")
    credentials = {"authVersion": 1, "clientIdentifier": IDENTIFIER, "clientPasskey": PASSKEY}
    async with EmbeddedServer(models_dir, api_token=TOKEN) as server:
        async with connected(server.api_host, "llm", credentials) as socket:
            await socket.load()
            server_pid, worker_pid = server.pids
            environment = psutil.Process(worker_pid).environ()
            commands = [psutil.Process(pid).cmdline() for pid in (server_pid, worker_pid)]
    assert environment["KEPT"] == "for the worker"
    for shown in (environment.values(), *commands):
        assert not [text for text in shown if PASSKEY in text]


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own; its path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def folders_below(folder: Path) -> list[tuple[str, int, list[str]]]:
    """Each folder, its permissions, and its files."""
    return [
        (path, stat.S_IMODE(os.stat(path).st_mode), sorted(files))
        for path, _, files in os.walk(folder)
    ]


@pytest.mark.engine
@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such permissions")
async def test_what_the_server_writes_is_for_its_user_alone(
    models_dir: Path, temporary_folder: Path
) -> None:
    before = os.umask(0)
    try:
        async with EmbeddedServer(models_dir) as server:
            async with connected(server.api_host, "llm") as socket:
                await socket.load()
                folders = folders_below(temporary_folder)
    finally:
        os.umask(before)
    assert [(mode, names) for _, mode, names in folders[1:]] == [
        (0o700, []),
        (0o700, ["log", "s.sock"]),
    ]
    assert len(folders_below(temporary_folder)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is nothing to lock a folder with")
def test_what_a_killed_server_left_is_swept_up_by_the_next(
    tmp_path: Path, temporary_folder: Path
) -> None:
    with EmbeddedServer(tmp_path) as killed, EmbeddedServer(tmp_path) as living:
        both = set(temporary_folder.iterdir())
        assert len(both) == 2
        os.kill(killed.pids[0], signal.SIGKILL)
        psutil.Process(killed.pids[0]).wait(10)
        with EmbeddedServer(tmp_path) as next_one:
            swept = both - set(temporary_folder.iterdir())
            assert len(swept) == 1
            assert len(list(temporary_folder.iterdir())) == 2
            assert next_one.pids
        assert living.pids
        [left] = temporary_folder.iterdir()
        assert left in both
    assert list(temporary_folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is nothing to lock a folder with")
def test_folders_of_others_are_left_alone(tmp_path: Path, temporary_folder: Path) -> None:
    """A link with such a name may lead anywhere."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (temporary_folder / "lmstudio-async-trap").symlink_to(precious)
    (temporary_folder / "lmstudio-async-file").touch()
    (temporary_folder / "something-else").mkdir()
    with EmbeddedServer(tmp_path):
        pass
    assert (precious / "file").exists()
    assert {path.name for path in temporary_folder.iterdir()} == {
        "lmstudio-async-trap",
        "lmstudio-async-file",
        "something-else",
    }
