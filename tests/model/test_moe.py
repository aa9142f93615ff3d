"""Experts: against a loop over tokens, in every way that the decoder calls them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.model.moe import grouped_product, mixture, unevenness
from windtunnel.recipe import Model

WIDTH, FFN, EXPERTS, WINDOW = 16, 24, 5, 6


def some(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def weights(*lead: int) -> list[Tensor]:
    """Router, gate, up and down."""
    shapes = [(EXPERTS, WIDTH), (EXPERTS, FFN, WIDTH), (EXPERTS, FFN, WIDTH), (EXPERTS, WIDTH, FFN)]
    return [some(*lead, *shape, seed=i) for i, shape in enumerate(shapes)]


def token_by_token(
    h: Tensor, router: Tensor, gate: Tensor, up: Tensor, down: Tensor, chosen: int
) -> Tensor:
    rows = []
    for x in h:
        chance = (router @ x).softmax(0)
        best = chance.argsort(descending=True)[:chosen]
        outputs = [down[e] @ (F.silu(gate[e] @ x) * (up[e] @ x)) * chance[e] for e in best]
        total = chance[best].sum() if chosen > 1 else 1.0
        rows.append(torch.stack(outputs).sum(0) / total)
    return torch.stack(rows)


@pytest.mark.parametrize("chosen", [1, 2, EXPERTS])
def test_each_token_goes_through_its_best_experts(chosen: int) -> None:
    h, parameters = some(4 * WINDOW, WIDTH, seed=9), weights()
    out, _ = mixture(h, *parameters, chosen, WINDOW)
    expected = token_by_token(h, *parameters, chosen)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    slope = some(*out.shape, seed=10).detach()
    ours = torch.autograd.grad(out, [h, *parameters], slope)
    theirs = torch.autograd.grad(expected, [h, *parameters], slope)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
    # a router that nothing tells which expert is the better one learns nothing
    assert ours[1].norm() > 0.01 * ours[2].norm() or chosen == EXPERTS


@pytest.mark.parametrize("chosen", [1, 2])
def test_members_have_experts_of_their_own(chosen: int) -> None:
    h, parameters = some(3, 4 * WINDOW, WIDTH, seed=9), weights(3)
    out, uneven = mixture(h, *parameters, chosen, WINDOW)
    slopes = torch.autograd.grad(out.sum(), parameters, retain_graph=True)
    assert all(slopes[0][member].norm() > 0.01 for member in range(3))
    assert out.shape == h.shape and uneven.shape == (3, 4)
    for member in range(3):
        alone, its = mixture(h[member], *(p[member] for p in parameters), chosen, WINDOW)
        torch.testing.assert_close(out[member], alone)
        torch.testing.assert_close(uneven[member], its)


def test_all_tokens_may_go_to_one_expert() -> None:
    h, (router, *rest) = some(4 * WINDOW, WIDTH, seed=9).detach().abs(), weights()
    router = torch.zeros_like(router)
    router[3] = 5.0  # h is positive: it is everyone's first
    out, uneven = mixture(h, router, *rest, 1, WINDOW)
    gate, up, down = (p[3] for p in rest)
    share = (h @ router.T).softmax(-1)[:, 3:4]
    torch.testing.assert_close(
        out, share * ((F.silu(h @ gate.T) * (h @ up.T)) @ down.T), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(uneven, torch.full((4,), float(EXPERTS)), rtol=1e-3, atol=0)
    slopes = torch.autograd.grad(out.sum(), rest)
    assert all(slope[3].any() and not slope[[0, 1, 2, 4]].any() for slope in slopes)


def test_unevenness_is_one_where_all_experts_get_the_same() -> None:
    even = torch.full((2, 10, EXPERTS), 1 / EXPERTS)
    in_turn = torch.arange(20).reshape(2, 10, 1) % EXPERTS
    torch.testing.assert_close(unevenness(even, in_turn), torch.ones(2))
    torch.testing.assert_close(
        unevenness(even, torch.cat([in_turn, (in_turn + 1) % EXPERTS], -1)), torch.ones(2)
    )
    leaning = F.one_hot(torch.zeros(2, 10, dtype=torch.long), EXPERTS).float()
    torch.testing.assert_close(
        unevenness(leaning, torch.zeros_like(in_turn)), torch.full((2,), float(EXPERTS))
    )


def test_the_load_balancing_loss_pushes_towards_the_idle_expert() -> None:
    h, (router, *rest) = some(4 * WINDOW, WIDTH, seed=9).detach().abs(), weights()
    router = torch.zeros_like(router)
    router[3] = 0.1
    router.requires_grad_()
    _, uneven = mixture(h, router, *rest, 1, WINDOW)
    slope = torch.autograd.grad(uneven.sum(), router)[0]
    assert (slope[3] > 0).all() and (slope[[0, 1, 2, 4]] < 0).all()


@pytest.mark.parametrize("ends", [[3, 3, 9, 12], [0, 0, 0, 12], [12, 12, 12, 12]])
def test_the_grouped_product_and_its_gradient(ends: list[int]) -> None:
    rows, matrices = some(12, WIDTH), some(4, FFN, WIDTH, seed=1)
    stops = torch.tensor(ends, dtype=torch.int32)
    torch.library.opcheck(
        grouped_product,
        (rows.detach().requires_grad_(), matrices, stops),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    parts = zip([0, *ends], ends, matrices, strict=False)
    expected = torch.cat([rows[a:b] @ matrix.T for a, b, matrix in parts])
    found = grouped_product(rows, matrices, stops)
    torch.testing.assert_close(found, expected)
    slope = some(12, FFN, seed=3)
    for mine, other in zip(
        torch.autograd.grad(found, [rows, matrices], slope),
        torch.autograd.grad(expected, [rows, matrices], slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def shape(**changes: Any) -> Model:
    return Model.model_validate(
        {"width": 32, "depth": 2, "heads": 2, "vocab": 97, "ffn": 40} | changes
    )


def test_one_expert_is_no_expert() -> None:
    single, plain = Decoder(shape(experts=1, experts_per_token=1), 12), Decoder(shape(), 12)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            single.get_parameter(name).view(parameter.shape).copy_(parameter)
    tokens = torch.arange(24).reshape(2, 12)
    torch.testing.assert_close(single.logits(tokens), plain.logits(tokens), rtol=1e-5, atol=1e-5)
    _, uneven = single.losses_and_unevenness(tokens, tokens)
    assert uneven is not None and uneven.tolist() == pytest.approx([2.0, 2.0]), "one a layer"
    assert plain.losses_and_unevenness(tokens, tokens)[1] is None


def test_in_16_bits_tokens_go_where_they_go_in_32() -> None:
    h, parameters = some(64 * WINDOW, WIDTH, seed=9), weights()
    out, uneven = mixture(h, *parameters, 2, WINDOW)
    with torch.autocast("cpu", torch.bfloat16):
        rough, the_same = mixture(h, *parameters, 2, WINDOW)
    assert torch.equal(uneven, the_same)
    assert 0 < ((rough - out).norm() / out.norm()).item() < 0.02
