"""How a text is split into words before pieces are merged: llama.cpp's names for it, and the
`pre_tokenizer` of tokenizer.json that does the same.

llama.cpp keeps the rules in its code (src/llama-vocab.cpp), and a file only names one. Many names
stand for one rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import InputError

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True, kw_only=True)
class Split:
    """One rule."""

    names: Sequence[str]
    """llama.cpp's names for it; the first is the one that is written."""
    pre_tokenizer: dict[str, Any]
    whole_words: bool = False
    """Whether a word that is a token is taken whole, whatever the merges say."""
    begins: bool = False
    """Whether llama.cpp begins every text with the token for it, where a file does not say."""


def _by_patterns(*patterns: str) -> dict[str, Any]:
    """Splits at what each pattern finds, one after the other, and then into bytes."""
    splits: list[dict[str, Any]] = [
        {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, BYTES | {"use_regex": False}]}


def _words(digits: str) -> str:
    """The pattern of Llama 3, with what it takes for a number."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_SPLITS = (
    Split(
        names=(
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ),
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES],
        },
    ),
    Split(
        names=(
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "roberta-bpe",
            "modern-bert",
        ),
        pre_tokenizer=BYTES,
    ),
    Split(
        names=(
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
        pre_tokenizer=_by_patterns(_words(r"\p{N}{1,3}")),
        whole_words=True,
        begins=True,
    ),
    Split(
        names=("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
        pre_tokenizer=_by_patterns(_words(r"\p{N}{1,3}")),
    ),
    Split(
        names=(
            "qwen2",
            "stablelm2",
            "deepseek-r1-qwen",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
            "kormo",
            "f2llmv2",
        ),
        pre_tokenizer=_by_patterns(_words(r"\p{N}")),
    ),
    Split(
        names=("minicpm5",),
        pre_tokenizer=_by_patterns(r"\p{N}{1,3}", _words(r"\p{N}+")),
        whole_words=True,
    ),
    # The published rule tells capitals from small letters in every alphabet, and counts combining
    # marks among the letters. llama.cpp tells them apart in ASCII alone, and this is its rule.
    Split(
        names=("tekken",),
        pre_tokenizer=_by_patterns(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+"
            r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*"
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        whole_words=True,
        begins=True,
    ),
    # What llama.cpp does for a file that names no rule. Hardly any model was trained so, but files
    # from before the names are run so.
    Split(
        names=("default",),
        pre_tokenizer=_by_patterns(
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ),
    ),
)

_BY_NAME = {name: split for split in _SPLITS for name in split.names}
_KNOWN = ", ".join(split.names[0] for split in _SPLITS)


def split_named(name: str) -> Split:
    """The rule that llama.cpp calls so. Raises InputError for one that is not known here."""
    if name not in _BY_NAME:
        raise InputError(
            f"a tokenizer that splits text as '{name}'; expected one of {_KNOWN}, or another name "
            "of one of these"
        )
    return _BY_NAME[name]


def split_name(pre_tokenizer: Any, whole_words: bool) -> str:
    """What llama.cpp calls the rule of a tokenizer.json. Raises InputError where it has no name
    for it.
    """
    alike = [one for one in _SPLITS if _core(pre_tokenizer) == _core(one.pre_tokenizer)]
    for split in alike:
        if split.whole_words == whole_words:
            return split.names[0]
    if alike:
        name, yes = alike[0].names[0], "true" if whole_words else "false"
        raise InputError(
            f"gguf: the tokenizer splits text as '{name}', but its ignore_merges is {yes}, which "
            f"llama.cpp does not do with that; known: {_KNOWN}"
        )
    raise InputError(
        f"gguf: llama.cpp has no name for how this tokenizer splits text; known: {_KNOWN}"
    )


def _core(node: Any) -> Any:
    """Without what changes no id: `trim_offsets`, and sequences of one."""
    if isinstance(node, list):
        return [_core(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and len(node["pretokenizers"]) == 1:
        return _core(node["pretokenizers"][0])
    return {key: _core(value) for key, value in node.items() if key != "trim_offsets"}
