"""The tokens around a text and behind an answer, as metadata of GGUF, and back.

GGUF has a place for three tokens that end an answer. llama.cpp also ends one at any special token
that has one of the usual names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.errors import InputError
from windtunnel.ship.gguf.sentencepiece import SentencePiece
from windtunnel.ship.gguf.splits import split_named
from windtunnel.ship.gguf.tokens import CONTROL
from windtunnel.ship.portable import PortableModel

# Keys of the tokens that end an answer: of a text, of a turn, of a message.
_ENDS = ("eos", "eot", "eom")
# At these names llama.cpp ends an answer, whatever the keys say.
_ENDS_BY_NAME = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
)
_BEGIN_OF_SENTENCEPIECE = 1  # what llama.cpp takes for the beginning where a file does not say


def write(portable: PortableModel, writer: Any) -> None:
    """Write them with a gguf.GGUFWriter. Raises InputError for a tokenizer that puts something
    else around a text than llama.cpp can.
    """
    marks, tokenizer = portable.marks, portable.tokenizer
    # Where a file names no token for the beginning or the end, llama.cpp takes its own.
    begin = tokenizer.eos if marks.begin is None else marks.begin
    if tokenizer.before not in ((), (begin,)) or tokenizer.behind not in ((), (marks.end,)):
        put = [tokenizer.name(token) for token in (*tokenizer.before, *tokenizer.behind)]
        raise InputError(
            f"gguf: the tokenizer puts {', '.join(put)} around a text; llama.cpp has a token for "
            "the beginning and one for the end"
        )
    writer.add_bos_token_id(begin)
    ends = [marks.end, *(token for token in marks.ends if token != marks.end)]
    for key, token in zip(_ENDS, ends, strict=False):
        getattr(writer, f"add_{key}_token_id")(token)
    if marks.pad is not None:
        writer.add_pad_token_id(marks.pad)
    writer.add_add_bos_token(bool(tokenizer.before))
    writer.add_add_eos_token(bool(tokenizer.behind))
    if portable.chat_template:
        writer.add_chat_template(portable.chat_template)


def read(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What tokenizer_config.json and generation_config.json would say of a file with these
    metadata. Raises InputError for a token that is none, and KeyError where no end is named.
    """
    names: Sequence[str] = fields["tokenizer.ggml.tokens"]
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = _token(fields, key, len(names))
        if token is not None:
            settings[f"{role}_token"] = names[token]
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    types = fields["tokenizer.ggml.token_type"]
    ends = {token: None for key in _ENDS if (token := _token(fields, key, len(names))) is not None}
    for token, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind == CONTROL and name in _ENDS_BY_NAME:
            ends[token] = None
    return settings, {"eos_token_id": list(ends)}


def around(fields: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The tokens that llama.cpp puts before and behind every text of a file with these metadata.
    Raises InputError for a token that is none.
    """
    size = len(fields["tokenizer.ggml.tokens"])
    of_sentencepiece = fields["tokenizer.ggml.model"] == SentencePiece.model
    unsaid = of_sentencepiece or split_named(fields["tokenizer.ggml.pre"]).begins
    before = fields.get("tokenizer.ggml.add_bos_token", unsaid)
    behind = fields.get("tokenizer.ggml.add_eos_token", False)
    begin, end = (_token(fields, key, size) for key in ("bos", "eos"))
    if begin is None and of_sentencepiece:
        begin = _BEGIN_OF_SENTENCEPIECE
    return (begin if before else None), (end if behind else None)


def _token(fields: Mapping[str, Any], key: str, size: int) -> int | None:
    """The id of a role's token; None where the file names none, but for the end of a text. Raises
    InputError, and KeyError for that.
    """
    name = f"tokenizer.ggml.{key}_token_id"
    token = fields[name] if key == "eos" else fields.get(name)
    if token is None:
        return None
    if not isinstance(token, int) or not 0 <= token < size:
        raise InputError(f"{name}: {token!r}, of {size} tokens")
    return token
