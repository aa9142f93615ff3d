"""What stands between programs and llama.cpp's server: it lets pages of the web ask nothing, and
keeps as text what people type.

llama.cpp takes a special token for what it is wherever it comes from. A conversation in which
nobody has typed one goes to its server as it is. One in which somebody has is rendered and
tokenised here, and its ids are completed; the answer has the shape that was asked for.
"""

import http.client
import json
import time
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.ship.broken import Broken
from windtunnel.ship.llama_cpp import LlamaCpp

_CHAT = ("/v1/chat/completions", "/chat/completions")
# What also renders a conversation, and can't be answered from ids.
_RENDERING = ("/apply-template", "/v1/messages", "/v1/responses", "/responses", "/api/chat")
# What a conversation may ask for that is answered from ids: how it is sampled, and no more.
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "logit_bias",
    "stream",
)
_IGNORED = ("model", "messages", "max_tokens", "max_completion_tokens", "n", "user")
# Of one connection alone, and no business of the other.
_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "server", "date")


class Refused(Exception):
    """What is not answered: a status and why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Proxy(ThreadingHTTPServer):
    """An address for programs, before llama.cpp's server."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], engine: LlamaCpp, key: str) -> None:
        """`key`: what the engine wants to know. Raises OSError where the address cannot be listened
        on.
        """
        self.engine = engine
        self.key = key
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where programs connect."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


def is_loopback(origin: str) -> bool:
    """Whether a page of this origin comes from this machine."""
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _proxy(self) -> Proxy:
        assert isinstance(self.server, Proxy)
        return self.server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def do_OPTIONS(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a server of this project writes no log."""

    def _answer(self) -> None:
        try:
            self._check_origin()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "OPTIONS":
                self._begin(HTTPStatus.NO_CONTENT, {"Content-Length": "0"})
            elif self.command == "POST" and (asked := self._typed_special(body)):
                self._complete(asked)
            else:
                self._pass_on(self._joined(body))
        except Refused as refused:
            self._say(refused.status, _error(refused.status, str(refused)))
        except InputError as error:
            self._say(HTTPStatus.BAD_REQUEST, _error(HTTPStatus.BAD_REQUEST, str(error)))
        except (BrokenPipeError, ConnectionResetError):
            # whoever asked has gone, and the engine stops with the connection to it
            self.close_connection = True

    def _check_origin(self) -> None:
        """Raises Refused for a page of the web, which a browser would send here unasked."""
        origin = self.headers.get("Origin")
        if origin is not None and not is_loopback(origin):
            self.close_connection = True
            raise Refused(HTTPStatus.FORBIDDEN, f"origin {origin}: only pages of this machine may")

    def _typed_special(self, body: bytes) -> dict[str, Any] | None:
        """A conversation in which somebody typed a special token; None for anything else. Raises
        Refused where it cannot be kept as text.
        """
        path = urlsplit(self.path).path.rstrip("/")
        if path not in (*_CHAT, *_RENDERING):
            return None
        try:
            asked = json.loads(body)
        except ValueError:
            return None
        typed = list(_texts(asked))
        # joined too: a token may be written in two parts of one message
        joined = ["".join(_said(message)) for message in _messages(asked)]
        if not Broken(self._proxy.engine.special, []).has("\n".join([*typed, *joined])):
            return None
        left = [key for key, value in asked.items() if value and key not in _KNOWN]
        if path not in _CHAT or left:
            what = ", ".join(left) if path in _CHAT else path
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"a special token is written in this request, and with {what} it cannot be kept "
                "as text",
            )
        return asked

    def _joined(self, body: bytes) -> bytes:
        """The same request, with the parts of each message of a conversation as one text: llama.cpp
        would put the end of a line between them.
        """
        if urlsplit(self.path).path.rstrip("/") not in _CHAT or b'"text"' not in body:
            return body
        try:
            asked = json.loads(body)
        except ValueError:
            return body
        for message in _messages(asked):
            parts = message.get("content") if isinstance(message, dict) else None
            if isinstance(parts, list) and all(_is_text(part) for part in parts):
                message["content"] = "".join(part["text"] for part in parts)
        return json.dumps(asked).encode()

    def _complete(self, asked: dict[str, Any]) -> None:
        """Answer a conversation from ids."""
        sampling = {key: asked[key] for key in _SAMPLING if asked.get(key) is not None}
        most = asked.get("max_completion_tokens") or asked.get("max_tokens")
        if most:
            sampling["n_predict"] = most
        messages = [_plain_message(message) for message in _messages(asked)]
        prompt = self._proxy.engine.prompt(messages)
        reply = self._ask("POST", "/completion", json.dumps({"prompt": prompt} | sampling).encode())
        if reply.status != HTTPStatus.OK:
            self._say(HTTPStatus(reply.status), json.loads(reply.read()))
        elif asked.get("stream"):
            self._begin(HTTPStatus.OK, {"Content-Type": "text/event-stream"}, chunked=True)
            for event in _events(reply):
                self._chunk(b"data: " + json.dumps(_piece(event, asked)).encode() + b"\n\n")
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        else:
            self._say(HTTPStatus.OK, _whole(json.loads(reply.read()), asked))

    def _pass_on(self, body: bytes) -> None:
        reply = self._ask(self.command, self.path, body)
        headers = {name: value for name, value in reply.getheaders() if name.lower() not in _HOP}
        # its word on origins is for its own address
        for name in [name for name in headers if name.lower().startswith("access-control-")]:
            del headers[name]
        self._begin(HTTPStatus(reply.status), headers, chunked=True)
        while part := reply.read1(1 << 16):
            self._chunk(part)
        self._chunk(b"")

    def _ask(self, method: str, path: str, body: bytes) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(urlsplit(self._proxy.engine.url).netloc)
        left_out = (*_HOP, "authorization", "origin")
        headers = {name: v for name, v in self.headers.items() if name.lower() not in left_out}
        headers["Authorization"] = f"Bearer {self._proxy.key}"
        connection.request(method, path, body or None, headers)
        return connection.getresponse()

    def _say(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        said = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(said))}
        self._begin(status, headers)
        self.wfile.write(said)

    def _begin(self, status: HTTPStatus, headers: dict[str, str], chunked: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        origin = self.headers.get("Origin")
        if origin is not None and is_loopback(origin):
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
            self.send_header("Access-Control-Allow-Headers", "Authorization, Content-Type")
            self.send_header("Vary", "Origin")
        self.end_headers()

    def _chunk(self, part: bytes) -> None:
        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.flush()


_KNOWN = (*_SAMPLING, *_IGNORED, "stream_options")


def _messages(asked: Any) -> list[Any]:
    messages = asked.get("messages") if isinstance(asked, dict) else None
    return messages if isinstance(messages, list) else []


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, and every name in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _texts(one)


def _said(message: Any) -> Iterator[str]:
    """The texts among the parts of a message."""
    parts = message.get("content") if isinstance(message, dict) else None
    for part in parts if isinstance(parts, list) else []:
        if _is_text(part):
            yield part["text"]


def _plain_message(message: Any) -> Message:
    """A message as a role and a text, its parts joined. Raises Refused for anything else."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "user", "assistant"):
        why = f"role {role!r}: expected system, user or assistant, where a special token is written"
        raise Refused(HTTPStatus.BAD_REQUEST, why)
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(_is_text(part) for part in parts):
        why = "a message's content: expected a text, or parts that are texts"
        raise Refused(HTTPStatus.BAD_REQUEST, why)
    return {"role": role, "content": "".join(part["text"] for part in parts)}


def _is_text(part: Any) -> bool:
    """Whether a part of a message is a text."""
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _events(reply: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in reply:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def _finish(done: dict[str, Any]) -> str:
    return "length" if done.get("stop_type") == "limit" else "stop"


def _head(asked: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.get("model") or "",
    }


def _piece(event: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """One event of a streamed answer, as OpenAI's interface has it."""
    finish = _finish(event) if event.get("stop") else None
    delta = {"role": "assistant", "content": event.get("content", "")}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _head(asked, "chat.completion.chunk") | {"choices": [choice]}


def _whole(done: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """An answer, as OpenAI's interface has it."""
    message = {"role": "assistant", "content": done["content"]}
    before, said = done["tokens_evaluated"], done["tokens_predicted"]
    return _head(asked, "chat.completion") | {
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(done)}],
        "usage": {
            "prompt_tokens": before,
            "completion_tokens": said,
            "total_tokens": before + said,
        },
    }


def _error(status: HTTPStatus, why: str) -> dict[str, Any]:
    return {"error": {"code": int(status), "message": why, "type": "invalid_request_error"}}
