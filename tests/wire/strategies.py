"""Generated values for the property tests of the wire layer."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Struct, inspect

JINJA = {"type": "jinja", "jinjaPromptTemplate": {"template": "{{ messages }}"}}

_INTEGERS = st.integers(-(2**53), 2**53)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)

json_values = st.recursive(
    st.none() | st.booleans() | _INTEGERS | _FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=3)


def settings_of(cls: type[Struct]) -> st.SearchStrategy[Any]:
    """Valid settings objects of a class, with any of the fields unset that may be."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    required = {field.name: _of_type(field.type) for field in info.fields if field.required}
    optional = {
        field.name: _of_field(field.name, field.type) for field in info.fields if not field.required
    }
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: cls(**fields))


def _of_field(name: str, kind: inspect.Type) -> st.SearchStrategy[Any]:
    if name == "prompt_template":
        return st.just(JINJA)
    if name == "raw":
        return st.none()
    return _of_type(kind)


def _of_type(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.UnionType(types=types):
            # A boolean beside something else is a switch, and takes False only.
            others = [each for each in types if not isinstance(each, inspect.BoolType)]
            options = [_of_type(each) for each in others]
            if len(others) < len(types):
                options.append(st.booleans() if len(types) == 2 else st.just(False))
            return st.one_of(options)
        case inspect.IntType(ge=least, le=most):
            return st.integers(_bound(least, -(2**53)), _bound(most, 2**53))
        case inspect.FloatType(ge=least, le=most):
            return st.floats(least, most, allow_nan=False, allow_infinity=False)
        case inspect.StrType():
            return st.text()
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.ListType(item_type=item):
            return st.lists(_of_type(item), max_size=3)
        case inspect.DictType():
            return json_objects
        case inspect.StructType(cls=cls):
            return settings_of(cls)
    raise NotImplementedError(kind)


def _bound(value: int | None, default: int) -> int:
    return default if value is None else value


def through_json(value: Any, kind: Any) -> Any:
    """The value as it arrives on the other side."""
    return msgspec.json.decode(msgspec.json.encode(value), type=kind)


def to_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))
