"""Print what a GGUF file says of itself as JSON: `python gguf_metadata.py PATH`.

A process of its own, because the reader takes seconds and some hundred megabytes for a file with a
large vocabulary. Run by path, so that it imports nothing of this package.
"""

import json
import re
import sys
from typing import Any

from gguf import GGUFReader, LlamaFileType


def read_metadata(path: str) -> dict[str, Any]:
    """The fields of `metadata.GgufMetadata`."""
    reader = GGUFReader(path)

    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    architecture = value("general.architecture")

    def number(key: str) -> int | None:
        found: Any = value(f"{architecture}.{key}")
        if isinstance(found, list):  # one for each layer
            found = max(found)
        return None if found is None else int(found)

    heads = number("attention.head_count") or 0
    head_size = (number("embedding_length") or 0) // heads if heads else 0
    kv_heads = number("attention.head_count_kv") or heads
    key_size = number("attention.key_length") or head_size
    value_size = number("attention.value_length") or head_size
    layers = number("block_count") or 0
    file_type = value("general.file_type")
    template = value("tokenizer.chat_template") or ""
    return {
        "architecture": architecture,
        "params_string": value("general.size_label")
        or _params_string(sum(int(tensor.n_elements) for tensor in reader.tensors)),
        "quantization": None if file_type is None else _quantization_name(file_type),
        "context_length": number("context_length") or 0,
        "layers": layers,
        # Keys and values of 16 bits in each layer.
        "context_bytes_per_token": 2 * layers * kv_heads * (key_size + value_size),
        "pooling": number("pooling_type"),
        "knows_tools": bool(re.search(r"\btools\b", template)),
    }


def _params_string(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if count >= size:
            scaled = f"{count / size:.1f}" if count < 10 * size else f"{count / size:.0f}"
            return scaled.removesuffix(".0") + unit
    return f"{count / 1000:.0f}K"


def _quantization_name(file_type: int) -> str | None:
    try:
        return re.sub("^(MOSTLY|ALL)_", "", LlamaFileType(file_type).name)
    except ValueError:
        return None


if __name__ == "__main__":
    print(json.dumps(read_metadata(sys.argv[1])))
