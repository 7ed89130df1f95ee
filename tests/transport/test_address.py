"""Where a server is, as users write it."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError
from lmstudio_async.transport.address import Address, parse_address


@pytest.mark.parametrize(
    ("api_host", "address"),
    [
        ("localhost", Address("localhost", 1234)),
        ("localhost:8080", Address("localhost", 8080)),
        ("LocalHost:8080", Address("localhost", 8080)),
        ("192.168.0.7:1234/", Address("192.168.0.7", 1234)),
        ("[::1]", Address("::1", 1234)),
        ("[fe80::1%eth0]:99", Address("fe80::1%eth0", 99)),
        ("ws://box", Address("box", 80)),
        ("http://box:1234", Address("box", 1234)),
        ("wss://example.org", Address("example.org", 443, secure=True)),
        ("HTTPS://example.org/lm/", Address("example.org", 443, True, "/lm")),
        ("ws://[::1]:7/a/b", Address("::1", 7, False, "/a/b")),
    ],
)
def test_it_may_be_a_host_with_a_port_or_a_url(api_host: str, address: Address) -> None:
    assert parse_address(api_host) == address


@pytest.mark.parametrize(
    ("api_host", "url"),
    [
        ("localhost", "ws://localhost:1234/llm"),
        ("[::1]:7", "ws://[::1]:7/llm"),
        ("http://box", "ws://box:80/llm"),
        ("https://example.org/lm/", "wss://example.org:443/lm/llm"),
    ],
)
def test_each_namespace_has_a_url_below_it(api_host: str, url: str) -> None:
    assert parse_address(api_host).url("llm") == url


@pytest.mark.parametrize(
    ("api_host", "text"),
    [
        ("localhost:8080", "localhost:8080"),
        ("http://box", "box:80"),
        ("[::1]", "[::1]:1234"),
        ("https://example.org", "wss://example.org:443"),
        ("ws://box/lm", "ws://box:80/lm"),
    ],
)
def test_it_is_shown_as_it_can_be_written(api_host: str, text: str) -> None:
    assert str(parse_address(api_host)) == text
    assert parse_address(text) == parse_address(api_host)


@pytest.mark.parametrize(
    ("api_host", "reason"),
    [
        ("", "names no host"),
        (":1234", "names no host"),
        ("ws:///llm", "names no host"),
        ("two words", "names no host"),
        ("localhost:port", "Port"),
        ("localhost:65536", "Port"),
        ("localhost:0", "port is missing"),
        ("localhost:", "port is missing"),
        ("[::1", "Invalid IPv6 URL"),
        ("::1", "Port"),
        ("localhost/llm", "only a URL may have a path"),
        ("ws://localhost/?a=b", "no query"),
        ("ws://localhost/#a", "no query"),
        ("ftp://localhost", "'ftp' is not a scheme"),
        ("://localhost", "'' is not a scheme"),
    ],
)
def test_what_cannot_be_right_is_refused(api_host: str, reason: str) -> None:
    with pytest.raises(LMStudioValueError, match=reason) as caught:
        parse_address(api_host)
    assert f"api_host {api_host!r}" in str(caught.value)


@pytest.mark.parametrize("api_host", [None, 1234, b"localhost", ("localhost", 1234)])
def test_only_text_is_taken(api_host: Any) -> None:
    with pytest.raises(LMStudioTypeError, match="api_host must be a string"):
        parse_address(api_host)


@pytest.mark.parametrize(
    "api_host",
    [
        "ws://user:hunter2@localhost",
        "user:hunter2@localhost:99999",
        "ftp://user:hunter2@localhost",
        "ws://user:hunter2@[localhost",
        "sk-lm-hunter22:hunter2hunter2hunter",
        "ws://sk-lm-hunter22:hunter2hunter2hunter",
    ],
)
def test_a_secret_in_it_is_refused_and_not_shown(api_host: str) -> None:
    with pytest.raises(LMStudioValueError, match="api_token") as caught:
        parse_address(api_host)
    assert "hunter2" not in str(caught.value)


@given(
    st.text()
    | st.from_regex(r"((ws|wss|http|ftp)://)?[a-z0-9.:\[\]@-]{0,12}(:\d{0,6})?(/[a-z?#]{0,5})?")
)
@example("[::1]:1")
def test_whatever_is_written_is_refused_or_means_the_same_when_shown(api_host: str) -> None:
    try:
        address = parse_address(api_host)
    except LMStudioValueError:
        return
    assert 0 < address.port < 65536
    assert parse_address(str(address)) == address
