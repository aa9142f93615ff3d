"""What an export says of a run's tokens: which begin and end a text, which end an answer, and by
which template a conversation is written. It follows from what an imported ancestor brought and from
what was learnt since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.data.chat_format import ChatFormat, find_format, format_of
from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.ship.import_model import brought_configs
from windtunnel.ship.marks import Marks, mark_ids, marks_of, named_marks
from windtunnel.train.run import Run

# As `windtunnel chat` samples.
_SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """The two files that tell an engine how to speak with a model."""

    tokenizer_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]


def spoken(lineage: Sequence[Run], corpora: Mapping[str, Corpus], tokenizer: Tokenizer) -> Spoken:
    """Of the first run in the line. `corpora`: those of its runs that are still there, by the run's
    id.
    """
    settings, generation = brought_configs(lineage[-1])
    brought = bool(settings)
    if not brought:
        settings, generation = _ours(tokenizer)
    marks = marks_of(tokenizer, settings, generation)
    tuned = any(corpus.is_chat for corpus in corpora.values())
    form = find_format(tokenizer)
    if tuned and form:
        settings["chat_template"] = form.template
        marks = replace(marks, end=tokenizer.id(form.closing))
    elif tuned:  # by the template that came with the tokenizer, which stays
        settings["chat_template"] = format_of(tokenizer).template
    elif form and "chat_template" not in settings:
        settings["chat_template"] = form.template
    else:
        form = None
    # What was trained on text here has learnt that its end token follows every document.
    learnt = [tokenizer.eos] if any(not run.recipe.is_imported for run in lineage) else []
    closing = [tokenizer.id(form.closing)] if form else []
    marks = replace(marks, ends=_each_once([*closing, *marks.ends, *learnt]))
    if form and (tuned or not brought):
        marks = replace(marks, pad=_padding(marks, form, tokenizer))
    return Spoken(
        tokenizer_config=named_marks(marks, tokenizer, settings),
        generation_config=generation | mark_ids(marks),
    )


def _ours(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a tokenizer without such files: nothing is put before or after a text, and the token that
    ends a document is also what the next one begins after.
    """
    end = tokenizer.name(tokenizer.eos)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
    }
    return settings, dict(_SAMPLING)


def _padding(marks: Marks, form: ChatFormat, tokenizer: Tokenizer) -> int:
    """Other programs never learn what fills up a batch. So it is no end, which they would unlearn,
    but what opens a system message, which no model has to say.
    """
    if marks.pad is not None and marks.pad not in marks.ends:
        return marks.pad
    return tokenizer.id(form.opening["system"][0])


def _each_once(tokens: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(tokens))
