"""KV config: the flat list of keys and values in which the server keeps every setting.

A settings class (such as `LlmLoadModelConfig`) names its fields as users write them; a table of
`Setting`s says under which key, and in which form, each field travels. Which keys there are, their
types and defaults: lmstudio-js, lms-kv-config, schema.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from msgspec import UNSET, Struct

from lmstudio_async.wire.config_input import Config

C = TypeVar("C", bound=Config)

_logger = logging.getLogger("lmstudio_async")

# What taking a value apart raises if it is built otherwise than expected.
UNREADABLE = (TypeError, KeyError, IndexError, AttributeError, ValueError)

LayerName: TypeAlias = Literal[
    "currentlyEditing",
    "currentlyLoaded",
    "apiOverride",
    "conversationSpecific",
    "conversationGlobal",
    "preset",
    "serverSession",
    "httpServerRequestOverride",
    "completeModeFormatting",
    "instance",
    "userModelDefault",
    "virtualModel",
    "modelDefault",
    "hardware",
]


class KvField(Struct):
    key: str
    value: Any = UNSET


class KvConfig(Struct):
    fields: list[KvField]

    def to_dict(self) -> dict[str, Any]:
        """Values by key. A later field of the same key wins, as it does on the server."""
        return {field.key: field.value for field in self.fields if field.value is not UNSET}


class KvConfigLayer(Struct, rename="camel"):
    layer_name: LayerName
    config: KvConfig


class KvConfigStack(Struct):
    """Layers of configuration; one lower in the list overrides those above it."""

    layers: list[KvConfigLayer]


def single_layer(config: KvConfig, name: LayerName = "apiOverride") -> KvConfigStack:
    """The stack that holds just `config`, by default as overrides coming from the API."""
    return KvConfigStack([KvConfigLayer(name, config)])


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Setting:
    """Where and how one field of a settings class travels."""

    name: str
    key: str
    encode: Callable[[Any], Any] = _same
    decode: Callable[[Any], Any] = _same


def checkbox(name: str, key: str, unchecked: Any) -> Setting:
    """A setting that False switches off; `unchecked` is the value that travels with it then."""

    def encode(value: Any) -> dict[str, Any]:
        return {"checked": value is not False, "value": unchecked if value is False else value}

    def decode(value: dict[str, Any]) -> Any:
        return value["value"] if value["checked"] else False

    return Setting(name, key, encode, decode)


def encode_settings(config: Config, settings: Iterable[Setting]) -> list[KvField]:
    """The KV fields for those fields of `config` that are set, in the order of `settings`."""
    return [
        KvField(setting.key, setting.encode(value))
        for setting in settings
        if (value := getattr(config, setting.name)) is not None
    ]


def decode_settings(
    cls: type[C], values: dict[str, Any], settings: Iterable[Setting], **known: Any
) -> C:
    """The settings object that `values`, by KV key, stand for.

    Other keys are skipped, and so are values of another form: they must not cost a whole answer.
    """
    for setting in settings:
        value = values.get(setting.key)
        if value is not None:
            try:
                decoded = setting.decode(value)
                cls(**{setting.name: decoded})  # which refuses what no user may set
                known[setting.name] = decoded
            except UNREADABLE:
                _logger.debug("skipped a value of %s that has an unknown form", setting.key)
    return cls(**known)
