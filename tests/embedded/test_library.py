"""The models on disk: their keys, and what is known of them."""

import json
import logging
import os
import struct
import sys
from pathlib import Path

import anyio
import msgspec
import pytest
from gguf import GGUFWriter

from lmstudio_async.embedded import gguf_metadata, metadata
from lmstudio_async.embedded.library import Domain, Library, Model, name_models
from lmstudio_async.embedded.metadata import GgufMetadata
from lmstudio_async.embedded.refusal import RequestError


def keys(*paths: str, domain: Domain = "llm", quantization: str | None = "Q4_0") -> list[str]:
    """The keys of files of one kind, in the order of their paths."""
    known = GgufMetadata(
        architecture="llama",
        params_string="1B",
        quantization=quantization,
        context_length=2048,
        layers=1,
        context_bytes_per_token=1,
        pooling=None,
        knows_tools=False,
    )
    models = [Model("", domain, Path("/models", path), path, 1, known) for path in paths]
    named = {model.relative_path: model.key for model in name_models(models)}
    return [named[path] for path in paths]


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("Qwen3-4B-Q4_K_M.gguf", "qwen3-4b"),
        ("Qwen3-4B-UD-IQ2_XXS.gguf", "qwen3-4b"),
        ("gpt-oss-20b-MXFP4.gguf", "gpt-oss-20b"),
        ("gemma-3-4b-it-q4_0.gguf", "gemma-3-4b-it"),
        ("model-f16.gguf", "model"),
        ("Model.BF16.gguf", "model"),
        ("big-Q8_0-00001-of-00003.gguf", "big"),
        ("plain.gguf", "plain"),
        ("v1.5.gguf", "v1.5"),
    ],
)
def test_key_of_one_model(file: str, key: str) -> None:
    assert keys(f"p/r/{file}") == [key]


def test_keys_of_embedding_models() -> None:
    assert keys(
        "nomic/r/nomic-embed-text-v1.5.f16.gguf",
        "p/r/text-embedding-small-Q8_0.gguf",
        domain="embedding",
    ) == ["text-embedding-nomic-embed-text-v1.5", "text-embedding-small"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["one/r/a-Q4_0.gguf", "two/r/a-Q4_0.gguf"], ["one/a", "two/a"]),
        (["one/r/a-Q4_0.gguf", "one/r/a-Q8_0.gguf"], ["a@q4_0", "a@q8_0"]),
        (
            ["one/r/a-Q4_0.gguf", "one/r/a-Q8_0.gguf", "two/r/a-Q4_0.gguf"],
            ["one/a@q4_0", "one/a@q8_0", "two/a@q4_0"],
        ),
        (["one/r/a.gguf", "one/s/a.gguf"], ["one/r/a.gguf", "one/s/a.gguf"]),
    ],
)
def test_keys_never_collide(paths: list[str], expected: list[str]) -> None:
    assert keys(*paths) == expected


def write_model(path: Path, architecture: str = "llama", pooling: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(1024)
    writer.add_block_count(3)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 2, 2])
    writer.add_embedding_length(64)
    writer.add_file_type(15)
    writer.add_chat_template("{% for tool in tools %}{% endfor %}")
    if pooling is not None:
        writer.add_uint32(f"{architecture}.pooling_type", pooling)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Metadata is remembered in a folder of this test alone."""
    monkeypatch.setattr(metadata, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "metadata"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    return models


def test_what_a_file_says(folder: Path) -> None:
    path = write_model(folder / "p" / "r" / "a.gguf")
    assert gguf_metadata.read_metadata(str(path)) == {
        "architecture": "llama",
        "params_string": "0K",
        "quantization": "Q4_K_M",
        "context_length": 1024,
        "layers": 3,
        "context_bytes_per_token": 2 * 3 * 2 * (16 + 16),
        "pooling": None,
        "knows_tools": True,
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (134_515_008, "135M"),
        (1_500_000_000, "1.5B"),
        (7_000_000_000, "7B"),
        (70_100_000_000, "70B"),
    ],
)
def test_params_string(count: int, text: str) -> None:
    assert gguf_metadata._params_string(count) == text


@pytest.mark.asyncio
async def test_which_files_are_models(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(folder / "p" / "r" / "llm-Q4_K_M.gguf")
    write_model(folder / "p" / "r" / "big-00001-of-00002.gguf")
    (folder / "p" / "r" / "big-00002-of-00002.gguf").write_bytes(b"x" * 1000)
    (folder / "p" / "r" / "mmproj-llm-f16.gguf").write_bytes(b"x")
    (folder / "p" / "r" / "readme.md").write_bytes(b"x")
    (folder / "p" / "r" / "broken.gguf").write_bytes(b"x")
    write_model(folder / ".download-x" / "half.gguf")
    write_model(folder / "p" / "r" / "embed.gguf", "nomic-bert")
    write_model(folder / "p" / "r" / "qwen-embed.gguf", "qwen3", pooling=3)
    write_model(folder / "p" / "r" / "reranker.gguf", "qwen3", pooling=4)
    library = Library(folder, {}, {"mean": "llm", "nothing": "absent", "big": "llm"})
    with caplog.at_level(logging.WARNING):
        models = {model.key: model for model in await library.models()}
        assert {key: model.domain for key, model in models.items()} == {
            "big": "llm",
            "llm": "llm",
            "mean": "embedding",
            "reranker": "llm",
            "text-embedding-embed": "embedding",
            "text-embedding-qwen-embed": "embedding",
        }
        assert "broken.gguf" in caplog.text
        caplog.clear()
        await library.models()
        assert not caplog.records, "one warning for each broken file is enough"
    first = folder / "p" / "r" / "big-00001-of-00002.gguf"
    assert models["big"].size_bytes == first.stat().st_size + 1000
    info = models["llm"].info()
    assert info.display_name == "llm"
    assert info.publisher == "p"
    assert info.path == "p/r/llm-Q4_K_M.gguf"


@pytest.mark.asyncio
async def test_find(folder: Path) -> None:
    write_model(folder / "p" / "r" / "llm-Q4_K_M.gguf")
    library = Library(folder, {"nick": "llm"}, {"mean": "llm"})
    for name in ("llm", "nick", "p/r/llm-Q4_K_M.gguf"):
        assert (await library.find(name, "llm")).key == "llm"
    assert (await library.find("mean", "embedding")).pooling == "MEAN"
    for name in ("../models/p/r/llm-Q4_K_M.gguf", "/etc/passwd", "LLM", ""):
        with pytest.raises(RequestError):
            await library.find(name, "llm")
    with pytest.raises(RequestError, match="'llm', not 'embedding'"):
        await library.find("llm", "embedding")


@pytest.mark.asyncio
async def test_metadata_is_remembered(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(folder / "p" / "r" / "a.gguf")
    (model,) = await Library(folder, {}, {}).models()
    (stored,) = list(cache.iterdir())  # noqa: ASYNC240
    assert json.loads(stored.read_text())["layers"] == 3

    async def forbidden(path: Path) -> None:
        raise AssertionError(f"{path} is read again")

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "_run_script", forbidden)
        assert await Library(folder, {}, {}).models() == [model]
    stored.write_text("{")
    assert await Library(folder, {}, {}).models() == [model]
    path.unlink()
    write_model(path, "qwen3", pooling=1)
    (model,) = await Library(folder, {}, {}).models()
    assert model.domain == "embedding"


@pytest.mark.asyncio
async def test_an_unwritable_cache_is_no_problem(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(folder / "p" / "r" / "a.gguf")
    cache.parent.write_bytes(b"a file where a folder should be")
    assert len(await Library(folder, {}, {}).models()) == 1
    assert "could not remember" in caplog.text


@pytest.mark.asyncio
async def test_a_folder_that_does_not_exist() -> None:
    assert await Library(Path("/nonexistent"), {}, {}).models() == []


NAMES_OF_NO_MODEL = [
    "../secret",
    "../secret.gguf",
    "../../etc/passwd",
    "/etc/passwd",
    "p/../../secret.gguf",
    "p/r/./real.gguf",
    "file:///etc/passwd",
    "~/secret.gguf",
    "p/r/real.gguf\0",
    "\0",
    "",
    ".",
    "P\\R\\real.gguf",
    "x" * 100_000,
]


@pytest.mark.asyncio
async def test_names_are_looked_up_and_never_opened(tmp_path: Path) -> None:
    """A key or path names a model of the list, or nothing."""
    models = tmp_path / "models"
    write_model(models / "p" / "r" / "real.gguf")
    write_model(tmp_path / "secret.gguf")
    library = Library(models, {"nick": "../secret.gguf"}, {"emb": "../secret"})
    assert (await library.find("p/r/real.gguf", "llm")).key == "real"
    for wanted in (*NAMES_OF_NO_MODEL, "nick", "emb"):
        with pytest.raises(RequestError, match="No model on disk") as caught:
            await library.find(wanted, "llm")
        assert len(str(caught.value)) < 500
    assert [model.key for model in await library.models()] == ["real"]


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform == "win32", reason="links need privileges there")
async def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models / "a" / "one.gguf")
    write_model(tmp_path / "elsewhere" / "two.gguf")
    (models / "a" / "back").symlink_to(models)
    (models / "a" / "to-b").symlink_to(models / "b")
    (models / "b").mkdir()
    (models / "b" / "to-a").symlink_to(models / "a")
    (models / "linked").symlink_to(tmp_path / "elsewhere")
    (models / "b" / "lost.gguf").symlink_to(tmp_path / "nowhere.gguf")
    (models / "b" / "self.gguf").symlink_to(models / "b" / "self.gguf")
    found = await Library(models, {}, {}).models()
    assert sorted(model.relative_path for model in found) == ["a/one.gguf", "linked/two.gguf"]


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform != "linux", reason="makes such files")
async def test_what_is_no_plain_file_or_has_no_name_is_skipped(tmp_path: Path) -> None:
    write_model(tmp_path / "p" / "good.gguf")
    os.mkfifo(tmp_path / "p" / "pipe.gguf")
    (tmp_path / "p" / "folder.gguf").mkdir()
    (tmp_path / "p" / "device.gguf").symlink_to("/dev/zero")
    not_utf8 = os.fsdecode(b"\xff")
    write_model(tmp_path / "p" / f"{not_utf8}.gguf")
    write_model(tmp_path / not_utf8 / "hidden.gguf")
    with anyio.fail_after(60):
        found = await Library(tmp_path, {}, {}).models()
    assert [model.key for model in found] == ["good"]
    msgspec.json.encode([model.info() for model in found])


HOSTILE_FILES = {
    "empty": b"",
    "magic": b"GGUF",
    "counts": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
    "tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0),
    "string": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + b"x",
    "array": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1)
    + struct.pack("<Q", 1)
    + b"k"
    + struct.pack("<IIQ", 9, 9, 2**40),
    "key": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2) + b"\xff\xfe",
    "zeros": bytes(4096),
    "text": b"#!/bin/sh\nrm -rf /\n",
}


@pytest.mark.asyncio
async def test_hostile_files_are_skipped(tmp_path: Path) -> None:
    write_model(tmp_path / "p" / "good.gguf")
    for name, content in HOSTILE_FILES.items():
        (tmp_path / "p" / f"{name}.gguf").write_bytes(content)
    with anyio.fail_after(100):
        found = await Library(tmp_path, {}, {}).models()
    assert [model.key for model in found] == ["good"]
