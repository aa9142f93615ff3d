"""The proxy before an engine that notes what it is asked: what goes on as it is, what is answered
from ids, and what is refused.
"""

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from patience import PATIENCE

from windtunnel.errors import InputError
from windtunnel.ship.proxy import Proxy, is_loopback

DONE = {
    "content": "said",
    "tokens_evaluated": 7,
    "tokens_predicted": 3,
    "stop": True,
    "stop_type": "eos",
}


@dataclass
class Engine:
    """What stands for llama.cpp. `reply`: its status, and what it says of a completion."""

    url: str = ""
    special: dict[str, int] = field(default_factory=lambda: {"<end>": 5, "<user>": 6})
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    prompted: list[Any] = field(default_factory=list)
    reply: tuple[int, list[dict[str, Any]]] = (200, [DONE])

    def prompt(self, messages: Any) -> list[int]:
        self.prompted.append(messages)
        if any("impossible" in message["content"] for message in messages):
            raise InputError("the template refuses it")
        return [1, 2, 3]


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = json.loads(body) if body[:1] == b"{" else body.decode()
            made.asked.append((self.command, self.path, headers, content))
            status, events = made.reply
            streamed = isinstance(content, dict) and content.get("stream")
            said = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events)
            if not streamed:
                said = json.dumps(events[-1]).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.send_header("X-Engine", "known")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(engine: Engine) -> Iterator[Proxy]:
    known: Any = engine
    made = Proxy(("127.0.0.1", 0), known, "secret")
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


Reply = tuple[int, dict[str, str], str]


def ask(
    proxy: Proxy, path: str, content: Any = None, method: str = "POST", **headers: str
) -> Reply:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=PATIENCE)
    body = json.dumps(content) if content is not None else None
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, text


def message(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


CHAT = "/v1/chat/completions"


def test_what_nobody_typed_a_special_token_in_goes_on_as_it_is(
    proxy: Proxy, engine: Engine
) -> None:
    asked = {"model": "x", "messages": [message("hello")], "tools": [1]}
    status, headers, said = ask(proxy, CHAT, asked, Authorization="Bearer mine", X="y")
    assert (status, json.loads(said), headers["x-engine"]) == (200, DONE, "known")
    ((method, path, sent, content),) = engine.asked
    assert (method, path, content) == ("POST", CHAT, asked)
    # only the proxy's own word opens the engine
    assert sent["authorization"] == "Bearer secret" and sent["x"] == "y"
    assert "access-control-allow-origin" not in headers, "the engine's word on origins is its own"
    assert engine.prompted == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_methods_go_on_too(proxy: Proxy, engine: Engine, method: str) -> None:
    status, _, said = ask(proxy, "/v1/models?x=1", method=method)
    assert status == 200 and json.loads(said) == DONE
    assert engine.asked[0][:2] == (method, "/v1/models?x=1")


def test_an_engines_own_status_is_passed_on(proxy: Proxy, engine: Engine) -> None:
    engine.reply = (503, [{"error": "loading"}])
    assert ask(proxy, "/v1/models", method="GET")[0] == 503
    status, _, said = ask(proxy, CHAT, {"messages": [message("<end>")]})
    assert (status, json.loads(said)) == (503, {"error": "loading"})


def test_parts_of_a_message_are_one_text(proxy: Proxy, engine: Engine) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    picture = [{"type": "text", "text": "this"}, {"type": "image_url", "image_url": "x"}]
    ask(proxy, CHAT, {"messages": [message(parts), message(picture), message("three")]})
    contents = [one["content"] for one in engine.asked[0][3]["messages"]]
    assert contents == ["one two", picture, "three"], "what is no text stays as it is"
    ask(proxy, "/v1/completions", {"messages": [message(parts)]})
    assert engine.asked[1][3]["messages"][0]["content"] == parts, "of a conversation alone"


def test_what_was_typed_is_answered_from_ids(proxy: Proxy, engine: Engine) -> None:
    asked = {
        "model": "mine",
        "messages": [message("be kind", "system"), message([{"type": "text", "text": "<end> it"}])],
        "temperature": 0.5,
        "top_p": None,
        "seed": 3,
        "max_tokens": 20,
        "user": "me",
    }
    status, headers, said = ask(proxy, CHAT, asked)
    assert status == 200 and headers["content-type"] == "application/json"
    assert engine.prompted == [[message("be kind", "system"), message("<end> it")]]
    ((_, path, _, content),) = engine.asked
    assert path == "/completion"
    assert content == {"prompt": [1, 2, 3], "temperature": 0.5, "seed": 3, "n_predict": 20}
    answer = json.loads(said)
    assert answer["choices"] == [
        {"index": 0, "message": message("said", "assistant"), "finish_reason": "stop"}
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert (answer["model"], answer["object"]) == ("mine", "chat.completion")
    assert answer["id"].startswith("chatcmpl-") and answer["created"] > 1_600_000_000


@pytest.mark.parametrize(
    ("more", "most"),
    [({"max_completion_tokens": 5, "max_tokens": 9}, 5), ({"max_tokens": 9}, 9), ({}, None)],
)
def test_the_newer_name_of_a_limit_counts(
    proxy: Proxy, engine: Engine, more: dict[str, int], most: int | None
) -> None:
    engine.reply = (200, [DONE | {"stop_type": "limit"}])
    _, _, said = ask(proxy, CHAT, {"messages": [message("<end>")]} | more)
    assert engine.asked[0][3].get("n_predict") == most
    answer = json.loads(said)
    assert answer["choices"][0]["finish_reason"] == "length" and answer["model"] == ""


def test_a_stream_is_one_event_after_the_other(proxy: Proxy, engine: Engine) -> None:
    last = {"content": "", "stop": True, "stop_type": "eos"}
    engine.reply = (200, [{"content": "a"}, {"content": "b", "stop": False}, last])
    status, headers, said = ask(proxy, CHAT, {"messages": [message("<end>")], "stream": True})
    assert status == 200 and headers["content-type"] == "text/event-stream"
    assert engine.asked[0][3] == {"prompt": [1, 2, 3], "stream": True}
    *events, end = [line.removeprefix("data: ") for line in said.split("\n\n") if line]
    assert end == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events]
    assert [one["delta"]["content"] for one in choices] == ["a", "b", ""]
    assert [one["finish_reason"] for one in choices] == [None, None, "stop"]
    assert {json.loads(event)["object"] for event in events} == {"chat.completion.chunk"}


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", f"{CHAT}/", f"{CHAT}?x=1"])
@pytest.mark.parametrize(
    "content",
    [
        "<end>",
        "before<user>",
        [{"type": "text", "text": "<en"}, {"type": "text", "text": "d>"}],
    ],
)
def test_a_special_token_is_seen_wherever_it_is_typed(
    proxy: Proxy, engine: Engine, path: str, content: Any
) -> None:
    """Also in two parts of one message; but not in two messages."""
    ask(proxy, path, {"messages": [message(content)]})
    assert engine.asked[0][1] == "/completion" and len(engine.prompted) == 1


def test_a_token_is_not_seen_where_none_is(proxy: Proxy, engine: Engine) -> None:
    ask(proxy, CHAT, {"messages": [message("<en"), message("d>")]})
    ask(proxy, "/v1/completions", {"prompt": "<end>"})
    assert [path for _, path, _, _ in engine.asked] == [CHAT, "/v1/completions"]
    assert engine.prompted == []


@pytest.mark.parametrize(
    ("path", "asked", "says"),
    [
        (CHAT, {"messages": [message("<end>")], "tools": [1]}, "with tools it cannot be kept"),
        (CHAT, {"messages": [message("hi")], "tools": ["<end>"]}, "with tools it cannot be kept"),
        ("/apply-template", {"messages": [message("<end>")]}, "with /apply-template it cannot be"),
        ("/v1/responses", {"input": "<end>"}, "with /v1/responses it cannot be kept"),
        (CHAT, {"messages": [message("<end>", "tool")]}, "role 'tool': expected system, user or"),
        (CHAT, {"messages": ["<end>"]}, "role None: expected system"),
        (CHAT, {"messages": [message({"x": "<end>"})]}, "a message's content: expected a text"),
        (
            CHAT,
            {"messages": [message([{"type": "image", "text": "<end>"}])]},
            "a message's content",
        ),
        (CHAT, {"messages": [message("<end> impossible")]}, "the template refuses it"),
    ],
)
def test_what_cannot_be_kept_as_text_is_refused(
    proxy: Proxy, engine: Engine, path: str, asked: dict[str, Any], says: str
) -> None:
    status, _, said = ask(proxy, path, asked)
    error = json.loads(said)["error"]
    assert status == error["code"] == 400 and says in error["message"]
    assert error["type"] == "invalid_request_error" and engine.asked == []


@pytest.mark.parametrize("more", [{"tools": []}, {"stream_options": {"x": 1}}, {"n": 1}])
def test_what_says_nothing_is_no_reason_to_refuse(
    proxy: Proxy, engine: Engine, more: dict[str, Any]
) -> None:
    assert ask(proxy, CHAT, {"messages": [message("<end>")]} | more)[0] == 200


def test_what_is_no_json_is_the_engines_business(proxy: Proxy, engine: Engine) -> None:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("POST", CHAT, 'no "text" <end>')
    assert connection.getresponse().status == 200
    assert engine.asked[0][3] == 'no "text" <end>'
    assert ask(proxy, CHAT, [1])[0] == 200
    connection.close()


def test_pages_of_this_machine_may_ask_and_those_of_the_web_may_not(
    proxy: Proxy, engine: Engine
) -> None:
    status, headers, _ = ask(proxy, "/v1/models", method="GET", Origin="http://localhost:3000")
    assert status == 200
    assert headers["access-control-allow-origin"] == "http://localhost:3000"
    assert headers["vary"] == "Origin" and "POST" in headers["access-control-allow-methods"]
    assert "origin" not in engine.asked[0][2]
    status, headers, said = ask(proxy, "/v1/models", method="GET", Origin="https://example.org")
    assert status == 403 and len(engine.asked) == 1
    assert "only pages of this machine may" in json.loads(said)["error"]["message"]
    assert "access-control-allow-origin" not in headers
    status, headers, said = ask(proxy, CHAT, method="OPTIONS", Origin="http://127.0.0.1")
    assert (status, said, len(engine.asked)) == (204, "", 1)
    assert headers["access-control-allow-headers"] == "Authorization, Content-Type"


@pytest.mark.parametrize(
    ("origin", "here"),
    [
        ("http://localhost", True),
        ("http://localhost:80", True),
        ("http://127.0.0.1:5", True),
        ("http://[::1]:5", True),
        ("http://127.9.9.9", True),
        ("http://localhost.example.org", False),
        ("http://192.168.0.1", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_whether_an_origin_is_this_machine(origin: str, here: bool) -> None:
    assert is_loopback(origin) is here


def test_a_connection_is_kept_for_the_next_question(proxy: Proxy, engine: Engine) -> None:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=PATIENCE)
    for _ in range(2):
        connection.request("POST", CHAT, json.dumps({"messages": [message("<end>")]}))
        assert json.loads(connection.getresponse().read())["choices"]
    assert len(engine.asked) == 2
    connection.close()
