"""What a person names to be evaluated: a run, a folder of a checkpoint, or a GGUF file. Evaluation
knows nothing of the layouts of other tools; they meet here.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.evaluate.evaluation import Subject
from windtunnel.evaluate.model import Done, Evaluated, Likelihood, Pair, Sampling
from windtunnel.evaluate.template import Template
from windtunnel.files import sha256_of

if TYPE_CHECKING:
    from windtunnel.ship.portable import PortableModel
    from windtunnel.train.run import Run

_BEGIN, _END = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"


def subject_of(named: str, lab: Path, at: int | None) -> Subject:
    """The model that a person named; `at`: tokens of the checkpoint of a run. Raises InputError."""
    path = Path(named)
    if named.endswith(".gguf"):
        return _gguf(path, lab, at)
    if (path / "config.json").is_file():
        return _folder(path, lab, at)
    from windtunnel.train.run import find_run

    return _run(find_run(lab, named), at)


def _run(run: "Run", at: int | None) -> Subject:
    from windtunnel.ship.subject import Subject as Exported
    from windtunnel.train.run import checkpoint_at

    tokens = checkpoint_at(run, at)

    def portable() -> "PortableModel":
        return Exported.of(run, tokens).portable

    return Subject(
        name=run.id,
        tokens=tokens,
        engine=_engine(),
        folder=run.path / "evaluations",
        load=lambda: _own(run.id, portable()),
        template=lambda: _template(run.id, portable()),
    )


def _folder(path: Path, lab: Path, at: int | None) -> Subject:
    from windtunnel.ship.layouts import layout_of, plain_name

    _refuse_at(path, at)
    layout = layout_of(path)
    files = sorted(one for one in path.iterdir() if one.suffix in (".safetensors", ".json"))
    digest = hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()[:12]
    name = plain_name(path.resolve().name)
    return Subject(
        name=name,
        tokens=None,
        engine=_engine(),
        folder=lab / "evaluations" / f"{name}-{digest}",
        load=lambda: _own(name, layout.read(path)),
        template=lambda: _template(name, layout.read(path)),
    )


def _gguf(file: Path, lab: Path, at: int | None) -> Subject:
    from windtunnel.ship.layouts import plain_name
    from windtunnel.ship.llama_cpp import version

    _refuse_at(file, at)
    if not file.is_file():
        raise InputError(f"{file}: there is no such file")
    name = plain_name(file.name)

    def template() -> Template:
        raise InputError(
            f"--chat: {file}: `windtunnel import` it first, and evaluate the run; a file's "
            "template is known to llama.cpp alone"
        )

    return Subject(
        name=name,
        tokens=None,
        engine=version(),
        folder=lab / "evaluations" / f"{name}-{sha256_of(file)[:12]}",
        load=lambda: GGUF(name, file),
        template=template,
    )


def _refuse_at(path: Path, at: int | None) -> None:
    if at is not None:
        raise InputError(f"--at: {path} is no run, and has no checkpoints")


def _engine() -> str:
    from windtunnel.train.device import device_of

    return f"windtunnel, {device_of('auto')}, fp32"


def _own(name: str, portable: "PortableModel") -> Evaluated:
    from windtunnel.evaluate.own import OwnModel
    from windtunnel.train.device import device_of

    marks = portable.marks
    return OwnModel(
        name,
        portable.model,
        portable.weights,
        portable.context,
        portable.tokenizer,
        marks.begin,
        [marks.end, *marks.ends],
        device_of("auto"),
    )


def _template(name: str, portable: "PortableModel") -> Template:
    if not portable.chat_template:
        raise InputError(f"--chat: {name} has no chat template")
    return partial(_rendered, portable)


def _rendered(portable: "PortableModel", messages: Sequence[Message]) -> str:
    from windtunnel.data.jinja_format import render

    marks, tokenizer = portable.marks, portable.tokenizer
    begin = "" if marks.begin is None else tokenizer.name(marks.begin)
    end = tokenizer.name(marks.end)
    return render(portable.chat_template, messages, bos_token=begin, eos_token=end)


class GGUF:
    """A GGUF file as llama.cpp computes it, as `Evaluated` has it. Its likelihoods are slow: the
    engine tells the probability of one token at a time.
    """

    def __init__(self, name: str, file: Path) -> None:
        """Raises InputError for a file that llama.cpp cannot load."""
        from windtunnel.ship.gguf.file import metadata
        from windtunnel.ship.llama_cpp import LlamaCpp, version

        self.name, self.engine = name, version()
        self._llama = LlamaCpp(file, exact=True)
        # the token that the engine tells of is in its context, too
        self.context = self._llama.context - 1
        fields = metadata(file)
        if _END not in fields:
            raise InputError(f"{file}: it names no token that ends a text")
        self.end = int(fields[_END])
        self.prefix = int(fields.get(_BEGIN, self.end))

    def encode(self, text: str, around: bool = True) -> list[int]:
        """As `Evaluated` has it."""
        (ids,) = self._llama.tokenise([text], marked=True)
        (empty,) = self._llama.tokenise([""], marked=True)
        return ids if around else ids[len(empty) :]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """As `Evaluated` has it."""
        return self._llama.tokenise(texts)

    def likelihoods(self, pairs: Sequence[Pair], done: Done) -> list[Likelihood]:
        """As `Evaluated` has it. Pairs with one context follow each other: the engine remembers
        what it has read last.
        """
        found: dict[int, Likelihood] = {}
        for at in sorted(range(len(pairs)), key=lambda at: pairs[at]):
            before = [*pairs[at].context]
            nats, greedy = 0.0, True
            for token in pairs[at].continuation:
                chance, likeliest = self._llama.chance(before, token)
                nats, greedy = nats + chance, greedy and likeliest
                before.append(token)
            found[at] = Likelihood(nats, greedy)
            done(1)
        return [found[at] for at in range(len(pairs))]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, done: Done
    ) -> list[str]:
        """As `Evaluated` has it."""
        said = []
        for number, prompt in enumerate(prompts):
            said.append(
                self._llama.completion(
                    prompt,
                    sampling.stops,
                    max_tokens=sampling.most,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=sampling.seed + number,
                )
            )
            done(1)
        return said
