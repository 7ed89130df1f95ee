"""Files for chats: read from anywhere, sent once, refused before anything is sent."""

import array
import io
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import lmstudio_async as lms
from lmstudio_async.namespaces import local_file
from tests.scripted_models import failure
from tests.scripted_server import ScriptedServer

pytestmark = pytest.mark.anyio

PIXELS = b"\x89PNG pixels"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PIXELS)
    return path


class Trickle(io.RawIOBase):
    """A file object that gives a byte at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(1)


# Sources


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (lambda path: path, "cat.png"),
        (str, "cat.png"),
        (lambda path: path.open("rb"), "cat.png"),
        (lambda path: path.open("rb", buffering=0), "cat.png"),
        (lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb"), None),
        (lambda path: io.BytesIO(PIXELS), None),
        (lambda path: Trickle(PIXELS), None),
        (lambda path: PIXELS, None),
        (lambda path: bytearray(PIXELS), None),
        (lambda path: memoryview(PIXELS + PIXELS)[: len(PIXELS)], None),
        (lambda path: array.array("B", PIXELS), None),
    ],
    ids=[
        *("path", "str", "file", "unbuffered file", "file without a name", "BytesIO", "trickle"),
        *("bytes", "bytearray", "memoryview", "array"),
    ],
)
async def test_an_image_may_come_from_anywhere(
    server: ScriptedServer,
    client: lms.Client,
    image: Path,
    source: Callable[[Path], Any],
    name: str | None,
) -> None:
    src = source(image)
    try:
        handle = await client.files.prepare_image(src)
    finally:
        if isinstance(src, io.IOBase):
            src.close()
    assert isinstance(handle, lms.FileHandle)
    assert server.files == {handle.identifier: PIXELS}
    assert handle.size_bytes == len(PIXELS)
    assert handle.file_type == "image"
    assert len(handle.name) == 32 if name is None else handle.name == name
    assert server.requests("uploadFileBase64")[0]["name"] == handle.name


async def test_a_file_object_is_read_from_where_it_stands(
    server: ScriptedServer, client: lms.Client
) -> None:
    src = io.BytesIO(b"header" + PIXELS)
    src.seek(6)
    await client.prepare_image(src)
    assert [*server.files.values()] == [PIXELS]
    assert not src.closed


async def test_a_name_may_be_given(server: ScriptedServer, client: lms.Client, image: Path) -> None:
    assert (await client.prepare_image(image, "Miez.png")).name == "Miez.png"
    assert (await client.prepare_image(PIXELS, name="Miez.png")).name == "Miez.png"


async def test_a_file_name_that_is_no_unicode_is_mended(
    server: ScriptedServer, client: lms.Client, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(PIXELS)
    assert (await client.prepare_image(path)).name == "caf\N{REPLACEMENT CHARACTER}.png"


async def test_reading_leaves_the_event_loop_alone(
    server: ScriptedServer, client: lms.Client
) -> None:
    threads = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            threads.append(threading.current_thread())
            return super().read(size)

    await client.prepare_image(Watched(PIXELS))
    assert threads
    assert threading.current_thread() not in threads


# Sent once


async def test_the_same_content_is_sent_once(
    server: ScriptedServer, client: lms.Client, image: Path
) -> None:
    first = await client.prepare_image(image)
    second = await client.prepare_image(PIXELS, "other.png")
    assert second.identifier == first.identifier
    assert (first.name, second.name) == ("cat.png", "other.png")
    await client.prepare_image(b"other pixels", "cat.png")
    assert [*server.files.values()] == [PIXELS, b"other pixels"]
    assert server.count("uploadFileBase64") == 2


async def test_what_other_files_are_taken_for_may_depend_on_their_names(
    server: ScriptedServer, client: lms.Client
) -> None:
    text = await client.files.prepare_file(PIXELS, "a.txt")
    assert text.file_type == "text/plain"
    assert (await client.files.prepare_file(PIXELS, "b.TXT")).identifier == text.identifier
    assert (await client.files.prepare_file(PIXELS, "a.png")).file_type == "image"
    assert (await client.prepare_image(PIXELS, "a")).file_type == "image"
    assert server.count("uploadFileBase64") == 3


async def test_the_same_content_is_sent_once_if_several_ask_at_once(
    server: ScriptedServer, client: lms.Client
) -> None:
    handles: list[lms.FileHandle] = []

    async def prepare() -> None:
        handles.append(await client.prepare_image(PIXELS))

    server.hold_uploads()
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(prepare)
        await waiting(client, 7)
        server.release_uploads()
    assert len(handles) == 8
    assert len({handle.identifier for handle in handles}) == 1
    assert server.count("uploadFileBase64") == 1


async def test_cancelling_the_one_that_sends_leaves_the_others_in_peace(
    server: ScriptedServer, client: lms.Client
) -> None:
    handles: list[lms.FileHandle] = []
    first = anyio.CancelScope()

    async def lead() -> None:
        with first:
            await client.prepare_image(PIXELS)

    async def follow() -> None:
        handles.append(await client.prepare_image(PIXELS))

    server.hold_uploads()
    async with anyio.create_task_group() as group:
        group.start_soon(lead)
        await server.until("uploadFileBase64")
        group.start_soon(follow)
        await waiting(client, 1)
        first.cancel()
        await server.until(lambda: server.count("uploadFileBase64") == 2)
        server.release_uploads()
    assert first.cancelled_caught
    assert [server.files[handle.identifier] for handle in handles] == [PIXELS]


async def test_a_failure_reaches_all_who_wait_and_is_not_remembered(
    server: ScriptedServer, client: lms.Client
) -> None:
    errors: list[lms.LMStudioError] = []

    async def prepare() -> None:
        with pytest.raises(lms.LMStudioWebsocketError) as caught:
            await client.prepare_image(PIXELS)
        errors.append(caught.value)

    server.silence("uploadFileBase64")
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(prepare)
        await waiting(client, 2)
        for sent in (1, 2):  # it is tried again once
            await server.until(partial(sent_so_often, server, sent))
            server.drop_connections("files")
    assert len({id(error) for error in errors}) == 3
    server.unsilence("uploadFileBase64")
    assert (await client.prepare_image(PIXELS)).identifier in server.files


async def test_a_lost_connection_means_a_new_upload(
    server: ScriptedServer, client: lms.Client
) -> None:
    first = await client.prepare_image(PIXELS)
    server.drop_connections("files")
    await server.until(lambda: "files" not in server.open_sockets)
    # The server has forgotten the file, whether or not this side has noticed yet.
    while client._open.pool.live_connection("files") is not None:
        await anyio.lowlevel.checkpoint()
    second = await client.prepare_image(PIXELS)
    assert second.identifier != first.identifier
    assert (await client.prepare_image(PIXELS)).identifier == second.identifier
    assert server.count("uploadFileBase64") == 2


async def test_an_upload_survives_a_connection_that_is_lost_meanwhile(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.drop_on("uploadFileBase64")
    handle = await client.prepare_image(PIXELS)
    assert server.files == {handle.identifier: PIXELS}
    assert (await client.prepare_image(PIXELS)) == handle


async def test_an_upload_over_a_new_connection_tells_that_the_old_one_is_lost(
    server: ScriptedServer, client: lms.Client
) -> None:
    first = await client.prepare_image(PIXELS)
    server.drop_on("uploadFileBase64")
    other = await client.prepare_image(b"other pixels")
    second = await client.prepare_image(PIXELS)
    assert second.identifier not in (first.identifier, other.identifier)
    assert await client.prepare_image(b"other pixels", other.name) == other


# Refused


@pytest.mark.parametrize(
    ("src", "name", "error", "message"),
    [
        (5, None, lms.LMStudioTypeError, "src must be a path, .* not int"),
        (None, None, lms.LMStudioTypeError, "src must be a path, .* not NoneType"),
        (io.StringIO("text"), None, lms.LMStudioTypeError, "gives str, not bytes; open it in bin"),
        (b"", None, lms.LMStudioValueError, "src has no content"),
        (io.BytesIO(), None, lms.LMStudioValueError, "src has no content"),
        ("a\0b", None, lms.LMStudioValueError, "src is no path: .*null"),
        (PIXELS, "", lms.LMStudioValueError, "name is empty"),
        (PIXELS, 5, lms.LMStudioTypeError, "name must be a string"),
        (PIXELS, "\ud800", lms.LMStudioValueError, "name is not valid Unicode"),
    ],
)
async def test_what_cannot_be_a_file_is_refused(
    server: ScriptedServer,
    client: lms.Client,
    src: Any,
    name: Any,
    error: type[Exception],
    message: str,
) -> None:
    if isinstance(src, io.StringIO):
        src.seek(0)  # the test runs on several loops
    with pytest.raises(error, match=message):
        await client.prepare_image(src, name)
    assert server.frames == []


@pytest.mark.parametrize("source", [bytes, io.BytesIO, Trickle, "path"])
async def test_what_is_too_large_is_refused(
    server: ScriptedServer,
    client: lms.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Any,
) -> None:
    monkeypatch.setattr(local_file, "MAX_SIZE", 2**20)
    for size, fits in ((2**20, True), (2**20 + 1, False)):
        content = b"x" * size
        src: Any = tmp_path / "large"
        if source == "path":
            src.write_bytes(content)
        else:
            src = source(content)
        if fits:
            assert (await client.prepare_image(src)).size_bytes == size
        else:
            with pytest.raises(lms.LMStudioValueError, match="src is larger than 1 MiB"):
                await client.prepare_image(src)
    assert server.count("uploadFileBase64") == 1


async def test_a_file_without_end_is_refused_too(
    server: ScriptedServer, client: lms.Client
) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= local_file.MAX_SIZE + 1
            return bytes(size)

    endless: Any = Endless()
    with pytest.raises(lms.LMStudioValueError, match="src is larger than 64 MiB"):
        await client.prepare_image(endless)
    assert server.frames == []


async def test_a_file_that_is_not_there(
    server: ScriptedServer, client: lms.Client, tmp_path: Path
) -> None:
    path = tmp_path / "missing.png"
    with pytest.raises(lms.LMStudioFileNotFoundError, match="No such file") as caught:
        await client.prepare_image(path)
    error = caught.value
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, lms.LMStudioOSError)
    assert error.filename == str(path)
    assert isinstance(error.__cause__, FileNotFoundError)
    assert server.frames == []


async def test_a_file_that_cannot_be_read(
    server: ScriptedServer, client: lms.Client, tmp_path: Path
) -> None:
    with pytest.raises(lms.LMStudioOSError, match="directory") as caught:
        await client.prepare_image(tmp_path)
    assert isinstance(caught.value, OSError)
    assert not isinstance(caught.value, FileNotFoundError)

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("the tape is torn")

    with pytest.raises(lms.LMStudioOSError, match=r"^the tape is torn$"):
        await client.prepare_image(Broken(PIXELS))
    assert server.frames == []


async def test_a_file_object_that_is_read_asynchronously_is_refused(
    server: ScriptedServer, client: lms.Client
) -> None:
    class Upload:
        async def read(self, size: int = -1) -> bytes:
            return PIXELS

    upload: Any = Upload()
    with pytest.raises(lms.LMStudioTypeError, match=r"pass `await src.read\(\)` instead"):
        await client.prepare_image(upload)
    assert server.frames == []


async def test_a_closed_client_has_no_files() -> None:
    client = lms.Client()
    with pytest.raises(lms.LMStudioRuntimeError, match="not open"):
        await client.prepare_image(PIXELS)


# In use


async def test_an_image_in_a_chat(server: ScriptedServer, client: lms.Client, image: Path) -> None:
    chat = lms.Chat()
    chat.add_user_message("What is this?", images=[await client.prepare_image(image)])
    async with client.llm.load_new_instance("llm-a") as model:
        await model.respond(chat)
    (message,) = server.requests("predict")[0]["history"]["messages"]
    assert message["content"][1] == {
        "type": "file",
        "name": "cat.png",
        "identifier": "file-1",
        "sizeBytes": len(PIXELS),
        "fileType": "image",
    }


async def test_the_content_is_not_shown(server: ScriptedServer, client: lms.Client) -> None:
    server.fail_next("uploadFileBase64", failure("No."))
    with pytest.raises(lms.LMStudioServerError, match=r"the upload of 'cat\.png'") as caught:
        await client.prepare_image(PIXELS, "cat.png")
    assert "pixels" not in str(caught.value)
    file = await local_file.read_local_file(PIXELS, "cat.png")
    assert "pixels" not in repr(file)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_default_client_prepares_images(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    async def main() -> lms.FileHandle:
        return await lms.prepare_image(PIXELS, "cat.png")

    monkeypatch.setattr("lmstudio_async.default_client._api_host", server.api_host)
    handle = anyio.run(main, backend=backend)
    assert server.files == {handle.identifier: PIXELS}


async def waiting(client: lms.Client, count: int) -> None:
    """So many tasks wait for an upload of another one."""
    uploads = client.files._uploading._attempts
    while sum(each.ended.statistics().tasks_waiting for each in uploads.values()) < count:
        await anyio.lowlevel.checkpoint()


def sent_so_often(server: ScriptedServer, times: int) -> bool:
    return server.count("uploadFileBase64") == times
