"""llama.cpp, through xllamacpp: log-probabilities of given tokens, token ids of a text, answers,
and speed.

llama.cpp's server reports the probabilities of tokens that it samples, never of those in a
prompt. So each given token is sampled, by a bias that leaves no other choice, and what is
reported is the model's distribution before the bias; the tokens before it are in the server's
cache. A token that is part of a UTF-8 character is not reported, since no text can be made of it:
its probability is looked up among those of the whole vocabulary.
"""

import http.client
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.ship.broken import Broken
from windtunnel.ship.engines import Asked, Scores
from windtunnel.ship.gguf.file import metadata
from windtunnel.ship.gguf.tokens import CONTROL, UNKNOWN, Kind
from windtunnel.ship.gguf.vocabulary import read as read_vocabulary
from windtunnel.ship.packages import package

_LIKELIEST = 256  # how many probabilities are asked for, before those of the whole vocabulary
_FORCED = 1e9  # a bias in logits that leaves no other choice
_JSON = {"Content-Type": "application/json"}
LONGEST = 32_768  # tokens of a context that nobody asked for
_CACHE = 1 << 30  # bytes of keys and values, of a context that nobody asked for
_WARM_UP = 8  # tokens generated before the speed is measured

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens a second."""

    prompt: float
    """Of a prompt, whose tokens go through the model together."""
    generation: float
    """Of an answer, one token after the other."""


class LlamaCpp(AbstractContextManager["LlamaCpp"]):
    """llama.cpp with one model in memory, until `close`."""

    def __init__(
        self,
        file: Path,
        context: int | None = None,
        exact: bool = False,
        threads: int = 0,
        address: tuple[str, int] = ("127.0.0.1", 0),
        key: str = "",
    ) -> None:
        """`context`: the longest sequence in tokens; None: as long as the file says, up to
        `LONGEST` tokens and `_CACHE` bytes. `exact`: a cache in fp32 and the plain attention,
        instead of what llama.cpp chooses. `threads`: 0: `usable_threads`. `key`: what a program
        must know to ask for an answer; empty: nothing. Raises InputError for a file that cannot be
        loaded.
        """
        self.file = file
        self._fields = metadata(file)
        self._headers = _JSON | ({"Authorization": f"Bearer {key}"} if key else {})
        self.context = context or _context_of(self._fields)
        self._server: Any = _server(
            file,
            architecture=str(self._fields.get("general.architecture")),
            context=self.context,
            exact=exact,
            threads=threads or usable_threads(),
            address=address,
            key=key,
        )
        # A server that is closed before its loop has begun waits for itself for ever. Most answers,
        # those about texts among them, come without the loop; this one comes from it.
        with self._connected() as connection:
            connection.request("GET", "/slots", headers=self._headers)
            connection.getresponse().read()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and end the server."""
        self._server = None  # its destructor does it

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self._server.listening_address

    def log_probabilities(self, windows: np.ndarray, skip: int = 0) -> np.ndarray:
        """Windows of token ids (n, T + 1) -> the log-probability of each token but the first and
        the `skip` after it, given those before it: (n, T - skip), nats.
        """
        return np.array([self._window(ids, skip) for ids in windows.tolist()])

    def tokenise(self, lines: Iterable[str], marked: bool = False) -> list[list[int]]:
        """The ids of each line. Nothing is added, and a special token written in a line is taken
        for text; `marked`: it is taken for that token, and what belongs around a text is added.
        """
        how = {"add_special": marked, "parse_special": marked}
        asked = ({"content": line} | how for line in lines)
        return [answer["tokens"] for answer in self._post("/tokenize", asked)]

    def ends_an_answer(self, token: int) -> bool:
        """Whether an answer ends at a token that is forced to come first."""
        forced = {"prompt": [token], "logit_bias": [[token, _FORCED]], "temperature": 0}
        answer = self._complete(forced | {"max_tokens": 2})
        return answer["choices"][0]["finish_reason"] == "stop"

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the file's chat template writes it, up to where the answer begins.
        Raises InputError where the template refuses it.
        """
        (answer,) = self._post("/apply-template", [{"messages": list(messages)}])
        return answer["prompt"]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of the conversation, up to where the answer begins. Special tokens are those that
        the template writes; one that a message holds is text. Raises InputError where the template
        refuses the conversation.
        """
        # The engine takes special tokens for what they are wherever they come from. So those in
        # messages are broken by a mark while the template is rendered, and whole again after it.
        broken = Broken(self.special, [message["content"] for message in messages])
        told = [message | {"content": broken.text(message["content"])} for message in messages]
        parts = broken.parts(self.render(cast("list[Message]", told)))
        texts = iter(self.tokenise(part for part in parts if isinstance(part, str)))
        (before,) = self.tokenise([""], marked=True)
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else next(texts)
        # what belongs before every text, unless the template has written it
        return ids if ids[:1] == before[:1] else [*before[:1], *ids]

    def answer(
        self, messages: Sequence[Message], say: Callable[[str], None], **sampling: float
    ) -> str:
        """The model's answer; `say` is called with each piece of it. `sampling`: n_predict,
        temperature, top_p and seed. Raises InputError for what the engine refuses, such as a
        conversation that is longer than the context.
        """
        asked = {"prompt": self.prompt(messages), "stream": True} | sampling
        pieces: list[str] = []
        # Over a connection, whose end also ends the engine's work: an answer can be interrupted.
        with self._connected() as connection:
            connection.request("POST", "/completion", json.dumps(asked).encode(), self._headers)
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                _raise_error(json.loads(response.read()))
            for line in response:
                name, _, content = line.partition(b":")
                if name not in (b"data", b"error"):
                    continue
                event = json.loads(content)
                _raise_error(event if name == b"data" else {"error": event})
                if text := event.get("content"):
                    pieces.append(text)
                    say(text)
        return "".join(pieces)

    def speed(self, prompt: Sequence[int], tokens: int = 128) -> Speed:
        """How fast a prompt of these ids is read and `tokens` more are generated, after a short
        warm-up.
        """
        asked = {
            "prompt": list(prompt),
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        self._complete(asked | {"max_tokens": min(_WARM_UP, tokens)})
        time = self._complete(asked | {"max_tokens": tokens})["timings"]
        return Speed(prompt=time["prompt_per_second"], generation=time["predicted_per_second"])

    def completion(self, prompt: Sequence[int], stops: Sequence[str], **sampling: float) -> str:
        """The text after these ids, up to the first of the stops. `sampling`: max_tokens,
        temperature, top_p and seed.
        """
        asked = {"prompt": list(prompt), "stop": list(stops)} | sampling
        return self._complete(asked)["choices"][0]["text"]

    def chance(self, before: list[int], token: int) -> tuple[float, bool]:
        """The log-probability of a token after others, nats, and whether none is likelier."""
        # The bias leaves one choice, so one probability is enough where the token has a text.
        sampled, asked_for = token, [1]
        if self._kinds[token] is Kind.PART:
            # Any token with a text will do as the one that is sampled; the one that is meant is
            # looked for among the likeliest, and then among all.
            sampled = self._kinds.index(Kind.WHOLE)
            asked_for = [min(_LIKELIEST, len(self._kinds)), len(self._kinds)]
        asked = {
            "prompt": before,
            "max_tokens": 1,
            "temperature": 0,
            "logit_bias": [[sampled, _FORCED]],
        }
        for most in asked_for:
            answer = self._complete(asked | {"n_probs": most})
            (reported,) = answer["choices"][0]["logprobs"]["content"]
            likeliest = max(one["logprob"] for one in (reported, *reported["top_logprobs"]))
            for one in (reported, *reported["top_logprobs"]):
                if one["id"] == token:
                    return one["logprob"], one["logprob"] >= likeliest
        raise RuntimeError(f"llama.cpp reported no probability of token {token}")

    @cached_property
    def special(self) -> dict[str, int]:
        """The ids, by name, of the tokens that a text must not make."""
        names = self._fields["tokenizer.ggml.tokens"]
        types = self._fields.get("tokenizer.ggml.token_type", [])
        return {
            name: token
            for token, (name, kind) in enumerate(zip(names, types, strict=False))
            if kind in (UNKNOWN, CONTROL)
        }

    @cached_property
    def _kinds(self) -> list[Kind]:
        """Of each token of the vocabulary."""
        try:
            return read_vocabulary(self._fields.__getitem__).kinds()
        except InputError as error:
            raise InputError(f"{self.file}: {error}") from None

    def _window(self, ids: list[int], skip: int) -> list[float]:
        """The log-probability of each token but the first and the `skip` after it."""
        return [self.chance(ids[:at], ids[at])[0] for at in range(1 + skip, len(ids))]

    def _complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.handle_completions(asked)
        _raise_error(answer)
        return answer

    def _post(self, path: str, contents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The answer to each, over a connection of their own: the server ends a connection that
        is idle for some seconds.
        """
        with self._connected() as connection:
            for content in contents:
                connection.request("POST", path, json.dumps(content).encode(), self._headers)
                answer = json.loads(connection.getresponse().read())
                _raise_error(answer)
                yield answer

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        try:
            yield connection
        finally:
            connection.close()


def scored(file: Path, windows: np.ndarray) -> np.ndarray:
    """The log-probabilities (n, T) of windows (n, T + 1) by llama.cpp."""
    with LlamaCpp(file, windows.shape[1], exact=True) as engine:
        return engine.log_probabilities(windows)


def asked_of(file: Path, asked: Asked) -> Scores:
    """What llama.cpp makes of a file."""
    held = asked.held
    with LlamaCpp(file, held.windows.shape[1], exact=True) as engine:
        return Scores(
            engine=version(),
            log_probabilities=engine.log_probabilities(held.windows, held.skip),
            ids=engine.tokenise(held.lines),
            marked=engine.tokenise(asked.marked, marked=True),
            rendered=engine.render(asked.messages) if asked.messages else "",
            ends=[end for end in asked.ends if engine.ends_an_answer(end)],
        )


def apart(work: Callable[..., T], file: Path, *arguments: Any) -> T:
    """What `work(file, *arguments)` gives, from a process of its own. Raises InputError where that
    process dies.

    In a process where torch has computed, its idle threads would be beside llama.cpp's. Where
    there are more threads than processors, OpenMP sends threads to sleep whenever they wait, which
    makes a small model four times slower.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(work, file, *arguments).result()
        except BrokenProcessPool:
            raise InputError(
                f"{file}: the process that ran llama.cpp on it was killed, or crashed"
            ) from None


def usable_threads() -> int:
    """As many as the processors that this process may use, or as OMP_NUM_THREADS says. With more,
    they wait for each other in loops, and everything is a hundred times slower.
    """
    processors = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    return min(int(os.environ.get("OMP_NUM_THREADS") or processors), processors)


def version() -> str:
    """The engine's name and version, such as `llama.cpp (xllamacpp 2026.10.11549)`."""
    from importlib.metadata import version

    return f"llama.cpp (xllamacpp {version('xllamacpp')})"


def _server(
    file: Path,
    *,
    architecture: str,
    context: int,
    exact: bool,
    threads: int,
    address: tuple[str, int],
    key: str,
) -> Any:
    """xllamacpp's server, listening. Raises InputError."""
    xllamacpp = package("xllamacpp")
    host, port = address
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    # One conversation at a time, and nothing that reaches out of this machine or writes a log.
    settings = {
        "hostnames": [host],
        "port": port,
        "n_ctx": context,
        "n_parallel": 1,
        "warmup": False,
        "fit_params": False,
        "verbosity": -1,
        "offline": True,
        "ui": False,
        "use_jinja": True,
        # a page of the web is no program of this machine
        "cors_origins": "localhost",
        "api_keys": [key] if key else [],
        # conversations that are over are not kept
        "cache_ram_mib": 0,
    }
    # By default keys and values are kept in fp16, and the fused attention rounds on its way.
    if exact:
        settings |= {
            "cache_type_k": xllamacpp.ggml_type.GGML_TYPE_F32,
            "cache_type_v": xllamacpp.ggml_type.GGML_TYPE_F32,
            "flash_attn_type": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }
    for name, value in settings.items():
        setattr(params, name, value)
    try:
        return xllamacpp.Server(params)
    except RuntimeError:  # its reasons go to a log that is off
        where = f", or cannot listen on {host}:{port}" if port else ""
        raise InputError(
            f"{file}: llama.cpp cannot load this file of architecture '{architecture}'{where}"
        ) from None


def _context_of(fields: Mapping[str, Any]) -> int:
    """The context that a file states, or less: it may state any number, and keys and values are
    kept for all of it.
    """
    name = fields.get("general.architecture")

    def number(key: str, default: int) -> int:
        found = fields.get(f"{name}.{key}", default)
        return found if isinstance(found, int) and found > 0 else default

    heads = number("attention.head_count", 1)
    size = number("attention.key_length", number("embedding_length", heads) // heads)
    # a key and a value in 16 bits, of every head and layer
    token = 2 * 2 * size * number("attention.head_count_kv", heads) * number("block_count", 1)
    return min(number("context_length", LONGEST), LONGEST, max(1024, _CACHE // token))


def _raise_error(answer: Any) -> None:
    if isinstance(answer, dict) and (error := answer.get("error")):
        raise InputError(f"llama.cpp: {error.get('message', error)}")
