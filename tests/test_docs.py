"""The code in the documentation runs, on a real model."""

import ast
import inspect
import re
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks() -> Iterator[Any]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text("utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            # So that tracebacks point into the page.
            source = "\n" * (line - 1) + match[1]
            yield pytest.param(source, page, id=f"{page.name}:{line}")


@pytest.mark.parametrize(("source", "page"), [*blocks()])
async def test_code_in_the_documentation_runs(
    source: str,
    page: Path,
    engine: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    published = tmp_path / "http-server.json"
    published.write_text(f'{{"port": {engine.api_host.rpartition(":")[2]}}}')
    monkeypatch.setenv("LMS_API_SERVER_INFO_PATH", str(published))
    async with lms.Client(engine.api_host) as client:
        names: dict[str, Any] = {"lms": lms, "client": client}
        needs = set(re.findall(r"\b(?:model|embedder)\b", source))
        if "model" in needs:
            names["model"] = await client.llm.model("qwen3-4b")
        if "embedder" in needs:
            names["embedder"] = await client.embedding.model("nomic-embed-text-v1.5")
        code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result: Awaitable[None] | None = eval(code, names)
        if inspect.isawaitable(result):
            await result
        for model in await client.list_loaded_models():
            await model.unload()
