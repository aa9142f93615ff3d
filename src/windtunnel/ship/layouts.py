"""The layouts in which a model leaves a lab, one record each: the names that `export --to` takes,
how each is written and read, which engine confirms what was written, and how near that engine has
to come.

To add one, add its record to `LAYOUTS`. The command line makes its help from these records, so
nothing heavy is imported before a layout is used.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from windtunnel.choices import Table
from windtunnel.errors import InputError, did_you_mean
from windtunnel.ship.engines import Asked, Scores, by_llama_cpp, by_transformers
from windtunnel.ship.huggingface.architectures import (
    GRANITE,
    GRANITE_MOE,
    LLAMA,
    MINICPM,
    Architecture,
)

if TYPE_CHECKING:
    from windtunnel.recipe import Model
    from windtunnel.ship.portable import PortableModel


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How far an engine may be from our own forward pass in fp32 for a file to hold the same
    model. Rounded weights cannot give the same probabilities, but a wrong multiplier or a lost
    tensor changes the bits a byte far more than rounding does.
    """

    difference: float | None = None
    """The largest difference of a log-probability, nats; None: any."""
    change: float | None = None
    """The largest change in bits a byte, as a share of ours; None: any."""


def one_expert_a_token(model: Model) -> str:
    """Why no layout can hold the model; empty where one may."""
    if model.experts < 2 or model.experts_per_token > 1:
        return ""
    return (
        "one expert a token: here it counts by the router's probability, and in every layout by 1"
    )


@dataclass(frozen=True, kw_only=True)
class Layout(ABC):
    """One layout, by the name that `export --to` takes."""

    name: str
    help: str
    read_by: str
    """What reads it and what to know about it, as sentences for the model card."""
    engine: Callable[[Path, Asked], Scores]
    """Loads what was written as other people will, and scores held-out text with it."""
    architectures: tuple[Architecture, ...] = ()
    """What a folder's config.json may name; none for a layout that is a single file."""
    bounds: Mapping[str, Bound]
    """By the type in which the numbers are kept, the usual one first."""
    library: ClassVar[str]
    """`library_name` in the head of the model card."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types in which the numbers can be kept, the usual one first."""
        return tuple(self.bounds)

    def dtype_of(self, asked: str) -> str:
        """The type that a person means, in any case of letters; the usual one for an empty text.
        Raises InputError.
        """
        known = {dtype.lower(): dtype for dtype in self.dtypes}
        if asked and asked.lower() not in known:
            near = did_you_mean(asked, self.dtypes)
            expected = f"expected one of {', '.join(self.dtypes)} for --to {self.name}{near}"
            raise InputError(f"--dtype {asked}: {expected}")
        return known[asked.lower()] if asked else self.dtypes[0]

    def check(self, model: Model) -> None:
        """Raises InputError where this layout cannot hold the model, with those that can."""
        if reason := one_expert_a_token(model):
            raise InputError(f"--to {self.name}: {reason}")
        if reason := self.refusal(model):
            able = [layout for layout in LAYOUTS.values() if not layout.refusal(model)]
            expected = Table("layout", able).listed
            raise InputError(f"--to {self.name}: {reason}; expected --to {expected}")

    def title(self, dtype: str) -> str:
        """What a check calls this layout with its numbers kept so."""
        return self.name

    @abstractmethod
    def refusal(self, model: Model) -> str:
        """Why this layout cannot hold the model; empty where it can."""

    @abstractmethod
    def write(self, folder: Path, portable: PortableModel, dtype: str) -> Path:
        """Write a model into an empty folder; returns what an engine loads. Raises InputError."""

    @abstractmethod
    def read(self, source: Path) -> PortableModel:
        """The model in a folder or file of this layout. Raises InputError."""


@dataclass(frozen=True, kw_only=True)
class FolderLayout(Layout):
    """A folder as Hugging Face tools read it, of one of its `architectures`."""

    library: ClassVar[str] = "transformers"

    def refusal(self, model: Model) -> str:
        """By the architecture that comes nearest."""
        return "" if self._architecture(model) else self.architectures[0].refusal(model)

    def write(self, folder: Path, portable: PortableModel, dtype: str) -> Path:
        from windtunnel.ship.huggingface.folder import write

        self.check(portable.model)
        architecture = self._architecture(portable.model)
        assert architecture  # or `check` had refused the model
        write(folder, architecture, portable, dtype)
        return folder

    def read(self, source: Path) -> PortableModel:
        from windtunnel.ship.huggingface.folder import read

        return read(source, self.architectures)

    def _architecture(self, model: Model) -> Architecture | None:
        """The first of its architectures that can hold the model."""
        return next((one for one in self.architectures if not one.refusal(model)), None)


@dataclass(frozen=True, kw_only=True)
class GGUFLayout(Layout):
    """One GGUF file."""

    library: ClassVar[str] = "gguf"

    def title(self, dtype: str) -> str:
        return f"{self.name} {dtype}"

    def refusal(self, model: Model) -> str:
        return ""

    def write(self, folder: Path, portable: PortableModel, dtype: str) -> Path:
        from windtunnel.ship.gguf.model import write

        self.check(portable.model)
        file = folder / f"{plain_name(portable.name)}-{dtype}.gguf"
        write(file, portable, dtype)
        return file

    def read(self, source: Path) -> PortableModel:
        from windtunnel.ship.gguf.model import read

        return read(source)


def layout_of(source: Path) -> Layout:
    """The layout that a folder is in, by its config.json, or a file: GGUF. Raises InputError for a
    folder without a whole config.json, or of an architecture that no layout has.
    """
    if not source.is_dir():
        return LAYOUTS["gguf"]
    from windtunnel.ship.huggingface.config import architecture_in
    from windtunnel.ship.huggingface.folder import config_in

    layouts: dict[Architecture, Layout] = {}
    for layout in LAYOUTS.values():
        layouts |= dict.fromkeys(layout.architectures, layout)
    return layouts[architecture_in(config_in(source), list(layouts), f"{source / 'config.json'}")]


def plain_name(name: str) -> str:
    """A name that a file can have on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _read_back(folder: Path, asked: Asked) -> Scores:
    """No installed engine reads MiniCPM's layout without running code out of the checkpoint, which
    this project never does; so we read the folder again, and score it ourselves.
    """
    from windtunnel.ship.forward import log_probabilities
    from windtunnel.ship.template import conversation

    found = layout_of(folder).read(folder)
    tokenizer = found.tokenizer
    return Scores(
        engine="read back by windtunnel",
        log_probabilities=log_probabilities(
            found.model, found.weights, asked.held.windows, asked.held.skip
        ),
        ids=[ids.tolist() for ids in tokenizer.encode_batch(asked.held.lines)],
        marked=[tokenizer.encode_marked(text) for text in asked.marked],
        rendered=conversation(found) if asked.messages else "",
        ends=[end for end in asked.ends if end in found.marks.ends],
    )


# In fp32 only the order of sums differs: 1e-6 to 1e-5 nats in small models. For rounded weights the
# bound grows with half the step between two numbers: 2^-11 of a number in fp16, 2^-8 in bf16, and
# 1/30 of a group's range in four bits.
_FOLDER_BOUNDS = {
    "fp32": Bound(difference=1e-4),
    "bf16": Bound(change=0.005),
    "fp16": Bound(change=0.001),
}
_GGUF_BOUNDS = {
    # llama.cpp adds up the probabilities of a vocabulary in fp32 to report one of them
    "F32": Bound(difference=5e-4),
    "F16": Bound(change=0.001),
    "BF16": Bound(change=0.005),
    "Q8_0": Bound(change=0.005),
    "Q6_K": Bound(change=0.01),
    "Q5_K_M": Bound(change=0.03),
    "Q4_K_M": Bound(change=0.1),
    "Q5_1": Bound(change=0.03),
    "Q5_0": Bound(change=0.03),
    "Q4_1": Bound(change=0.1),
    "Q4_0": Bound(change=0.1),
}

LAYOUTS: Table[Layout] = Table(
    "layout",
    [
        FolderLayout(
            name="hf",
            help="a Granite model, which transformers and vLLM read",
            read_by="`transformers.AutoModelForCausalLM`, vLLM and llama.cpp's converter read this "
            "layout (Granite, or GraniteMoe with experts) and apply its multipliers.",
            architectures=(GRANITE, GRANITE_MOE),
            engine=by_transformers,
            bounds=_FOLDER_BOUNDS,
        ),
        FolderLayout(
            name="minicpm",
            help="the layout of the published MiniCPM models",
            read_by="This is the layout of the published MiniCPM models. vLLM and SGLang read it; "
            "transformers needs `configuration_minicpm.py` and `modeling_minicpm.py` of such a "
            "model beside it.",
            architectures=(MINICPM,),
            engine=_read_back,
            bounds=_FOLDER_BOUNDS,
        ),
        FolderLayout(
            name="llama",
            help="a plain Llama, which every tool reads",
            read_by="This is a plain Llama, which every tool reads: the multipliers are folded "
            "into the weights. It is for inference; to train on, take the `hf` layout.",
            architectures=(LLAMA,),
            engine=by_transformers,
            bounds=_FOLDER_BOUNDS,
        ),
        GGUFLayout(
            name="gguf",
            help="one file for llama.cpp",
            read_by="For llama.cpp and the tools built on it.",
            engine=by_llama_cpp,
            bounds=_GGUF_BOUNDS,
        ),
    ],
)
