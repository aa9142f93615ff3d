"""The attention written out in blocks is torch's, forward and backward, for any lengths, groups
and documents.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from windtunnel.model import attention, attention_borders, attention_long
from windtunnel.model.attention import causal_attention


def inputs(
    B: int, heads: int, kv_heads: int, T: int, S: int, size: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * T + S)
    query = torch.randn(B, heads, T, size, generator=generator)
    key, value = torch.randn(2, B, kv_heads, S, size, generator=generator)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def torchs(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None = None
) -> Tensor:
    """torch's attention under a full mask, with every key and value head repeated for its group."""
    T, S, group = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    seen = torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None]
    if documents is not None:
        seen = seen & (documents[:, None, S - T :, None] == documents[:, None, None, :])
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


def compare(
    tensors: tuple[Tensor, Tensor, Tensor], documents: Tensor | None = None, scale: float = 0.3
) -> None:
    """Ours in fp32 against torch's in fp64 (torch's own fp32 form is off by more than ours at a
    scale of 5).
    """
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
    results = []
    for form, arguments in ((causal_attention, tensors), (torchs, exact)):
        mixed = form(*arguments, scale, documents)
        weights = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(0))
        results.append([mixed, *torch.autograd.grad((mixed * weights).sum(), arguments)])
    for ours, theirs in zip(*results, strict=True):
        # the gradients, and with them their rounding, grow with the scale
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * max(1.0, scale))


def some_documents(B: int, S: int) -> Tensor:
    return (torch.rand(B, S, generator=torch.Generator().manual_seed(S)) < 0.1).long().cumsum(-1)


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize(
    "heads", [(2, 2), (4, 2), (6, 1)], ids=lambda heads: f"{heads[0]} heads on {heads[1]}"
)
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
def test_whole_windows(T: int, heads: tuple[int, int], documents: bool) -> None:
    compare(inputs(2, *heads, T, T), some_documents(2, T) if documents else None)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 100),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
    st.integers(1, 3),
)
def test_any_lengths_against_a_cache(
    T: int, cached: int, group: int, kv_heads: int, documents: bool, B: int
) -> None:
    S = T + cached
    compare(
        inputs(B, group * kv_heads, kv_heads, T, S), some_documents(B, S) if documents else None
    )


def test_the_scale_is_taken() -> None:
    for scale in (0.01, 1.0, 5.0):
        compare(inputs(1, 2, 2, 70, 70), scale=scale)


@pytest.mark.parametrize("T", [5, 100])
def test_the_first_position_sees_only_itself(T: int) -> None:
    query, key, value = inputs(1, 2, 2, T, T)
    torch.testing.assert_close(causal_attention(query, key, value, 0.3)[:, :, 0], value[:, :, 0])


def test_where_every_position_is_a_document_each_sees_only_itself() -> None:
    query, key, value = inputs(2, 4, 2, 100, 100)
    mixed = causal_attention(query, key, value, 0.3, torch.arange(100).expand(2, 100))
    torch.testing.assert_close(mixed, value.repeat_interleave(2, 1))


def test_in_bf16_it_is_near_the_exact_result() -> None:
    query, key, value = (x.detach().bfloat16() for x in inputs(2, 4, 2, 150, 150))
    exact = torchs(query.double(), key.double(), value.double(), 0.3)
    mixed = causal_attention(query, key, value, 0.3)
    assert mixed.dtype == torch.bfloat16
    assert (mixed.double() - exact).norm() / exact.norm() < 0.005  # torch's own form: 0.002


def plain(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The formula as it stands, for autograd: products in the inputs' dtype, softmax in fp32 or
    more.
    """
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scores = (query @ key.mT).to(torch.promote_types(query.dtype, torch.float32)) * scale
    return scores.masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype) @ value


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_in_bf16_its_gradients_are_as_near_to_the_exact_ones_as_those_of_the_plain_form(
    scale: float,
) -> None:
    """Relative errors of result and gradients: 0.003 to 0.005 at a scale of 0.2 (plain: 0.003 to
    0.004), 0.009 to 0.014 at 1 (plain: 0.008 to 0.013).
    """
    rounded = tuple(x.detach().bfloat16() for x in inputs(2, 4, 4, 256, 256, size=32))
    weights = torch.randn(2, 4, 256, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    results = []
    for form, dtype in (
        (plain, torch.float64),
        (causal_attention, torch.bfloat16),
        (plain, torch.bfloat16),
    ):
        arguments = tuple(x.to(dtype).requires_grad_() for x in rounded)
        mixed = form(*arguments, scale)
        results.append([mixed, *torch.autograd.grad((mixed * weights.to(dtype)).sum(), arguments)])
    for exact, ours, theirs in zip(*results, strict=True):
        errors = [((x.double() - exact).norm() / exact.norm()).item() for x in (ours, theirs)]
        assert errors[0] < 1.35 * errors[1]


@pytest.mark.parametrize("T", [2, 64, 65, 129, 300])
@pytest.mark.parametrize("heads", [(2, 2), (6, 2)])
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
def test_long_windows_are_the_same(
    T: int, heads: tuple[int, int], documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "KEPT", 1)
    compare(inputs(2, *heads, T, T), some_documents(2, T) if documents else None)
    # against a cache, of which some is no text of this row
    seen = (torch.arange(T + 70) < 20) | (torch.arange(T + 70) >= 70)
    compare(inputs(1, *heads, T, T + 70), seen.long()[None] if documents else None)


def test_long_windows_are_the_same_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KEPT", 1)
    torch.library.opcheck(
        attention_long._attend,  # pyright: ignore
        (*inputs(2, 4, 2, 130, 130), some_documents(2, 130), 0.3),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    whole = inputs(2, 4, 2, 130, 130)
    compiled = torch.compile(causal_attention)
    for form in (compiled, torchs):
        mixed = form(*whole, 0.3, some_documents(2, 130))
        grads = torch.autograd.grad(mixed.square().sum(), whole)
        if form is compiled:
            ours = [mixed, *grads]
            continue
        for a, b in zip(ours, [mixed, *grads], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_long_windows_of_heads_that_lie_apart() -> None:
    """As a projection gives them: heads beside each other within a token."""
    query, key, value = (tensor.detach() for tensor in inputs(1, 2, 2, 200, 200))
    apart = [one.transpose(1, 2).contiguous().transpose(1, 2) for one in (query, key, value)]
    ours = attention_long.long_attention(*apart, 0.3)
    torch.testing.assert_close(ours, torchs(query, key, value, 0.3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("T", [128, 200, 640])
@pytest.mark.parametrize("heads", [(2, 2), (6, 2)])
def test_borders_on_a_gpu_are_those_of_the_documents(T: int, heads: tuple[int, int]) -> None:
    """As FlexAttention is written; on a GPU it is compiled, and skips the blocks that are told."""
    documents = some_documents(2, T)
    made = attention_borders.borders(documents)

    def within(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (documents[b, q] == documents[b, k])

    theirs = create_block_mask(within, 2, None, T, T, device="cpu")
    # every block that has anything to look at, and none behind the diagonal
    assert (made.to_dense() >= theirs.to_dense()).all()
    assert (made.to_dense().bool().tril() == made.to_dense().bool()).all()
    # torch has no backward pass of it on a CPU
    query, key, value = (one.detach() for one in inputs(2, *heads, T, T, size=16))
    grouped = heads[0] != heads[1]
    ours = flex_attention(query, key, value, block_mask=made, scale=0.3, enable_gqa=grouped)
    expected = torchs(query, key, value, 0.3, documents)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_borders_are_kept_where_they_are_compiled() -> None:
    """Then blocks that are not told are not looked at."""
    documents = some_documents(2, 640)
    query, key, value = (one.detach() for one in inputs(2, 4, 2, 640, 640, size=16))
    made = attention_borders.borders(documents)
    ours = attention_borders.attend_within(query, key, value, 0.3, made)
    torch.testing.assert_close(
        ours, torchs(query, key, value, 0.3, documents), rtol=1e-4, atol=1e-5
    )


def test_memory_grows_with_the_length_and_not_its_square() -> None:
    """In a process of its own: what else this one holds comes and goes meanwhile."""
    code = (
        "import torch\n"
        "from memory_peaks import peak_of\n"
        "from windtunnel.model.attention import causal_attention\n"
        "for T in (4096, 4096, 8192, 12_288):\n"
        "    query, key, value = torch.randn(3, 1, 2, T, 16).requires_grad_()\n"
        "    mix = lambda: causal_attention(query, key[:, :1], value[:, :1], 0.3)\n"
        "    print(peak_of(lambda: mix().square().sum().backward()))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    _, once, twice, thrice = map(int, run.stdout.split())
    assert thrice - twice < 1.5 * (twice - once) + 8e6
    # a tenth of what the weights alone would be
    assert thrice < 0.1 * 2 * 12_288**2 / 2 * 4
