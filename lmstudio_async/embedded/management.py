"""Endpoints that `llm` and `embedding` share, and the rest of `embedding` and `system`."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from lmstudio_async.embedded.instances import Instance, Instances, Load
from lmstudio_async.embedded.library import Domain, Library
from lmstudio_async.embedded.load_settings import LoadSettings, to_kv_config
from lmstudio_async.embedded.refusal import (
    RequestError,
    feature_not_supported,
    refuse_remote_device,
)
from lmstudio_async.embedded.session import Channel, Namespace, Rpc, Stream
from lmstudio_async.version import __version__
from lmstudio_async.wire.kv_config import KvConfig
from lmstudio_async.wire.loading import (
    AlreadyLoadedPacket,
    CountTokensResult,
    EmbeddingResult,
    EmbedParameter,
    EstimateUsageParameter,
    FindParameter,
    GetOrLoadParameter,
    LoadModelParameter,
    LoadProgressPacket,
    LoadSuccessPacket,
    MemoryEstimate,
    ProcessingState,
    ProgressPacket,
    ResolvedPacket,
    ServerInfo,
    ServerVersion,
    SpecifierParameter,
    StartLoadingPacket,
    SuccessPacket,
    TextParameter,
    TokenizeResult,
    UnloadModelParameter,
    UsageEstimate,
)
from lmstudio_async.wire.model_info import AnyInstanceInfo, AnyModelInfo, ModelSpecifier


class ModelEndpoints:
    """What can be done with the models of one domain."""

    def __init__(self, domain: Domain, library: Library, instances: Instances) -> None:
        self._domain = domain
        self._library = library
        self._instances = instances

    def namespace(self) -> Namespace:
        rpcs = {
            "unloadModel": Rpc(UnloadModelParameter, self.unload_model),
            "listLoaded": Rpc(None, self.list_loaded),
            "getModelInfo": Rpc(FindParameter, self.get_model_info),
            "getLoadConfig": Rpc(SpecifierParameter, self.get_load_config),
            "getBasePredictionConfig": Rpc(SpecifierParameter, self.get_base_prediction_config),
            "getInstanceProcessingState": Rpc(FindParameter, self.get_processing_state),
            "estimateModelUsage": Rpc(EstimateUsageParameter, self.estimate_model_usage),
            "tokenize": Rpc(TextParameter, self.tokenize),
            "countTokens": Rpc(TextParameter, self.count_tokens),
        }
        streams = {
            "loadModel": Stream(LoadModelParameter, self.load_model),
            "getOrLoad": Stream(GetOrLoadParameter, self.get_or_load),
        }
        return Namespace(rpcs, streams)

    def resolve(self, specifier: ModelSpecifier) -> Instance:
        return self._instances.resolve(self._domain, specifier)

    async def load_model(self, parameter: LoadModelParameter, channel: Channel) -> None:
        refuse_remote_device(parameter.device_identifier)
        load = await self._instances.load(
            self._domain,
            parameter.model_key,
            parameter.identifier,
            parameter.load_config_stack,
            parameter.ttl_ms,
        )

        async def begin() -> None:
            await channel.send(ResolvedPacket[AnyModelInfo](info=load.settings.model.info()))

        instance = await _follow(load, channel, begin, lambda done: ProgressPacket(progress=done))
        await channel.send(SuccessPacket[AnyInstanceInfo](info=instance.info()))

    async def get_or_load(self, parameter: GetOrLoadParameter, channel: Channel) -> None:
        refuse_remote_device(parameter.device_identifier)
        found = await self._instances.get_or_load(
            self._domain,
            parameter.identifier,
            parameter.load_config_stack,
            parameter.load_ttl_ms,
        )
        if isinstance(found, Instance):
            await channel.send(AlreadyLoadedPacket[AnyInstanceInfo](info=found.info()))
            return

        async def begin() -> None:
            info = found.settings.model.info()
            await channel.send(
                StartLoadingPacket[AnyModelInfo](identifier=found.identifier, info=info)
            )

        instance = await _follow(
            found, channel, begin, lambda done: LoadProgressPacket(progress=done)
        )
        await channel.send(LoadSuccessPacket[AnyInstanceInfo](info=instance.info()))

    async def unload_model(self, parameter: UnloadModelParameter) -> None:
        refuse_remote_device(parameter.device_identifier)
        await self._instances.unload(self._domain, parameter.identifier)

    async def list_loaded(self, _: None) -> list[AnyInstanceInfo]:
        return [instance.info() for instance in self._instances.loaded(self._domain)]

    async def get_model_info(self, parameter: FindParameter) -> AnyInstanceInfo | None:
        instance = self._find(parameter)
        return None if instance is None else instance.info()

    async def get_load_config(self, parameter: SpecifierParameter) -> KvConfig:
        return self.resolve(parameter.specifier).settings.config

    async def get_base_prediction_config(self, parameter: SpecifierParameter) -> KvConfig:
        self.resolve(parameter.specifier)
        return to_kv_config({})

    async def get_processing_state(self, parameter: FindParameter) -> ProcessingState:
        instance = self._find(parameter)
        return ProcessingState("idle", 0) if instance is None else instance.processing_state()

    def _find(self, parameter: FindParameter) -> Instance | None:
        try:
            return self.resolve(parameter.specifier)
        except RequestError:
            if parameter.throw_if_not_found:
                raise
            return None

    async def estimate_model_usage(self, parameter: EstimateUsageParameter) -> UsageEstimate:
        refuse_remote_device(parameter.device_identifier)
        model = await self._library.find(parameter.model_key, self._domain)
        context = LoadSettings(model, parameter.load_config_stack).context_bytes
        return UsageEstimate(
            MemoryEstimate(
                confidence="low",
                model_vram_bytes=0,
                context_vram_bytes=0,
                total_vram_bytes=0,
                model_bytes=model.size_bytes,
                context_bytes=context,
                total_bytes=model.size_bytes + context,
            ),
            passes_guardrails=True,
        )

    async def tokenize(self, parameter: TextParameter) -> TokenizeResult:
        return TokenizeResult(await self._tokens(parameter))

    async def count_tokens(self, parameter: TextParameter) -> CountTokensResult:
        return CountTokensResult(len(await self._tokens(parameter)))

    async def _tokens(self, parameter: TextParameter) -> list[int]:
        instance = self.resolve(parameter.specifier)
        with instance.in_use():
            answer = await instance.engine.post(
                "/tokenize", {"content": parameter.input_string, "add_special": False}
            )
        return msgspec.convert(answer, TokenizeResult).tokens


async def _follow(
    load: Load,
    channel: Channel,
    begin: Callable[[], Awaitable[None]],
    packet: Callable[[float], Struct],
) -> Instance:
    """Tell the client of a load until it is done; raises RequestError, also when cancelled."""

    async def report(progress: float) -> None:
        await channel.send(packet(progress))

    with channel.cancellable():
        async with load.joined():
            await begin()
            return await load.wait(report)
    raise RequestError("The load was cancelled by the client")


class EmbeddingEndpoints(ModelEndpoints):
    def namespace(self) -> Namespace:
        shared = super().namespace()
        return Namespace(
            {**shared.rpcs, "embedString": Rpc(EmbedParameter, self.embed_string)}, shared.streams
        )

    async def embed_string(self, parameter: EmbedParameter) -> EmbeddingResult:
        instance = self.resolve(parameter.model_specifier)
        text = parameter.input_string
        # No text has more tokens than bytes, but for those that mark its beginning and its end.
        most_tokens = len(text.encode()) + 2
        async with instance.turn("computingEmbedding", most_tokens):
            answer: Any = await instance.engine.post("/embedding", {"content": text})
        return EmbeddingResult(answer[0]["embedding"][0])


def system_namespace(library: Library) -> Namespace:
    async def list_downloaded_models(_: Any) -> list[AnyModelInfo]:
        return [model.info() for model in await library.models()]

    async def server_version(_: None) -> ServerVersion:
        return ServerVersion(__version__, 0)

    async def info(_: None) -> ServerInfo:
        return ServerInfo(os.getpid(), True, __version__)

    return Namespace(
        {
            "listDownloadedModels": Rpc(Any, list_downloaded_models),
            "version": Rpc(None, server_version),
            "info": Rpc(None, info),
        }
    )


def files_namespace() -> Namespace:
    """A place to say no; without it a client would call the server unreachable."""

    async def upload(_: Any) -> None:
        raise feature_not_supported(
            "vision", "This server takes no files or images: its models have no vision"
        )

    return Namespace({"uploadFileBase64": Rpc(Any, upload)})
