"""Chats: what may be added, what is refused, what is sent, and what is shared with nobody."""

import copy
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import lmstudio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmstudio_async as lms
from tests.contract import ContractChecker, schema_errors
from tests.scripted_server import ScriptedServer
from tests.wire.strategies import json_objects

pytestmark = pytest.mark.anyio

IMAGE = lms.FileHandle(name="cat.png", identifier="f1", size_bytes=3, file_type="image")
IMAGE_DATA = {
    "type": "file",
    "name": "cat.png",
    "identifier": "f1",
    "sizeBytes": 3,
    "fileType": "image",
}
REQUEST = lms.ToolCallRequest(name="add", id="1", arguments={"numbers": [1, 2]})
REQUEST_DATA = {"type": "function", "name": "add", "id": "1", "arguments": {"numbers": [1, 2]}}
RESULT = lms.ToolCallResultData(content="3", tool_call_id="1")
RESULT_DATA = {"type": "toolCallResult", "content": "3", "toolCallId": "1"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def said(role: str, *parts: Any) -> dict[str, Any]:
    content = [text(part) if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": content}


def messages(chat: lms.Chat) -> list[Any]:
    return list(chat.to_history()["messages"])


def talk() -> lms.Chat:
    """A chat with a message of every role."""
    chat = lms.Chat("Be brief.")
    chat.add_user_message("What is 1 + 2?", images=[IMAGE])
    chat.add_assistant_response("Let me see.", [REQUEST])
    chat.add_tool_result(RESULT)
    return chat


TALK = [
    said("system", "Be brief."),
    said("user", "What is 1 + 2?", IMAGE_DATA),
    said(
        "assistant",
        "Let me see.",
        {"type": "toolCallRequest", "toolCallRequest": REQUEST_DATA},
    ),
    said("tool", RESULT_DATA),
]


@pytest.fixture
async def model(client: lms.Client) -> AsyncIterator[lms.LLM]:
    async with client.llm.load_new_instance("llm-a") as model:
        yield model


# Adding


def test_a_chat_begins_empty_or_with_a_system_prompt() -> None:
    assert messages(lms.Chat()) == []
    assert messages(lms.Chat("Be brief.")) == [said("system", "Be brief.")]


def test_messages_of_every_role_come_out_in_protocol_form() -> None:
    assert messages(talk()) == TALK


@pytest.mark.parametrize(
    "prompt", ["Hi", lms.TextData(text="Hi"), {"text": "Hi"}, text("Hi")], ids=repr
)
def test_text_may_be_given_in_several_forms(prompt: Any) -> None:
    chat = lms.Chat(prompt)
    chat.add_user_message(prompt)
    chat.add_assistant_response(prompt)
    assert messages(chat) == [said(role, "Hi") for role in ("system", "user", "assistant")]


@pytest.mark.parametrize(
    "handle",
    [
        IMAGE,
        IMAGE_DATA,
        {"name": "cat.png", "identifier": "f1", "size_bytes": 3, "file_type": "image"},
    ],
    ids=["handle", "dict", "dict in snake_case"],
)
@pytest.mark.parametrize("how", ["content", "images", "_files", "response"])
def test_files_may_be_given_in_several_forms(handle: Any, how: str) -> None:
    chat = lms.Chat()
    match how:
        case "content":
            chat.add_user_message(handle)
        case "response":
            chat.add_assistant_response(handle)
        case _:
            chat.add_user_message("Look", **{how: [handle]})
    assert messages(chat)[0]["content"][-1] == IMAGE_DATA


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        REQUEST_DATA,
        lms.ToolCallRequestData(tool_call_request=REQUEST),
        {"type": "toolCallRequest", "toolCallRequest": REQUEST_DATA},
        {"type": "toolCallRequest", "tool_call_request": REQUEST},
        {"name": "add", "id": "1", "arguments": {"numbers": [1, 2]}},
    ],
)
def test_tool_call_requests_may_be_given_in_several_forms(request_: Any) -> None:
    chat = lms.Chat()
    message = chat.add_assistant_response("Let me see.", [request_])
    assert messages(chat) == [TALK[2]]
    assert message.tool_call_requests == [REQUEST]


@pytest.mark.parametrize(
    "result",
    [
        RESULT,
        RESULT_DATA,
        {"content": "3", "toolCallId": "1"},
        {"content": "3", "tool_call_id": "1"},
    ],
)
def test_tool_call_results_may_be_given_in_several_forms(result: Any) -> None:
    chat = lms.Chat()
    chat.add_tool_result(result)
    chat.add_tool_results(iter([result, result]))
    assert messages(chat) == [said("tool", RESULT_DATA), said("tool", RESULT_DATA, RESULT_DATA)]


def test_consecutive_user_messages_become_one() -> None:
    chat = lms.Chat()
    first = chat.add_user_message(["One", IMAGE])
    assert chat.add_user_message(part for part in ("Two", "Three")) is first
    assert messages(chat) == [said("user", "One", IMAGE_DATA, "Two", "Three")]


@pytest.mark.parametrize(
    ("add", "what"),
    [
        (lambda chat: chat.add_system_prompt("A"), "consecutive system prompts"),
        (lambda chat: chat.add_assistant_response("A"), "consecutive assistant responses"),
        (lambda chat: chat.append({"role": "assistant", "content": "A"}), "assistant responses"),
        (lambda chat: chat.append(lms.AssistantResponse([])), "assistant responses"),
    ],
)
def test_two_of_a_kind_are_refused(add: Callable[[lms.Chat], object], what: str) -> None:
    chat = lms.Chat()
    chat.add_system_prompt("S")
    if "assistant" in what:
        chat.add_assistant_response("A")
    before = messages(chat)
    with pytest.raises(lms.LMStudioRuntimeError, match=what):
        add(chat)
    assert messages(chat) == before


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda chat: lms.Chat(5), "prompt must be text, not 5"),  # type: ignore[arg-type]
        (lambda chat: chat.add_system_prompt(IMAGE), "prompt must be text"),
        (lambda chat: chat.add_system_prompt("\ud800"), "prompt is not valid Unicode"),
        (lambda chat: chat.add_system_prompt(lms.TextData(text="\ud800")), "prompt: .*surrogates"),
        (lambda chat: chat.add_system_prompt({"text": 5}), "prompt must be text"),
        (lambda chat: chat.add_user_message(b"bytes"), "content must be text or a file handle"),
        (lambda chat: chat.add_user_message(["fine", None]), "content must be .* not None"),
        (lambda chat: lms.Chat().add_user_message([]), "content is empty"),
        (lambda chat: chat.add_user_message("a", images=["b.png"]), "images must be a file handle"),
        (lambda chat: chat.add_user_message("a", _files=[text("b")]), "_files must be a file"),
        (lambda chat: chat.add_user_message(IMAGE_DATA | {"fileType": "cat"}), "content: Invalid"),
        (lambda chat: chat.add_user_message({"name": "a", "identifier": "b"}), "sizeBytes"),
        (lambda chat: chat.add_user_message(lms.TextData(text=5)), "content: Expected `str`"),  # type: ignore[arg-type]
        (lambda chat: chat.add_assistant_response(None), "response must be text or a file"),
        (lambda chat: chat.add_assistant_response("a", ["b"]), "tool_call_requests must be"),
        (lambda chat: chat.add_assistant_response("a", [{"name": 5}]), "tool_call_requests: Exp"),
        (
            lambda chat: chat.add_assistant_response(
                "a", [lms.ToolCallRequest(name="f", arguments={"a": object()})]
            ),
            "tool_call_requests: Encoding objects",
        ),
        (lambda chat: chat.add_tool_result("3"), "result must be a tool call result"),
        (lambda chat: chat.add_tool_result({"content": 3}), "result: Expected `str`"),
        (lambda chat: chat.add_tool_results([]), "results is empty"),
        (lambda chat: chat.add_entry("robot", "a"), "the role is 'robot'; roles are"),
        (lambda chat: chat.add_entry("system", ["a", "b"]), "exactly one text"),
        (lambda chat: chat.add_entry("assistant", []), "content is empty"),
        (lambda chat: chat.add_entry("assistant", ["a", "b"]), "must be a tool call request"),
        (lambda chat: chat.append("a"), "message must be .* not 'a'"),
        (lambda chat: chat.append({"role": "user"}), "message must be"),
        (lambda chat: chat.append(lms.AssistantResponse([5])), "message: Expected"),  # type: ignore[list-item]
        (lambda chat: chat.add_entries([("user", "a", "b")]), "a role and a content, not 3"),
    ],
)
def test_content_that_makes_no_sense_is_refused(
    add: Callable[[lms.Chat], object], message: str
) -> None:
    chat = lms.Chat()
    chat.add_user_message("Hello")
    with pytest.raises(lms.LMStudioValueError, match=message):
        add(chat)
    assert messages(chat) == [said("user", "Hello")]


def test_entries_are_added_by_role() -> None:
    chat = lms.Chat()
    added = chat.add_entries(
        [
            ("system", ["Be brief."]),
            {"role": "user", "content": ["What is 1 + 2?", IMAGE]},
            lms.AssistantResponse(
                [
                    lms.TextData(text="Let me see."),
                    lms.ToolCallRequestData(tool_call_request=REQUEST),
                ]
            ),
            ("tool", RESULT),
        ]
    )
    assert messages(chat) == TALK
    assert added == list(chat)


@pytest.mark.parametrize("form", ["objects", "dicts"])
def test_messages_may_be_appended_to_another_chat(form: str) -> None:
    chat = lms.Chat()
    for message in talk() if form == "objects" else TALK:
        assert chat.append(message) is chat[-1]
    assert messages(chat) == TALK


def test_either_all_entries_are_added_or_none() -> None:
    chat = lms.Chat()
    chat.add_user_message("Hello")
    with pytest.raises(lms.LMStudioRuntimeError):
        chat.add_entries([("user", "you"), ("assistant", "Hi"), ("assistant", "Hi")])
    assert messages(chat) == [said("user", "Hello")]


def test_an_assistant_message_may_consist_of_tool_call_requests_only() -> None:
    chat = lms.Chat()
    chat.add_entry("assistant", [REQUEST])
    assert chat[0].text == ""
    assert messages(chat)[0]["content"] == [
        {"type": "toolCallRequest", "toolCallRequest": REQUEST_DATA}
    ]


# Looking


def test_a_chat_is_a_sequence_of_messages() -> None:
    chat = talk()
    assert len(chat) == 4
    assert [message.role for message in chat] == ["system", "user", "assistant", "tool"]
    assert [message.text for message in chat] == ["Be brief.", "What is 1 + 2?", "Let me see.", ""]
    assert [part.type for part in chat[1].content] == ["text", "file"]
    assert chat[-1] == lms.ToolResultMessage([RESULT])
    with pytest.raises(IndexError):
        chat[4]
    assert not lms.Chat()


def test_a_slice_is_a_chat_of_its_own() -> None:
    chat = talk()
    part = chat[1:2]
    assert isinstance(part, lms.Chat)
    part.add_user_message("More")
    assert messages(part) == [said("user", "What is 1 + 2?", IMAGE_DATA, "More")]
    assert messages(chat) == TALK


def test_the_last_message_can_be_taken_away() -> None:
    chat = talk()
    assert chat.pop() == lms.ToolResultMessage([RESULT])
    assert messages(chat) == TALK[:3]
    with pytest.raises(IndexError):
        lms.Chat().pop()


def test_the_text_of_a_message_joins_its_parts() -> None:
    chat = lms.Chat()
    assert chat.add_user_message(["One", IMAGE, "two"]).text == "One two"


def test_files_are_found_in_all_messages() -> None:
    chat = talk()
    chat.add_user_message(
        [
            "Another",
            other := lms.FileHandle(name="b", identifier="f2", size_bytes=1, file_type="image"),
        ]
    )
    assert chat.get_files() == [IMAGE, other]
    assert chat[1].files == [IMAGE]
    assert lms.Chat("Hello").get_files() == []


def test_the_system_prompt_can_be_read_and_replaced() -> None:
    chat = lms.Chat()
    assert chat.get_system_prompt() == ""
    chat.add_user_message("Hello")
    chat.replace_system_prompt("Be brief.")
    chat.add_system_prompt("Be kind.")
    assert chat.get_system_prompt() == "Be brief.\n\nBe kind."
    chat.replace_system_prompt("Be good.")
    assert messages(chat) == [said("system", "Be good."), said("user", "Hello")]
    with pytest.raises(lms.LMStudioValueError):
        chat.replace_system_prompt(IMAGE)  # type: ignore[arg-type]
    assert chat.get_system_prompt() == "Be good."


def test_it_shows_itself() -> None:
    chat = talk()
    assert repr(chat) == "<Chat of 4 messages>"
    shown = str(chat)
    assert shown.startswith("Chat.from_history({")
    data = json.loads(shown.removeprefix("Chat.from_history(").removesuffix(")"))
    assert data == {"messages": TALK}


# Copies


@pytest.mark.parametrize(
    "duplicate",
    [
        lms.Chat.copy,
        copy.copy,
        copy.deepcopy,
        lms.Chat.from_history,
        lambda chat: chat[:],
        lambda chat: lms.Chat.from_history(chat.to_history()),
        lambda chat: lms.Chat.from_history(list(chat)),
        lambda chat: lms.Chat.from_history(lms.ChatHistoryData(list(chat))),
    ],
)
def test_copies_share_nothing(duplicate: Callable[[lms.Chat], lms.Chat]) -> None:
    chat = talk()
    other = duplicate(chat)
    assert other == chat
    assert other is not chat
    added, asked = other[1], other[2]
    assert isinstance(added, lms.UserMessage)
    assert isinstance(asked, lms.AssistantResponse)
    added.content.append(lms.TextData(text="changed"))
    arguments = asked.tool_call_requests[0].arguments
    assert arguments is not None
    arguments["numbers"].append(3)
    other.pop()
    assert messages(chat) == TALK
    assert other != chat


def test_copies_keep_the_class() -> None:
    class Mine(lms.Chat):
        pass

    assert type(Mine("Hello").copy()) is Mine
    assert type(Mine.from_history("Hello")) is Mine
    assert str(Mine()).startswith("Mine.from_history(")


def test_what_was_added_may_change_afterwards() -> None:
    arguments: dict[str, Any] = {"numbers": [1, 2]}
    data = {"messages": [said("assistant", "Hm")]}
    chat = lms.Chat()
    chat.add_assistant_response("Hm", [lms.ToolCallRequest(name="add", arguments=arguments)])
    other = lms.Chat.from_history(data)
    third = lms.Chat()
    third.append(chat[0])
    expected = messages(chat), messages(other), messages(third)
    arguments["numbers"].append(3)
    data["messages"][0]["content"].clear()
    chat[0].content.pop()
    assert messages(third) == expected[2] == expected[0]
    assert messages(other) == expected[1]


def test_a_chat_equals_only_chats() -> None:
    assert lms.Chat("a") == lms.Chat("a")
    assert lms.Chat("a") != lms.Chat("b")
    assert lms.Chat() != []
    with pytest.raises(TypeError):
        hash(lms.Chat())


# Chat data

FILES = st.fixed_dictionaries(
    {
        "type": st.just("file"),
        "name": st.text(),
        "identifier": st.text(),
        "sizeBytes": st.integers(0, 2**53),
        "fileType": st.sampled_from(
            ["image", "text/plain", "application/pdf", "application/word", "text/other", "unknown"]
        ),
    }
)
TEXTS = st.text().map(text)
REQUESTS = st.fixed_dictionaries(
    {
        "type": st.just("toolCallRequest"),
        "toolCallRequest": st.fixed_dictionaries(
            {"type": st.just("function"), "name": st.text()},
            optional={"id": st.text(), "arguments": json_objects},
        ),
    }
)
RESULTS = st.fixed_dictionaries(
    {"type": st.just("toolCallResult"), "content": st.text()},
    optional={"toolCallId": st.text(), "name": st.text()},
)


def of_role(role: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    content = st.lists(st.one_of(*parts), max_size=3)
    return st.fixed_dictionaries({"role": st.just(role), "content": content})


HISTORIES = st.fixed_dictionaries(
    {
        "messages": st.lists(
            of_role("system", TEXTS, FILES)
            | of_role("user", TEXTS, FILES)
            | of_role("assistant", TEXTS, FILES, REQUESTS)
            | of_role("tool", RESULTS),
            max_size=5,
        )
    }
)


def in_request(history: Any) -> dict[str, Any]:
    return {
        "modelSpecifier": {"type": "instanceReference", "instanceReference": "r"},
        "history": history,
        "predictionConfigStack": {"layers": []},
    }


@given(HISTORIES)
def test_chat_data_survives_the_way_through_a_chat(data: Any) -> None:
    chat = lms.Chat.from_history(data)
    assert chat.to_history() == data
    assert json.loads(json.dumps(chat.to_history())) == data
    assert chat.copy().to_history() == data
    assert len(chat) == len(data["messages"])


@pytest.mark.skipif(not ContractChecker.available, reason="without the protocol's schemas")
@given(HISTORIES)
def test_chat_data_keeps_to_the_protocol(data: Any) -> None:
    sent = in_request(lms.Chat.from_history(data).to_history())
    assert schema_errors("llm", "channel", "predict", "creationParameter", sent) == []


@pytest.mark.parametrize(
    "history",
    [
        "Hello",
        {"messages": [{"role": "user", "content": "Hello"}]},
        [{"role": "user", "content": ["Hello"]}],
        [{"role": "user", "content": ({"text": "Hello"},)}],
        [lms.UserMessage([lms.TextData(text="Hello")])],
    ],
)
def test_chat_data_may_be_abbreviated(history: Any) -> None:
    assert messages(lms.Chat.from_history(history)) == [said("user", "Hello")]


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        (5, lms.LMStudioTypeError, "history must be a string or a list"),
        ({}, lms.LMStudioValueError, "no 'messages'"),
        (["Hello"], lms.LMStudioTypeError, r"history\[0\] must be a dict"),
        ([{"role": "robot"}], lms.LMStudioValueError, r"history\[0\] has the role 'robot'"),
        ([{"role": "user"}], lms.LMStudioValueError, "history: Expected `array`, got `null`"),
        ([{"role": "user", "content": b"a"}], lms.LMStudioValueError, "history: Expected `array`"),
        ([{"role": "user", "content": [{}]}], lms.LMStudioValueError, "history: .*`type`"),
        ([said("user", RESULT_DATA)], lms.LMStudioValueError, "history: Invalid value"),
        ([{"role": "tool", "content": "3"}], lms.LMStudioValueError, "list of results"),
    ],
)
def test_chat_data_that_makes_no_sense_is_refused(
    history: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lms.Chat.from_history(history)


# The official client

PARTS = st.sampled_from(["a", "", IMAGE_DATA, text("b")])
STEPS = st.one_of(
    st.tuples(st.just("add_system_prompt"), st.sampled_from(["s", text("t"), 5, IMAGE_DATA])),
    st.tuples(st.just("add_user_message"), PARTS | st.lists(PARTS, max_size=3) | st.just(5)),
    st.tuples(st.just("add_assistant_response"), PARTS | st.none()),
    st.tuples(st.just("add_tool_result"), st.sampled_from([RESULT_DATA, "r"])),
    st.tuples(st.just("append"), st.sampled_from([*TALK[:2], {"role": "?", "content": "a"}])),
)


def outcome(chat: Any, step: tuple[str, Any]) -> str | None:
    try:
        getattr(chat, step[0])(copy.deepcopy(step[1]))
    except Exception as error:  # noqa: BLE001 - its name is what counts
        return type(error).__name__
    return None


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=8))
def test_it_does_what_the_official_one_does(steps: list[tuple[str, Any]]) -> None:
    ours, theirs = lms.Chat(), lmstudio.Chat()
    for step in steps:
        assert outcome(ours, step) == outcome(theirs, step), step
        assert ours._get_history() == theirs._get_history(), step


# Predictions


async def test_a_chat_is_sent_as_the_protocol_wants_it(
    server: ScriptedServer, model: lms.LLM
) -> None:
    chat = talk()
    await model.respond(chat)
    await model.respond(chat.to_history())
    await model.respond(list(chat))
    for parameter in server.requests("predict"):
        assert parameter["history"] == {"messages": TALK}
    assert server.count("predict") == 3


async def test_a_conversation(server: ScriptedServer, model: lms.LLM) -> None:
    chat = lms.Chat("Be brief.")
    chat.add_user_message("Hello!")
    chat.append(await model.respond(chat))
    chat.add_user_message("And now?")
    chat.add_assistant_response(await model.respond(chat))
    assert [message.text for message in chat] == [
        *("Be brief.", "Hello!", server.reply, "And now?", server.reply)
    ]
    first, second = server.requests("predict")
    assert second["history"]["messages"][:3] == [
        *first["history"]["messages"],
        said("assistant", server.reply),
    ]


async def test_a_request_keeps_the_chat_as_it_was(server: ScriptedServer, model: lms.LLM) -> None:
    chat = lms.Chat()
    chat.add_user_message("Hello!")
    stream = model.respond_stream(chat)
    chat.add_user_message("Too late")
    await stream.wait_for_result()
    assert server.requests("predict")[0]["history"] == {"messages": [said("user", "Hello!")]}


async def test_an_empty_chat_is_not_sent(server: ScriptedServer, model: lms.LLM) -> None:
    with pytest.raises(lms.LMStudioValueError, match="history is empty"):
        await model.respond(lms.Chat())
    assert server.count("predict") == 0
