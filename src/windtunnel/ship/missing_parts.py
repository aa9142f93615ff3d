"""Parts of published models that this project's decoder does not have, by the names that give them
away, so that a refusal can say which part it is.
"""

_BIASES = "biases"
_NORMS = "norms of query and key (QK-norm)"
_SCALED = "RoPE that is scaled with the length"

# Architectures that differ from Llama by one such part, as config.json and GGUF name them.
_ARCHITECTURES = {
    "Qwen2ForCausalLM": _BIASES,
    "qwen2": _BIASES,
    "Qwen3ForCausalLM": _NORMS,
    "qwen3": _NORMS,
    "Qwen3MoeForCausalLM": _NORMS,
    "qwen3moe": _NORMS,
}
# What the name of a tensor holds, in safetensors or in GGUF.
_TENSORS = {
    ".bias": _BIASES,
    "q_norm.": _NORMS,
    "k_norm.": _NORMS,
    "rope_factors": _SCALED,
}


def of_architecture(name: str) -> str:
    """` (a Llama with biases)`, of an architecture that is one; empty for others."""
    return f" (a Llama with {_ARCHITECTURES[name]})" if name in _ARCHITECTURES else ""


def of_tensor(name: str) -> str:
    """The part that a tensor of this name belongs to; empty where it is none of these."""
    return next((part for mark, part in _TENSORS.items() if mark in name), "")
