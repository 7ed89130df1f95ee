"""What `import lmstudio_async` offers, and what it costs."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lmstudio_async as lms

PUBLIC: list[str] = import_module("lmstudio_async._api").__all__
ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_described(name: str) -> None:
    value = getattr(lms, name)
    if name != "__version__":
        assert inspect.getdoc(value)
        # Not one that is only inherited, such as Exception's.
        assert inspect.isfunction(value) or value.__doc__


def test_every_public_method_is_described() -> None:
    missing = [
        f"{name}.{member}"
        for name in PUBLIC
        if inspect.isclass(owner := getattr(lms, name))
        for member, value in vars(owner).items()
        if not member.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not inspect.getdoc(value)
        and not hasattr(ExceptionGroup, member)
    ]
    assert missing == []


def test_the_package_lists_the_public_names() -> None:
    assert vars(lms).get("__all__", getattr(lms, "__all__", None)) == PUBLIC
    assert dir(lms) == sorted(PUBLIC)


@pytest.mark.parametrize("name", ["Clint", "_Session", "_api_host", "import_module_", "aiohttp"])
def test_other_names_are_unknown(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'lmstudio_async' has no attribute '{name}'"):
        getattr(lms, name)


def test_the_official_names_are_aliases() -> None:
    assert lms.AsyncClient is lms.Client
    assert lms.AsyncLLM is lms.LLM
    assert lms.AsyncEmbeddingModel is lms.EmbeddingModel


def test_every_exception_is_public_and_an_lmstudio_error() -> None:
    from lmstudio_async import errors

    exceptions = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    for name, value in exceptions.items():
        assert issubclass(value, lms.LMStudioError)
        assert getattr(lms, name) is value


@pytest.mark.parametrize(
    "statement",
    [
        "import lmstudio_async",
        "import lmstudio_async; lmstudio_async.Client('localhost')",
        "from lmstudio_async import *",
        "import lmstudio_async; dir(lmstudio_async)",
    ],
)
def test_importing_it_imports_no_event_loop_library(statement: str) -> None:
    loaded = run("-c", f"{statement}\nimport sys\nprint(*sys.modules)").split()
    assert "lmstudio_async" in loaded
    assert not {"aiohttp", "trio", "websockets", "uvloop"} & set(loaded)


def test_importing_it_alone_imports_nearly_nothing() -> None:
    loaded = run("-c", "import sys, lmstudio_async\nprint(*sys.modules)").split()
    assert [name for name in loaded if name.startswith("lmstudio_async")] == ["lmstudio_async"]
    assert "msgspec" not in loaded


def test_it_works_without_trio() -> None:
    run(
        "-c",
        "import sys, asyncio\n"
        "sys.modules['trio'] = sys.modules['websockets'] = None\n"
        "import lmstudio_async as lms\n"
        "async def main():\n"
        "    async with lms.Client('localhost'): pass\n"
        "asyncio.run(main())",
    )


SNIPPET = """
from collections.abc import Sequence

import lmstudio_async as lms
from lmstudio_async import Client


class Book(lms.BaseModel):
    title: str


async def main() -> None:
    async with Client() as client, lms.Client("localhost:1234") as other:
        async with (
            client.llm.model("a", config={"contextLength": 1}) as chat,
            client.embedding.load_new_instance("b", "name", ttl=None) as embedder,
            lms.llm("c") as default,
        ):
            reveal_type(chat)
            reveal_type(embedder)
            reveal_type(default)
            reveal_type(await chat.respond("Hello"))
            reveal_type((await chat.respond("Hello", response_format=Book)).parsed)
            reveal_type((await chat.complete("Hello", response_format={"type": "object"})).parsed)
            async for fragment in chat.respond_stream("Hello"):
                reveal_type(fragment)
            reveal_type(await embedder.embed("a"))
            reveal_type(await embedder.embed(["a", "b"]))
            reveal_type(await chat.tokenize("a"))
            reveal_type(await chat.get_load_config())
            reveal_type(await embedder.get_info())
        reveal_type(await other.llm.model("a"))
        reveal_type(await client.llm.list_downloaded())
        reveal_type((await client.embedding.list_downloaded())[0].model())
        reveal_type(await other.embedding.list_loaded())
        loaded: Sequence[lms.LLM | lms.EmbeddingModel] = await other.list_loaded_models()
        print(loaded, lms.__version__)
    try:
        lms.get_default_client()
    except lms.LMStudioServerError as error:
        reveal_type(error.server_error)
    client.llm.model(5)
    lms.NoSuchName
"""

REVEALED = [
    "lmstudio_async.models.llm.LLM",
    "lmstudio_async.models.embedding.EmbeddingModel",
    "lmstudio_async.models.llm.LLM",
    "lmstudio_async.models.prediction.PredictionResult[str]",
    "snippet.Book",
    "Any",
    "lmstudio_async.wire.prediction.LlmPredictionFragment",
    "list[float]",
    "list[list[float]]",
    "list[int]",
    "lmstudio_async.wire.load_config.LlmLoadModelConfig",
    "lmstudio_async.wire.model_info.EmbeddingModelInstanceInfo",
    "lmstudio_async.models.llm.LLM",
    "list[lmstudio_async.namespaces.downloaded.DownloadedLlm]",
    "lmstudio_async.models.scope.ModelScope[lmstudio_async.models.embedding.EmbeddingModel]",
    "list[lmstudio_async.models.embedding.EmbeddingModel]",
    "lmstudio_async.wire.server_error.ServerError | None",
]


def test_a_type_checker_knows_what_everything_gives(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--config-file=", f"--cache-dir={tmp_path}/cache", "snippet.py"),
        ],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("snippet.py")]
    revealed = [line.split('"')[1] for line in lines if "Revealed type is" in line]
    assert [name.replace("builtins.", "") for name in revealed] == REVEALED
    errors = [line for line in lines if ": error:" in line]
    assert len(errors) == 2, done.stdout
    assert 'Argument 1 to "model"' in errors[0]
    assert 'Module has no attribute "NoSuchName"' in errors[1]
