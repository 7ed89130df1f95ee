"""The models on disk: GGUF files in a folder laid out as `publisher/repo/file.gguf`."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, TypeAlias

import anyio
import anyio.to_thread

from lmstudio_async.embedded.metadata import GgufMetadata, MetadataCache
from lmstudio_async.embedded.refusal import domain_mismatch, path_not_found
from lmstudio_async.wire.model_info import (
    AnyModelInfo,
    EmbeddingModelInfo,
    LlmInfo,
    Quantization,
)

Domain: TypeAlias = Literal["llm", "embedding"]

_SHARD = re.compile(r"-(\d{5})-of-\d{5}$")
_QUANTIZATION = re.compile(
    r"[-._](?:UD-)?(?:I?Q\d+(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|(?:MX|NV)FP4(?:_MOE)?)$", re.I
)
_EMBEDDING_ARCHITECTURES = re.compile(
    r"(nomic-|jina-|modern-|neo-|euro)?bert(-.*)?|gemma-embedding|llama-embed|t5encoder"
)
_RANK_POOLING = 4


@dataclass(frozen=True)
class Model:
    """A model that can be loaded. `pooling` overrides how an embedding model pools its tokens."""

    key: str
    domain: Domain
    path: Path
    relative_path: str
    size_bytes: int
    metadata: GgufMetadata
    pooling: Literal["MEAN"] | None = None

    def about(self) -> dict[str, Any]:
        """The fields of its info, and of the infos of its instances."""
        metadata, parts = self.metadata, self.relative_path.split("/")
        quantization = metadata.quantization
        about = {
            "model_key": self.key,
            "format": "gguf",
            "display_name": _without_suffixes(self.path.stem).replace("-", " "),
            "publisher": parts[0] if len(parts) > 1 else "",
            "path": self.relative_path,
            "size_bytes": self.size_bytes,
            "indexed_model_identifier": self.relative_path,
            "params_string": metadata.params_string,
            "architecture": metadata.architecture,
            "quantization": quantization and Quantization(quantization, _bits(quantization)),
            "max_context_length": metadata.context_length,
        }
        if self.domain == "llm":
            about["trained_for_tool_use"] = metadata.knows_tools
        return about

    def info(self) -> AnyModelInfo:
        kind = LlmInfo if self.domain == "llm" else EmbeddingModelInfo
        return kind(**self.about())


class Library:
    """Finds models by key. The folder is looked through anew each time."""

    def __init__(
        self, models_dir: Path, aliases: Mapping[str, str], embedding_models: Mapping[str, str]
    ) -> None:
        self.models_dir = models_dir
        self._aliases = aliases
        self._embedding_models = embedding_models
        self._metadata = MetadataCache()
        self._lock = anyio.Lock()

    async def models(self) -> list[Model]:
        """Every model, by key."""
        async with self._lock:  # so that no file is read by two at once
            files = await anyio.to_thread.run_sync(_find_files, self.models_dir)
            metadata = await self._metadata.read([file.path for file in files])
        found = []
        for file in files:
            if (known := metadata.get(file.path)) is not None:
                place = file.path, file.relative, file.size_bytes
                found.append(Model("", _domain(known), *place, known))
        models = {model.key: model for model in name_models(found)}
        for key, source in self._embedding_models.items():
            if (model := models.get(source)) is not None and key not in models:
                models[key] = replace(model, key=key, domain="embedding", pooling="MEAN")
        return sorted(models.values(), key=lambda model: model.key)

    async def find(self, name: str, domain: Domain) -> Model:
        """The model with that key, alias or path. Raises RequestError."""
        models = await self.models()
        wanted = self._aliases.get(name, name)
        found = [model for model in models if wanted in (model.key, model.relative_path)]
        if not found:
            raise path_not_found(name, [model.key for model in models])
        for model in found:
            if model.domain == domain:
                return model
        raise domain_mismatch(name, found[0].domain, domain)


@dataclass(frozen=True)
class _File:
    path: Path
    relative: str
    size_bytes: int


def _find_files(models_dir: Path) -> list[_File]:
    sizes: dict[Path, int] = {}
    shards: defaultdict[Path, int] = defaultdict(int)
    walked: set[str] = set()
    # Links are followed, wherever they lead: many keep their models on another disk.
    for directory, subdirectories, names in os.walk(models_dir, followlinks=True):
        walked.add(os.path.realpath(directory))
        # Hidden folders hold what is being downloaded; a link may lead back to where it stands.
        subdirectories[:] = sorted(
            name
            for name in subdirectories
            if _is_listed(name) and os.path.realpath(os.path.join(directory, name)) not in walked
        )
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() != ".gguf" or "mmproj" in name.lower() or not _is_listed(name):
                continue
            try:
                stat = path.stat()
            except OSError:
                continue
            if not S_ISREG(stat.st_mode):  # reading a pipe would never end
                continue
            size = stat.st_size
            shard = _SHARD.search(path.stem)
            if shard is not None and shard[1] != "00001":
                first = path.with_name(_SHARD.sub(_first_shard, path.stem) + path.suffix)
                shards[first] += size
            else:
                sizes[path] = size
    return [
        _File(path, path.relative_to(models_dir).as_posix(), size + shards[path])
        for path, size in sorted(sizes.items())
    ]


def _is_listed(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # not UTF-8: JSON cannot tell of it
        return False
    return not name.startswith(".")


def _first_shard(match: re.Match[str]) -> str:
    return match[0].replace(match[1], "00001", 1)


def _domain(metadata: GgufMetadata) -> Domain:
    if _EMBEDDING_ARCHITECTURES.fullmatch(metadata.architecture):
        return "embedding"
    # Embedding models made from an LLM say how to pool; rerankers do as well, but embed nothing.
    return "embedding" if metadata.pooling not in (None, 0, _RANK_POOLING) else "llm"


def _without_suffixes(stem: str) -> str:
    """A file's stem without the number of the shard and the name of the quantization."""
    return _QUANTIZATION.sub("", _SHARD.sub("", stem))


def _bits(quantization: str) -> int:
    digits = re.search(r"\d+", quantization)
    return int(digits[0]) if digits else 0


def name_models(models: list[Model]) -> list[Model]:
    """Give each model its key: as short as possible while no two are equal."""
    by_base: defaultdict[str, list[Model]] = defaultdict(list)
    for model in models:
        base = _without_suffixes(model.path.stem).lower()
        if model.domain == "embedding" and not base.startswith("text-embedding-"):
            base = f"text-embedding-{base}"
        by_base[base].append(model)
    return [
        replace(model, key=key)
        for base, group in by_base.items()
        for model, key in zip(group, _keys(base, group), strict=True)
    ]


def _keys(base: str, group: list[Model]) -> list[str]:
    publishers = [model.relative_path.rpartition("/")[0].split("/")[0].lower() for model in group]
    quantizations = [_quantization_in_name(model) for model in group]
    forms = (
        [base] * len(group),
        [f"{publisher}/{base}" for publisher in publishers],
        [f"{base}@{quantization}" for quantization in quantizations],
        [f"{p}/{base}@{q}" for p, q in zip(publishers, quantizations, strict=True)],
    )
    for keys in forms:
        if len(set(keys)) == len(keys):
            return keys
    return [model.relative_path.lower() for model in group]


def _quantization_in_name(model: Model) -> str:
    found = _QUANTIZATION.search(_SHARD.sub("", model.path.stem))
    return (found[0][1:] if found else model.metadata.quantization or "unknown").lower()
