"""The official clients as judges: what they do with LM Studio, they do with the embedded server."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from lmstudio_async.embedded import EmbeddedServer

from .raw import EMBEDDER, STARTER

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
NPM_PACKAGE: dict[str, Any] = {
    "private": True,
    "dependencies": {"@lmstudio/sdk": "2.0.0"},
    "overrides": {"@lmstudio/lms-isomorphic": "0.4.6"},
}


def run(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def check(seen: dict[str, Any]) -> None:
    assert {STARTER, EMBEDDER} <= set(seen["downloaded"])
    assert seen["progress"][0] == 0
    assert seen["progress"][1] == 1
    assert seen["contextLength"] == 1024
    assert seen["loaded"] == [STARTER]
    assert seen["same"]
    assert seen["tokens"] == [19556, 905]
    assert "Paris" in seen["answer"]
    assert len(seen["fragments"]) > 3
    assert "".join(seen["fragments"]) == seen["answer"]
    assert seen["stopReason"] in ("eosFound", "maxPredictedTokensReached")
    assert seen["promptTemplate"].endswith("<|im_start|>assistant\n")
    assert list(seen["structured"]) == ["city"]
    assert "five" in seen["completed"]
    assert seen["rounds"] == 2
    assert [[type(number) for number in call] for call in seen["calls"]] == [[int, int]]
    assert seen["cancelled"] == "userStopped"
    assert seen["dimensions"] == 576
    assert "no-such-model" in seen["error"]
    assert seen["unloadedError"] != "none"
    assert seen["left"] == []


def test_python(embedded: EmbeddedServer) -> None:
    if importlib.util.find_spec("lmstudio") is None:
        pytest.skip("the official client is not installed")
    script = str(HERE / "official_client.py")
    check(run([sys.executable, script, embedded.api_host, STARTER, EMBEDDER]))
    assert len(embedded.pids) == 1


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """A folder, kept in the user's cache, in which the official client is installed."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js")
    folder = platformdirs.user_cache_path("lmstudio_async") / "tests" / "lmstudio-sdk-2.0.0"
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps(NPM_PACKAGE))
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            pytest.skip(f"npm could not install the official client: {done.stderr[-300:]}")
        (folder / "installed").touch()
    return folder


def test_javascript(embedded: EmbeddedServer, node_folder: Path) -> None:
    script = str(HERE / "official_client.mjs")
    seen = run(["node", script, embedded.api_host, str(node_folder), STARTER, EMBEDDER])
    check(seen)
    assert seen["aborted"] == "aborted"
    assert len(embedded.pids) == 1
