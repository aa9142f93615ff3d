"""The loss is torch's cross-entropy, also where the logits are made chunk by chunk."""

import math

import pytest
import torch
import torch.nn.functional as F
from memory_peaks import peak_of
from torch import Tensor

from windtunnel.model import loss
from windtunnel.model.decoder import _HeadLoss
from windtunnel.model.loss import token_losses
from windtunnel.model.memory import logits_at_once


def some(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def targets_of(*size: int, vocab: int) -> Tensor:
    return torch.randint(0, vocab, size, generator=torch.Generator().manual_seed(1))


def torchs(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ head.T, targets, reduction="none")


def gradients(losses: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Under a weight for each token, so that no two may be exchanged."""
    return torch.autograd.grad(
        (losses * torch.linspace(0.5, 1.5, losses.numel()).view(losses.shape)).sum(), inputs
    )


@pytest.mark.parametrize("size", [0.1, 3.0, 50.0], ids=lambda size: f"logits of {size}")
def test_it_is_torchs_cross_entropy(size: float) -> None:
    hidden, head = (size * some(40, 16)).requires_grad_(), some(97, 16, seed=2).requires_grad_()
    targets = targets_of(40, vocab=97)
    ours, theirs = token_losses(hidden, head, targets), torchs(hidden, head, targets)
    assert ours.shape == (40,) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        assert (a - b).norm() / b.norm() < 1e-5


def test_without_a_preference_it_is_the_logarithm_of_the_vocabulary() -> None:
    losses = token_losses(torch.zeros(5, 8), some(320, 8), targets_of(5, vocab=320))
    torch.testing.assert_close(losses, torch.full((5,), math.log(320)))


def test_logits_far_from_zero_do_not_overflow() -> None:
    losses = token_losses(
        torch.tensor([[300.0], [-300.0]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0])
    )
    torch.testing.assert_close(losses, torch.tensor([0.0, 600.0]))


@pytest.mark.parametrize("own", [False, True], ids=["shared targets", "own targets"])
def test_each_member_has_the_loss_that_it_has_alone(own: bool) -> None:
    hidden, head = some(3, 40, 16).requires_grad_(), some(3, 97, 16, seed=2).requires_grad_()
    targets = targets_of(*((3, 40) if own else (40,)), vocab=97)
    losses = token_losses(hidden, head, targets)
    expected = torch.stack(
        [torchs(hidden[p], head[p], targets[p] if own else targets) for p in range(3)]
    )
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        gradients(losses, hidden, head), gradients(expected, hidden, head), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_in_bf16_the_sum_over_the_vocabulary_is_in_fp32() -> None:
    hidden, head, targets = (
        some(40, 16).bfloat16(),
        some(3000, 16, seed=2).bfloat16(),
        targets_of(40, vocab=3000),
    )
    losses = token_losses(hidden, head, targets)
    assert losses.dtype == torch.float32
    expected = F.cross_entropy((hidden @ head.T).float(), targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("peaked", [False, True], ids=["", "targets that are likely"])
def test_under_autocast_its_gradient_is_as_near_to_the_exact_one_as_torchs(peaked: bool) -> None:
    """Relative errors 0.0026 (flat) and 0.0127 (peaked), torch's the same to a percent."""
    hidden, head = some(256, 32).requires_grad_(), some(500, 32, seed=2).requires_grad_()
    targets = (hidden @ head.T).argmax(-1) if peaked else targets_of(256, vocab=500)
    exact = [x.detach().double().requires_grad_() for x in (hidden, head)]
    expected = gradients(torchs(*exact, targets), *exact)
    errors = []
    for form in (
        token_losses,
        lambda h, w, t: F.cross_entropy((h @ w.T).float(), t, reduction="none"),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            losses = form(hidden, head, targets)
        pairs = zip(gradients(losses, hidden, head), expected, strict=True)
        errors.append([((a - b).norm() / b.norm()).item() for a, b in pairs])
    for ours, theirs in zip(*errors, strict=True):
        assert ours < 1.1 * theirs and ours < 0.03


def test_a_token_of_no_weight_has_no_gradient() -> None:
    hidden, head, targets = (
        some(6, 8).requires_grad_(),
        some(20, 8, seed=2),
        targets_of(6, vocab=20),
    )
    (gradient,) = torch.autograd.grad(token_losses(hidden, head, targets)[:3].sum(), hidden)
    assert gradient[3:].abs().max() == 0 and gradient[:3].abs().amin() > 0


@pytest.mark.parametrize("members", [None, 2])
def test_chunked_it_is_the_same(members: int | None) -> None:
    """So many logits that they are made in two chunks, the second shorter; the reference takes
    500 rows at a time.
    """
    vocab, rows, lead = 2**15, 2100 // (members or 1), () if members is None else (members,)
    hidden, head = (
        some(*lead, rows, 4).requires_grad_(),
        some(*lead, vocab, 4, seed=2).requires_grad_(),
    )
    targets, weights = targets_of(*lead, rows, vocab=vocab), some(*lead, rows, seed=3)
    losses = token_losses(hidden, head, targets)
    kept = losses.grad_fn.saved_tensors  # pyright: ignore
    assert max(tensor.numel() for tensor in kept) < rows * vocab / 2, (
        "it was to be in chunks, and to keep no logits"
    )
    ours = torch.autograd.grad((losses * weights).sum(), (hidden, head))
    losses = losses.detach()

    theirs = torch.zeros_like(hidden), torch.zeros_like(head)
    for p in range(members or 1):
        at = p if members else ...
        for start in range(0, rows, 500):
            part = slice(start, min(start + 500, rows))
            h, w = hidden.detach()[at][part].requires_grad_(), head.detach()[at].requires_grad_()
            expected = torchs(h, w, targets[at][part])
            torch.testing.assert_close(losses[at][part], expected, rtol=1e-5, atol=1e-5)
            grads = torch.autograd.grad((expected * weights[at][part]).sum(), (h, w))
            theirs[0][at][part] += grads[0]
            theirs[1][at] += grads[1]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_rows_of_the_head_that_stand_for_no_token_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU's products want rows of logits that begin at whole 16 bytes."""
    hidden, head = (3 * some(40, 16)).requires_grad_(), some(97, 16, seed=2).requires_grad_()
    targets = targets_of(40, vocab=97)
    plain = token_losses(hidden, head, targets)
    monkeypatch.setitem(loss._ALIGNED, "cpu", 128)
    padded = token_losses(hidden, head, targets)
    torch.testing.assert_close(padded, plain, rtol=1e-6, atol=1e-6)
    for a, b in zip(gradients(padded, hidden, head), gradients(plain, hidden, head), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "most", "lengths"),
    [
        (8, 8, [8]),
        (12, 5, [4, 4, 4]),
        (16, 5, [4, 4, 4, 4]),
        (7, 5, [4, 3]),
        (13, 5, [5, 5, 3]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_chunks_are_alike_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch, tokens: int, most: int, lengths: list[int]
) -> None:
    monkeypatch.setattr(loss, "logits_at_once", lambda device: 10 * most)
    chunks = loss._chunks(torch.zeros(tokens, 2), torch.zeros(10, 2))
    places = [list(range(tokens)[at]) for at in chunks]
    assert [at for place in places for at in place] == list(range(tokens))
    assert [len(place) for place in places] == lengths


@pytest.mark.slow
def test_compiled_it_holds_two_chunks_of_logits_at_most() -> None:
    """Of fifteen; compiled as one graph it kept all of them between the passes."""
    vocab, tokens, width = 122_753, 4096, 64
    chunk = 2 * logits_at_once("cpu")  # bytes, in 16 bits
    head_loss = _HeadLoss(compiled=True)
    x, head = some(tokens, width).requires_grad_(), some(vocab, width, seed=2).requires_grad_()
    norm, scale, targets = torch.ones(width), torch.tensor(0.125), targets_of(tokens, vocab=vocab)
    kept = list[torch.Tensor]()

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            kept[:] = [head_loss(x, norm, 1e-5, scale, head, targets)]

    def backward() -> None:
        x.grad = head.grad = None
        kept[0].sum().backward(retain_graph=True)

    forward()
    backward()
    table = 4 * vocab * width  # bytes of the head's derivative in fp32
    assert peak_of(forward) < 2 * chunk + table
    # the sum in fp32, its copies in 16 bits, and what autograd makes of them in fp32
    assert peak_of(backward) < 2 * chunk + 5 * table
