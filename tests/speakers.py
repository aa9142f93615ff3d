"""Folders of other people's models, made up: Llamas of one layer that say a fixed text, with the
special tokens, templates and configs of several families.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WIDTH = 320  # a component for each token
SAYS = "Helo"
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A model that answers `SAYS` and the token `closes`, and, where it does not stop, goes on."""

    special: Sequence[str]
    """Its special tokens: ids 0, 1, ..."""
    asks: str
    """What comes right before an answer: a special token, or a letter."""
    closes: str
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    split: str = "smollm"
    begins: str = ""
    """What its tokenizer puts before every text."""

    def folder(self, place: Path, context: int = 256) -> Path:
        """Written as transformers would."""
        place.mkdir(parents=True)
        tokenizer = self._tokenizer()
        tokenizer.save(str(place / "tokenizer.json"))
        first = tokenizer.encode(self.asks, add_special_tokens=False).ids[-1]
        said = tokenizer.encode(SAYS, add_special_tokens=False).ids
        closing = tokenizer.token_to_id(self.closes)
        chain = [first, *said, closing, first]
        weights = _weights(tokenizer.get_vocab_size(), list(pairwise(chain)))
        save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 5,
            "max_position_embeddings": context,
            "hidden_act": "silu",
        }
        _write(place / "config.json", config | self.config)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | self.tokenizer_config
        _write(place / "tokenizer_config.json", settings)
        if self.generation_config is not None:
            _write(place / "generation_config.json", self.generation_config)
        return place

    def _tokenizer(self) -> Tokenizer:
        """Byte-level, of single bytes and two merges."""
        names = [*self.special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "zz", "qq"]
        vocab = {name: index for index, name in enumerate(names)}
        merges = [("z", "z"), ("q", "q")]
        made = Tokenizer(models.BPE(vocab, merges, ignore_merges=self.split == "llama-bpe"))
        parts: list[Any] = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
        if self.split == "llama-bpe":
            from tokenizers import Regex

            parts = [
                pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        made.pre_tokenizer = pre_tokenizers.Sequence(parts)  # type: ignore[assignment]
        made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        made.add_special_tokens([AddedToken(name, normalized=False) for name in self.special])
        if self.begins:
            made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
                single=f"{self.begins} $A",
                pair=f"{self.begins} $A {self.begins} $B",
                special_tokens=[(self.begins, vocab[self.begins])],
            )
        return made


def _weights(vocab: int, says: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Of a Llama whose layer adds nothing, and whose head says the second token after the first."""
    embedding, head = torch.zeros(vocab, WIDTH), torch.zeros(vocab, WIDTH)
    embedding[torch.arange(vocab), torch.arange(vocab)] = 1.0
    for before, after in says:
        head[after, before] = 3.0
    layer = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
    layer |= {"mlp.gate_proj": (32, WIDTH), "mlp.up_proj": (32, WIDTH)}
    layer |= {"mlp.down_proj": (WIDTH, 32)}
    made = {f"model.layers.0.{name}.weight": torch.zeros(shape) for name, shape in layer.items()}
    for name in ("model.norm", *(f"model.layers.0.{n}_layernorm" for n in _NORMS)):
        made[f"{name}.weight"] = torch.ones(WIDTH)
    return made | {"model.embed_tokens.weight": embedding, "lm_head.weight": head}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))


_NORMS = ("input", "post_attention")

SPEAKERS = {
    # the beginning of a text in the tokenizer and in the template; three ends, in a list
    "llama 3": Speaker(
        special=[
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|eot_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
        ],
        split="llama-bpe",
        begins="<|begin_of_text|>",
        asks="\n",
        closes="<|eot_id|>",
        tokenizer_config={
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "add_bos_token": True,
            "chat_template": "{{ bos_token }}{% for m in messages %}"
            "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
            "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        },
        generation_config={
            "bos_token_id": 0,
            "eos_token_id": [1, 5, 2],
            "do_sample": True,
            "temperature": 0.6,
            "transformers_version": "4.42.3",
        },
        config={"bos_token_id": 0, "eos_token_id": [1, 5, 2]},
    ),
    # turns in brackets, which are tokens; a system message is refused; names as objects
    "mistral": Speaker(
        special=["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"],
        begins="<s>",
        asks="[/INST]",
        closes="</s>",
        tokenizer_config={
            "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
            "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "chat_template": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
            "{{ '[INST] ' + m['content'] + '[/INST]' }}{% elif m['role'] == 'assistant' %}"
            "{{ ' ' + m['content'] + eos_token }}{% else %}"
            "{{ raise_exception('Only user and assistant roles are supported!') }}"
            "{% endif %}{% endfor %}",
        },
        config={"bos_token_id": 1, "eos_token_id": 2},
    ),
    # an end that is in nobody's list, beside one that is in all of them and means nothing here
    "own end": Speaker(
        special=["</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|fin|>"],
        asks="<|assistant|>",
        closes="<|fin|>",
        tokenizer_config={
            "eos_token": "<|fin|>",
            "chat_template": "{% for m in messages %}"
            "{{ '<|' + m['role'] + '|>' + m['content'] + '<|fin|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        },
        generation_config={"eos_token_id": 4},
    ),
    # two ends that only generation_config.json names, in a list
    "ends by number": Speaker(
        special=["<|stop|>", "<|user|>", "<|assistant|>", "<|done|>"],
        asks="<|assistant|>",
        closes="<|done|>",
        tokenizer_config={
            "chat_template": "{% for m in messages %}"
            "{{ '<|' + m['role'] + '|>' + m['content'] + '<|done|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        },
        generation_config={"eos_token_id": [0, 3], "top_k": 7},
    ),
    # a base model that has ChatML's tokens and no template
    "chatml base": Speaker(
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        asks="\n",
        closes="<|im_end|>",
        tokenizer_config={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        generation_config={"bos_token_id": 0, "eos_token_id": 0},
        config={"bos_token_id": 0, "eos_token_id": 0},
    ),
    # never ends: it has an end, and says it never
    "endless": Speaker(
        special=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        asks="<|assistant|>",
        closes="b",
        tokenizer_config={"eos_token": "<|end|>"},
    ),
}
