"""llama.cpp, through xllamacpp: log-probabilities of given tokens, token ids of a text, answers,
and speed.

llama.cpp's server reports the probabilities of tokens that it samples, never of those in a
prompt. So each given token is sampled, by a bias that leaves no other choice, and what is
reported is the model's distribution before the bias; what came before it is in the server's
cache. A token that is a part of a UTF-8 character is not reported, since no text can be made of
it: that one is looked up among the probabilities of the whole vocabulary.
"""

import http.client
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.ship.extras import package
from windtunnel.ship.gguf_file import metadata
from windtunnel.ship.gguf_vocabulary import Kind, kinds
from windtunnel.ship.gguf_vocabulary import read as read_vocabulary

_LIKELIEST = 256  # of a token asked for by itself; all of the vocabulary where it is not among them
_FORCED = 1e9  # a bias in logits that leaves no other choice

T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """Tokens a second: of a prompt, and one after the other."""

    prompt: float
    generation: float


class LlamaCpp(AbstractContextManager["LlamaCpp"]):
    """llama.cpp with one model in memory, until `close`.

    `context`: the longest sequence, tokens; 0: what the file says. `exact`: a cache in fp32 and
    the plain attention, else what llama.cpp takes by itself. Raises InputError for a file that it
    cannot load.
    """

    def __init__(
        self,
        file: Path,
        context: int = 0,
        exact: bool = False,
        threads: int = 0,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.file = file
        self._fields = metadata(file)
        kind = self._fields.get("general.architecture")
        self._server: Any = _server(
            file, f"'{kind}'", context, exact, threads or usable_threads(), address
        )
        # a server that is closed before it has answered anything waits for itself for ever
        with self._connected() as connection:
            connection.request("GET", "/health")
            connection.getresponse().read()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and end the server."""
        self._server = None  # its destructor does it

    @property
    def url(self) -> str:
        return self._server.listening_address

    def log_probabilities(self, windows: np.ndarray) -> np.ndarray:
        """windows (n, T + 1) of ids -> log-probability of each but the first, given those before
        it: (n, T), nats.
        """
        return np.array(
            [
                [self._log_probability(ids[:at], ids[at]) for at in range(1, len(ids))]
                for ids in windows.tolist()
            ]
        )

    def tokenise(self, lines: Iterable[str]) -> list[list[int]]:
        """The ids of each line, with nothing added and special tokens written in it taken for
        text.
        """
        plain = {"add_special": False, "parse_special": False}
        return [
            answer["tokens"]
            for answer in self._post("/tokenize", ({"content": line} | plain for line in lines))
        ]

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the file's chat template writes it, up to where the answer begins."""
        (answer,) = self._post("/apply-template", [{"messages": list(messages)}])
        return answer["prompt"]

    def answer(
        self, messages: Sequence[Message], say: Callable[[str], None], **sampling: float
    ) -> str:
        """The model's answer; `say` hears it piece by piece. `sampling`: max_tokens, temperature,
        top_p, seed.
        """
        pieces: list[str] = []

        def hear(chunk: Any) -> None:
            _raise_error(chunk)
            for part in chunk if isinstance(chunk, list) else [chunk]:
                for choice in part.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        pieces.append(text)
                        say(text)

        self._server.handle_chat_completions(
            {"messages": list(messages), "stream": True} | sampling, hear
        )
        return "".join(pieces)

    def speed(self, prompt: Sequence[int], tokens: int = 128) -> Speed:
        """Of a prompt of given ids and `tokens` more, the likeliest each, after a few that warm
        it up.
        """
        asked = {
            "prompt": list(prompt),
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        self._complete(asked | {"max_tokens": min(8, tokens)})
        time = self._complete(asked | {"max_tokens": tokens})["timings"]
        return Speed(time["prompt_per_second"], time["predicted_per_second"])

    def _log_probability(self, before: list[int], token: int) -> float:
        part = self._kind[token] is Kind.PART
        sampled = self._kind.index(Kind.WHOLE) if part else token
        asked = {
            "prompt": before,
            "max_tokens": 1,
            "temperature": 0,
            "logit_bias": [[sampled, _FORCED]],
        }
        for most in (min(_LIKELIEST, len(self._kind)), len(self._kind)) if part else (1,):
            (reported,) = self._complete(asked | {"n_probs": most})["choices"][0]["logprobs"][
                "content"
            ]
            for one in (reported, *reported["top_logprobs"]):
                if one["id"] == token:
                    return one["logprob"]
        raise RuntimeError(f"llama.cpp reported no probability of token {token}")

    @cached_property
    def _kind(self) -> list[Kind]:
        try:
            return kinds(read_vocabulary(self._fields.__getitem__))
        except InputError as error:
            raise InputError(f"{self.file}: {error}") from None

    def _complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.handle_completions(asked)
        _raise_error(answer)
        return answer

    def _post(self, path: str, contents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The answer to each, over a connection of their own: the server ends one that is idle
        for some seconds.
        """
        with self._connected() as connection:
            for content in contents:
                connection.request(
                    "POST", path, json.dumps(content).encode(), {"Content-Type": "application/json"}
                )
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


def apart(work: Callable[..., T], file: Path, *arguments: Any) -> T:
    """What `work(file, *arguments)` gives, from a process of its own. Where torch has computed
    there would be its idle threads beside llama.cpp's: more than processors, and OpenMP then
    sends threads to sleep whenever they wait, which makes a small model four times slower. Raises
    InputError where that process dies.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(work, file, *arguments).result()
        except BrokenProcessPool:
            raise InputError(
                f"{file}: the process that ran llama.cpp on it was killed, or crashed"
            ) from None


def usable_threads() -> int:
    """As many as processors that this process may use, or as OMP_NUM_THREADS says: with more,
    they wait for each other in loops and everything is a hundred times slower.
    """
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(int(os.environ.get("OMP_NUM_THREADS") or processors), processors)


def version() -> str:
    """The engine by name, such as `llama.cpp (xllamacpp 2026.10.11549)`."""
    from importlib.metadata import version

    return f"llama.cpp (xllamacpp {version('xllamacpp')})"


def _server(
    file: Path, kind: str, context: int, exact: bool, threads: int, address: tuple[str, int]
) -> Any:
    xllamacpp = package("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames, params.port = [address[0]], address[1]
    params.n_ctx, params.n_parallel = context, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.fit_params, params.verbosity, params.offline, params.ui = (
        False,
        False,
        -1,
        True,
        False,
    )
    params.use_jinja = True
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        return xllamacpp.Server(params)
    except RuntimeError:  # its reasons go to a log that is off
        where = f", or not listen on {address[0]}:{address[1]}" if address[1] else ""
        raise InputError(
            f"{file}: llama.cpp cannot load this file of architecture {kind}{where}"
        ) from None


def _raise_error(answer: Any) -> None:
    if isinstance(answer, dict) and (error := answer.get("error")):
        raise InputError(f"llama.cpp: {error.get('message', error)}")
