"""What the scripted server does when called: the endpoints of its namespaces."""

import asyncio
import base64
import os
from typing import TYPE_CHECKING, Any

from tests.scripted_models import (
    Instance,
    Json,
    Refusal,
    domain_mismatch,
    embedding,
    failure,
    flatten,
    fragments,
    identifier_not_found,
    kv_value,
    memory_estimate,
    path_not_found,
    render_chat,
    specific_model_unloaded,
    tokens,
)

if TYPE_CHECKING:
    from tests.scripted_socket import Channel, ChannelHandler, Request, RpcHandler

LOAD_PROGRESS_BEFORE_HOLD = (0.0, 0.5)


async def list_loaded(request: "Request") -> Any:
    return [instance.info for instance in request.server.instances(request.namespace)]


async def get_model_info(request: "Request") -> Any:
    if request.parameter["throwIfNotFound"]:
        return request.instance(request.parameter["specifier"]).info
    found = request.find(request.parameter["specifier"])
    return None if found is None else found.info


async def unload_model(request: "Request") -> Any:
    server, identifier = request.server, request.parameter["identifier"]
    if server.take_unload_refusal():
        raise Refusal(failure("The model cannot be unloaded now."))
    await server.when(lambda: not server.holds_unloads)
    if not server.unload(identifier, request.namespace):
        raise Refusal(identifier_not_found(identifier, server.loaded))


async def get_load_config(request: "Request") -> Any:
    return request.instance(request.parameter["specifier"]).load_config


async def get_base_prediction_config(request: "Request") -> Any:
    request.instance(request.parameter["specifier"])
    return {"fields": []}


async def get_processing_state(request: "Request") -> Any:
    specifier = request.parameter["specifier"]
    found = request.find(specifier)
    if found is None and request.parameter["throwIfNotFound"]:
        found = request.instance(specifier)
    if found is None or not found.predictions:
        return {"status": "idle", "queued": 0}
    return {"status": "generating", "queued": found.predictions - 1}


async def estimate_model_usage(request: "Request") -> Any:
    _on_disk(request, request.parameter["modelKey"])
    return memory_estimate()


async def tokenize(request: "Request") -> Any:
    request.instance(request.parameter["specifier"])
    return {"tokens": tokens(request.parameter["inputString"])}


async def count_tokens(request: "Request") -> Any:
    request.instance(request.parameter["specifier"])
    return {"tokenCount": len(tokens(request.parameter["inputString"]))}


async def embed_string(request: "Request") -> Any:
    request.instance(request.parameter["modelSpecifier"])
    return {"embedding": embedding(request.parameter["inputString"])}


async def apply_prompt_template(request: "Request") -> Any:
    request.instance(request.parameter["specifier"])
    return {"formatted": render_chat(request.parameter["history"])}


async def preload_draft_model(request: "Request") -> Any:
    request.instance(request.parameter["specifier"])
    _on_disk(request, request.parameter["draftModelKey"])


async def list_downloaded_models(request: "Request") -> Any:
    return list(request.server.models.values())


async def list_variants(request: "Request") -> Any:
    return [_on_disk(request, request.parameter["modelKey"], any_kind=True)]


async def version(request: "Request") -> Any:
    return {"version": "0.3.99", "build": 1}


async def info(request: "Request") -> Any:
    return {"pid": os.getpid(), "isDaemon": False, "version": "0.3.99"}


async def upload_file(request: "Request") -> Any:
    server, name = request.server, request.parameter["name"]
    content = base64.b64decode(request.parameter["contentBase64"], validate=True)
    await server.when(lambda: not server.holds_uploads)
    return {
        "identifier": server.keep_file(content),
        "fileType": "text/plain" if name.endswith(".txt") else "image",
        "sizeBytes": len(content),
    }


async def load_model(request: "Request", channel: "Channel") -> Json | None:
    parameter = request.parameter
    model = _on_disk(request, parameter["modelKey"])
    await channel.send({"type": "resolved", "info": model})
    instance = await _load(
        request,
        channel,
        model,
        request.server.reserve_identifier(parameter.get("identifier"), model),
        parameter.get("ttlMs"),
        "progress",
    )
    return None if instance is None else {"type": "success", "info": instance.info}


async def get_or_load(request: "Request", channel: "Channel") -> Json | None:
    server, parameter = request.server, request.parameter
    name = parameter["identifier"]
    for instance in server.instances(request.namespace):
        if name in (instance.info["identifier"], instance.info["modelKey"]):
            return {"type": "alreadyLoaded", "info": instance.info}
    model = _on_disk(request, name)
    if server.evict_just_in_time:
        for other in server.instances():
            if other.just_in_time:
                await channel.send({"type": "unloadingOtherJITModel", "info": other.info})
                server.unload(other.info["identifier"])
    identifier = server.reserve_identifier(None, model)
    await channel.send({"type": "startLoading", "identifier": identifier, "info": model})
    loaded = await _load(
        request, channel, model, identifier, parameter.get("loadTtlMs"), "loadProgress"
    )
    if loaded is None:
        return None
    loaded.just_in_time = True
    return {"type": "loadSuccess", "info": loaded.info}


async def _load(
    request: "Request",
    channel: "Channel",
    model: Json,
    identifier: str,
    ttl_ms: int | None,
    progress: str,
) -> Instance | None:
    """The new instance, or None where the client is told nothing of one."""
    server = request.server
    config = flatten(request.parameter["loadConfigStack"])

    def finished() -> Instance:
        return server.add_instance(model, identifier, ttl_ms, config)

    try:
        for value in LOAD_PROGRESS_BEFORE_HOLD:
            await channel.send({"type": progress, "progress": value})
        await server.when(
            lambda: not server.holds_loads or (channel.cancelled and not server.ignore_load_cancel)
        )
        if channel.cancelled and not server.ignore_load_cancel:
            if server.finish_load_despite_cancel:
                instance = finished()
                return None if server.finish_load_despite_cancel == "close" else instance
            if server.cancelled_load_is_error:
                raise Refusal(failure("Operation canceled."))
            return None
        await channel.send({"type": progress, "progress": 1.0})
        return finished()
    except asyncio.CancelledError:
        if server.finish_load_despite_drop:
            finished()
        raise
    finally:
        server.release_identifier(identifier)


async def predict(request: "Request", channel: "Channel") -> Json | None:
    prompt = render_chat(request.parameter["history"])
    return await _generate(request, channel, prompt)


async def complete_raw_text(request: "Request", channel: "Channel") -> Json | None:
    return await _generate(request, channel, request.parameter["rawPrompt"])


async def _generate(request: "Request", channel: "Channel", prompt: str) -> Json:
    server = request.server
    instance = request.instance(request.parameter["modelSpecifier"])
    config = flatten(request.parameter["predictionConfigStack"])
    packets, stop_reason = server.next_prediction()
    limit = kv_value(config, "llm.prediction.maxPredictedTokens")
    if limit is not None and limit["checked"] and limit["value"] < len(packets):
        packets, stop_reason = packets[: limit["value"]], "maxPredictedTokensReached"
    prompt_tokens = len(tokens(prompt))

    sent = 0

    def unloaded() -> bool:
        return instance not in server.instances(request.namespace)

    def may_go_on() -> bool:
        return channel.cancelled or unloaded() or not server.stalls(sent)

    instance.predictions += 1
    try:
        for share in (0.0, 1.0):
            await channel.send(_prompt_progress(prompt_tokens, share))
        while True:
            await server.when(may_go_on)
            if channel.cancelled:
                stop_reason = "userStopped"
                break
            if unloaded():
                raise Refusal(specific_model_unloaded())
            if sent == len(packets) and not server.endless_predictions:
                break
            await channel.send(packets[sent % len(packets)])
            sent += 1
            server.fragment_sent()
            # Lets a cancel in between two fragments.
            await asyncio.sleep(0)
    finally:
        instance.predictions -= 1
    return {
        "type": "success",
        "stats": {
            "stopReason": stop_reason,
            "tokensPerSecond": 50.0,
            "numGpuLayers": 0,
            "timeToFirstTokenSec": 0.01,
            "totalTimeSec": 0.1,
            "promptTokensCount": prompt_tokens,
            "predictedTokensCount": sent,
            "totalTokensCount": prompt_tokens + sent,
        },
        "modelInfo": instance.info,
        "loadModelConfig": instance.load_config,
        "predictionConfig": config,
    }


def fragment_packet(content: str, **more: Any) -> Json:
    """A packet of the predict channel with one fragment."""
    fragment = {
        "content": content,
        "tokensCount": 1,
        "containsDrafted": False,
        "reasoningType": "none",
        "isStructural": False,
    }
    return {"type": "fragment", "fragment": fragment | more}


def fragment_packets(reply: str) -> list[Json]:
    return [fragment_packet(word) for word in fragments(reply)]


def _prompt_progress(total: int, share: float) -> Json:
    processed = int(total * share)
    return {
        "type": "promptProcessingProgress",
        "progress": share,
        "details": {
            "cachedTokenCount": 0,
            "totalPromptTokenCount": total,
            "processedPromptTokenCount": processed,
            "unprocessedPromptTokenCount": total - processed,
        },
    }


def _on_disk(request: "Request", name: str, any_kind: bool = False) -> Json:
    """The model of that key or path; Refusal if there is none of this namespace."""
    models = request.server.models
    for model in models.values():
        if name in (model["modelKey"], model["path"]):
            if not any_kind and model["type"] != request.namespace:
                raise Refusal(domain_mismatch(name, model["type"], request.namespace))
            return model
    raise Refusal(path_not_found(name, models))


_MODEL_RPCS: "dict[str, RpcHandler]" = {
    "listLoaded": list_loaded,
    "getModelInfo": get_model_info,
    "unloadModel": unload_model,
    "getLoadConfig": get_load_config,
    "getBasePredictionConfig": get_base_prediction_config,
    "getInstanceProcessingState": get_processing_state,
    "estimateModelUsage": estimate_model_usage,
    "tokenize": tokenize,
    "countTokens": count_tokens,
}
_MODEL_CHANNELS: "dict[str, ChannelHandler]" = {
    "loadModel": load_model,
    "getOrLoad": get_or_load,
}

RPCS: "dict[str, dict[str, RpcHandler]]" = {
    "llm": {
        **_MODEL_RPCS,
        "applyPromptTemplate": apply_prompt_template,
        "preloadDraftModel": preload_draft_model,
    },
    "embedding": {**_MODEL_RPCS, "embedString": embed_string},
    "system": {
        "listDownloadedModels": list_downloaded_models,
        "listDownloadedModelVariants": list_variants,
        "version": version,
        "info": info,
    },
    "files": {"uploadFileBase64": upload_file},
}
CHANNELS: "dict[str, dict[str, ChannelHandler]]" = {
    "llm": {**_MODEL_CHANNELS, "predict": predict, "completeRawText": complete_raw_text},
    "embedding": _MODEL_CHANNELS,
    "files": {},
}
