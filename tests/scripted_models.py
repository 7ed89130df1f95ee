"""What the scripted server has on disk, and how it words its errors."""

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["llm", "embedding"]


def model_on_disk(key: str, kind: Kind) -> Json:
    """The description of a model file."""
    info: Json = {
        "type": kind,
        "modelKey": key,
        "format": "gguf",
        "displayName": key.title(),
        "publisher": "tests",
        "path": f"tests/{key}/{key}-Q4_K_M.gguf",
        "sizeBytes": 1_000_000,
        "indexedModelIdentifier": f"tests/{key}",
        "deviceIdentifier": None,
        "paramsString": "1B",
        "architecture": "llama" if kind == "llm" else "nomic-bert",
        "quantization": {"name": "Q4_K_M", "bits": 4},
        "maxContextLength": 8192,
    }
    if kind == "llm":
        info |= {"vision": False, "trainedForToolUse": True}
    return info


@dataclass
class Instance:
    """A model in memory."""

    info: Json
    load_config: Json
    just_in_time: bool = False
    predictions: int = 0

    @property
    def namespace(self) -> str:
        return str(self.info["type"])

    def matches(self, query: Json) -> bool:
        return (
            query.get("domain", self.namespace) == self.namespace
            and query.get("identifier", self.info["identifier"]) == self.info["identifier"]
            and query.get("path", self.info["path"]) in (self.info["path"], self.info["modelKey"])
            and query.get("vision", self.info.get("vision")) == self.info.get("vision")
        )


@dataclass
class Refusal(Exception):
    """An error that the server answers with."""

    error: Any = field(default_factory=dict)


def failure(title: str, display_data: Json | None = None, **more: Any) -> Json:
    """An error as it travels."""
    error: Json = {"title": title, "rootTitle": title, "stack": f"Error: {title}\n    at server"}
    if display_data is not None:
        error["displayData"] = display_data
    return error | more


def specific_model_unloaded() -> Json:
    return failure("Model unloaded.", {"code": "generic.specificModelUnloaded"})


def no_model_matching(query: Json, loaded: Iterable[str]) -> Json:
    names = list(loaded)
    return failure(
        "No model found that fits the query.",
        {
            "code": "generic.noModelMatchingQuery",
            "query": query,
            "loadedModelsSample": names[:5],
            "totalLoadedModels": len(names),
        },
    )


def path_not_found(path: str, models: Iterable[str]) -> Json:
    names = list(models)
    return failure(
        f"Model not found: {path}",
        {
            "code": "generic.pathNotFound",
            "path": path,
            "availablePathsSample": names[:5],
            "totalModels": len(names),
        },
    )


def identifier_not_found(identifier: str, loaded: Iterable[str]) -> Json:
    names = list(loaded)
    return failure(
        f"Cannot find a model with the identifier: {identifier}",
        {
            "code": "generic.identifierNotFound",
            "identifier": identifier,
            "loadedModelsSample": names[:5],
            "totalLoadedModels": len(names),
        },
    )


def domain_mismatch(path: str, actual: str, expected: str) -> Json:
    return failure(
        f"{path} is not of the domain {expected}",
        {
            "code": "generic.domainMismatch",
            "path": path,
            "actualDomain": actual,
            "expectedDomain": expected,
        },
    )


def flatten(stack: Json) -> Json:
    """The KV config that a stack of layers amounts to."""
    values = {f["key"]: f for layer in stack["layers"] for f in layer["config"]["fields"]}
    return {"fields": list(values.values())}


def kv_value(config: Json, key: str) -> Any:
    return next((f.get("value") for f in config["fields"] if f["key"] == key), None)


def tokens(text: str) -> list[int]:
    """One token for each word, the same one for the same word."""
    return [zlib.crc32(word.encode()) % 32_000 for word in text.split()]


def embedding(text: str) -> list[float]:
    return [byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:8]]


def fragments(reply: str) -> list[str]:
    """The words of a reply, each with the space before it."""
    words = reply.split(" ")
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]


def memory_estimate() -> Json:
    return {
        "memory": {
            "confidence": "high",
            "modelVramBytes": 0,
            "contextVramBytes": 0,
            "totalVramBytes": 0,
            "modelBytes": 1_000_000,
            "contextBytes": 200_000,
            "totalBytes": 1_200_000,
        },
        "passesGuardrails": True,
    }


def render_chat(history: Json) -> str:
    """A chat in the one prompt template that the server's models have."""
    lines = [
        f"<{message['role']}>" + "".join(part.get("text", "") for part in message["content"])
        for message in history["messages"]
    ]
    return "\n".join([*lines, "<assistant>"])
