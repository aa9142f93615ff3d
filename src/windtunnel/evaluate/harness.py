"""lm-eval's harness with a model of ours: its tasks, prompts, filters and metrics, and our forward
pass. Nothing is exported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.evaluate.bits import pieces
from windtunnel.evaluate.model import Done, Evaluated, Pair, Sampling, Show
from windtunnel.evaluate.template import Template

_CONTEXTS = 4096  # whose ids are remembered: a context comes once for each of its choices
_MOST = 256  # tokens of an answer, where a task names no number, as of lm-eval's own models


class Harness(TemplateLM):
    """A model as lm-eval asks for one. Contexts and continuations become tokens by its own rules,
    so that a score is what its other models would give.
    """

    def __init__(self, model: Evaluated, template: Template | None, show: Show) -> None:
        super().__init__()
        self.model, self._template, self._show = model, template, show
        self._context = lru_cache(_CONTEXTS)(self._encoded)

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self.model.end

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return self.model.prefix

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's own record."""
        return self.model.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """For lm-eval's own record."""
        return "its own" if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, up to where the answer begins."""
        if self._template is None:
            raise InputError(f"{self.model.name}: it has no chat template")
        if not add_generation_prompt:
            raise InputError("a task that begins the answer itself cannot be asked with --chat")
        return self._template(cast("list[Message]", chat_history))

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text; a text that begins with the token that begins texts gets no other."""
        return list(self._context(string, add_special_tokens))

    def _encoded(self, text: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        around = add_special_tokens
        if around is None:
            ids = self.model.encode(text, around=False)
            around = ids[:1] != [self.model.prefix]
            if not around:
                return tuple(ids)
        return tuple(self.model.encode(text, around))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Of each continuation after its context: nats, and whether it is the likeliest."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        most = self.model.context
        pairs = []
        for (context, continuation), before, ids in requests:
            if not ids:
                raise InputError(f"a continuation without a token: {continuation!r:.60}")
            if len(ids) > most:
                raise InputError(
                    f"an answer of {len(ids)} tokens is longer than the context of "
                    f"{self.model.name}, {most}: {continuation!r:.60} after {context!r:.60}"
                )
            # from the left, so that the answer and what stands next to it stay
            pairs.append(Pair(tuple(before[-(most + 1 - len(ids)) :]), tuple(ids)))
        found = self.model.likelihoods(pairs, self._bar("likelihoods", len(pairs)))
        return [(one.nats, one.greedy) for one in found]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Nats of each text, every token of it once."""
        pairs, of_text = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            for pair in pieces([self.prefix_token_id], self.tok_encode(text), self.model.context):
                pairs.append(pair)
                of_text.append(number)
        nats = [0.0] * len(requests)
        found = self.model.likelihoods(pairs, self._bar("likelihoods of texts", len(pairs)))
        for number, one in zip(of_text, found, strict=True):
            nats[number] += one.nats
        return nats

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text after each context, up to the first of its stops."""
        told = self._bar("answers", len(requests))
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            _, how = cast("tuple[str, dict[str, Any]]", request.args)
            alike.setdefault(json.dumps(how, sort_keys=True), []).append(number)
        said = [""] * len(requests)
        for how, numbers in alike.items():
            sampling = self._sampling(json.loads(how))
            room = self.model.context - sampling.most
            contexts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            prompts = [context[-room:] or [self.prefix_token_id] for context in contexts]
            texts = self.model.generate(prompts, sampling, told)
            for number, text in zip(numbers, texts, strict=True):
                said[number] = text
        return said

    def _sampling(self, asked: dict[str, Any]) -> Sampling:
        how: dict[str, Any] = {**normalize_gen_kwargs(asked, _MOST)}
        most = int(how.get("max_gen_toks") or _MOST)
        stops = how.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        if most >= self.model.context:
            most = self.model.context // 2  # half of what it can see is for the question
        return Sampling(
            most=most,
            stops=tuple(stop for stop in stops if stop),
            temperature=float(how.get("temperature") or 0) if how.get("do_sample") else 0.0,
            top_p=float(how.get("top_p") or 1),
        )

    def _bar(self, what: str, total: int) -> Done:
        done = 0

        def told(count: int) -> None:
            nonlocal done
            done += count
            self._show(f"{self.model.name}: {what}", done, total)

        return told
