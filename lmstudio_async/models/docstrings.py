"""What a docstring says of a function and of its parameters: Google, numpy and reST style."""

import inspect
import re
from collections.abc import Iterator

_PARAMETERS = r"Args|Arguments|Parameters|Params"
_HEADING = re.compile(rf"({_PARAMETERS}|Returns?|Raises|Yields):?\s*$")
_FIELD = re.compile(r":(?:param|parameter|arg|argument|type|returns?|rtype|raises?)\b[^:]*:")
_REST_ENTRY = re.compile(r":(?:param|parameter|arg|argument)\s+(?:\S+\s+)*?(\w+)\s*:\s*(.*)")
_GOOGLE_ENTRY = re.compile(r"(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_NUMPY_ENTRY = re.compile(r"(\w+)\s*(?::.*)?$")


def parse_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the description of each parameter."""
    lines = inspect.cleandoc(docstring).splitlines()
    end = next((i for i, _ in enumerate(lines) if _section(lines, i) is not None), len(lines))
    found: dict[str, list[str]] = {}
    for name, line in _entries(lines[end:]):
        found.setdefault(name, []).append(line.strip())
    descriptions = {name: " ".join(filter(None, text)) for name, text in found.items()}
    return (
        "\n".join(lines[:end]).strip(),
        {name: text for name, text in descriptions.items() if text},
    )


def _section(lines: list[str], index: int) -> str | None:
    """The style of the section that begins in this line, "" for one not about parameters."""
    line = lines[index]
    if _FIELD.match(line):
        return "reST"
    heading = _HEADING.match(line)
    if heading is None:
        return None
    underlined = index + 1 < len(lines) and re.fullmatch(r"-{3,}\s*", lines[index + 1])
    if not underlined and not line.rstrip().endswith(":"):
        return None
    if re.fullmatch(_PARAMETERS, heading[1]) is None:
        return ""
    return "numpy" if underlined else "Google"


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The name of a parameter with each line of its description."""
    style, name, margin = "", "", 0
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if (section := _section(lines, index)) is not None:
            style, name, margin = section, "", 0
            if style == "reST" and (field := _REST_ENTRY.match(line)):
                name = field[1]
                yield name, field[2]
            continue
        entry = None
        if style == "Google":
            margin = margin or indent
            if indent == margin:
                entry = _GOOGLE_ENTRY.match(line.strip())
        elif style == "numpy" and indent == 0:
            entry = _NUMPY_ENTRY.match(line)
        if entry is not None:
            name = entry[1]
            if style == "Google":
                yield name, entry[2]
        elif name and indent > margin:
            yield name, line
        elif line.strip():
            name = ""
