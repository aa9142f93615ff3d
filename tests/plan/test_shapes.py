"""Real shapes: exact costs, whole heads, and the proportions of models that were measured."""

import math
from itertools import pairwise

import numpy as np
import pytest
from plan_labs import CHINCHILLA, outlook_of

from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.shapes import PAPER_BAND, Band, Family, head_size, widths
from windtunnel.plan.sizes import nearest_shape

MEASURED = ((16, 2), (32, 2), (48, 3), (64, 4), (96, 4))
FAMILY = Family(
    vocab=2048,
    context=256,
    band=Band.of(MEASURED),
    fixed={},
)


def test_costs_are_those_of_the_model() -> None:
    for fixed in ({}, {"tied": False}):
        family = Family(vocab=2048, context=256, band=FAMILY.band, fixed=fixed)
        shapes = family.shapes()
        for i in range(0, len(shapes), 97):
            model = family.model(int(shapes.width[i]), int(shapes.depth[i]))
            counts = count(model)
            assert {key: value[i] for key, value in shapes.params.items()} == vars(counts)
            assert shapes.flops[i] == flops_per_token(model, 256)


@pytest.mark.parametrize("width", widths())
def test_heads_fill_the_width(width: int) -> None:
    model = FAMILY.model(width, 2)
    assert model.heads * model.head_size == width and model.head_size == head_size(width)
    assert model.ffn == 2.5 * width


def ends(band: Band, width: float) -> list[float]:
    return [float(end) for end in band.at(width)]


def test_small_models_keep_the_labs_proportions_and_large_ones_the_papers() -> None:
    band = FAMILY.band
    for width, depth in MEASURED:
        low, high = ends(band, width)
        assert low * 0.999 <= width / depth <= high * 1.001
    assert ends(band, 1024) == list(PAPER_BAND)
    (widest_low, widest_high), (low, high) = ends(band, 96), ends(band, 192)
    assert widest_low < low < 40 and widest_high < high < 58


def test_models_go_on_as_the_measured_ones_grow() -> None:
    """All of two layers: the ratio goes as the width, at 64 it is no longer that of 16."""
    band = Band.of([(16, 2), (24, 2), (32, 2), (48, 2), (64, 2)])
    assert band.power == pytest.approx(1.0)
    for width in (16, 64):
        assert ends(band, width) == pytest.approx([width / 2 / 1.2, width / 2 * 1.2])
    family = Family(vocab=2048, context=256, band=band, fixed={})
    shapes = family.shapes()
    assert set(shapes.depth[shapes.width == 64]) == {2} and {2} <= set(
        shapes.depth[shapes.width == 80]
    )


@pytest.mark.parametrize("depth", [2, 4])
def test_models_of_one_depth_keep_it_as_long_as_that_is_sane(depth: int) -> None:
    band = Band.of([(width, depth) for width in (16, 32, 48, 64)])
    shapes = Family(vocab=2048, context=256, band=band, fixed={}).shapes()
    for width in (80, 96, 128, 160, 192, 224, 256, 288):
        found = set(shapes.depth[shapes.width == width])
        if width / depth < PAPER_BAND[0]:
            # a fifth more is as sane, which from four layers on is one
            most = math.floor(1.2 * depth + 0.25)
            assert depth in found and found <= set(range(depth, most + 1))
        elif width / depth <= PAPER_BAND[1]:
            assert depth in found
        else:
            assert min(found) >= depth
    assert ends(band, 320) == list(PAPER_BAND)


@pytest.mark.parametrize(
    "sizes",
    [
        ((64, 6), (80, 2)),
        ((48, 2), (48, 8), (64, 2)),
        ((96, 24), (128, 4)),
        ((64, 2), (80, 6)),
    ],
)
def test_widths_that_are_nearly_one_tell_no_slope(sizes: tuple[tuple[int, int], ...]) -> None:
    band = Band.of(sizes)
    assert 0 <= band.power <= 1
    for width, depth in sizes:
        low, high = ends(band, width)
        assert low * 0.999 <= width / depth <= high * 1.001
    narrowest = min(width for width, _ in sizes)
    assert ends(band, 16) == ends(band, narrowest), "as the narrowest that was measured"
    family = Family(vocab=2048, context=256, band=band, fixed={})
    sizes_of = family.continuous(np.geomspace(16, 320, 40)).params["params"]
    assert (np.diff(sizes_of) > 0).all()


def test_where_one_width_has_several_depths_all_of_them_are_sane() -> None:
    band = Band.of([(32, 2), (64, 2), (64, 8)])
    assert ends(band, 64) == pytest.approx([8, 32])


def test_between_them_the_proportions_go_straight_in_logarithms() -> None:
    """Half-way from a width of 96 to the paper's 320, in logarithms."""
    half = (96 * 320) ** 0.5
    low, high = ends(FAMILY.band, 96)
    assert ends(FAMILY.band, half) == pytest.approx([(low * 40) ** 0.5, (high * 58) ** 0.5])
    assert float(FAMILY.band.middle(half)) == pytest.approx((low * 40 * high * 58) ** 0.25)


def test_the_widest_have_forty_to_a_hundred_layers() -> None:
    assert [float(end) for end in FAMILY.band.at(8192)] == [81.92, 204.8]


def test_a_lab_that_measured_wide_models_keeps_their_proportions_up_to_them() -> None:
    band = Band.of([(512, 16), (640, 16)])
    assert (band.width, band.ratio, band.power) == pytest.approx((640, 40, 1))
    for width in (512, 640):
        assert ends(band, width) == pytest.approx([width / 16 / 1.2, width / 16 * 1.2])
    assert [float(end) for end in band.at(704)] == list(PAPER_BAND)
    assert Band.of([]) == Band()
    assert ends(Band(), 64) == pytest.approx([8, 24])
    as_wide_as_the_papers = Band.of([(320, 8)])
    assert ends(as_wide_as_the_papers, 320) == pytest.approx([40 / 1.2, 40 * 1.2])
    assert [float(end) for end in as_wide_as_the_papers.at(384)] == list(PAPER_BAND)


def test_the_distance_of_a_shape_is_its_way_from_the_middle() -> None:
    middle = float(FAMILY.band.middle(64))
    assert FAMILY.band.distance(64, 4) == pytest.approx(abs(math.log(16 / middle)))
    assert FAMILY.band.distance(64, 8) == pytest.approx(abs(math.log(8 / middle)))


@pytest.mark.parametrize(
    ("width", "size"),
    [
        *((16, 16), (48, 16), (64, 32), (96, 32), (256, 32), (288, 32), (320, 64), (1024, 64)),
        *((3840, 64), (4096, 128), (4608, 128), (4672, 64)),
    ],
)
def test_the_size_of_a_head(width: int, size: int) -> None:
    assert head_size(width) == size


def test_widths_grow_by_steps_of_a_head_or_an_eighth() -> None:
    found = widths()
    assert found[:7] == [16, 32, 48, 64, 80, 96, 128] and found[-1] == 16_384
    assert [width for width in found if 320 <= width <= 576] == [320, 384, 448, 512, 576]
    assert {2048, 2176, 4096, 4352, 8192, 8704} <= set(found)
    for one, wider in pairwise(found):
        assert wider > one and (wider <= 1.13 * one or wider <= 512)


def test_the_depths_of_a_width_lie_in_its_band() -> None:
    """With a quarter of a layer at each end, so that no width is without one."""
    shapes = FAMILY.shapes()
    for width in (96, 320, 1024):
        depths = sorted(shapes.depth[shapes.width == width])
        low, high = (float(end) for end in FAMILY.band.at(width))
        assert depths == [
            depth for depth in range(1, 101) if width / high - 0.25 <= depth <= width / low + 0.25
        ]


@pytest.mark.parametrize("width", [320, 512, 768, 1024, 2304])
def test_the_papers_shapes_lie_within(width: int) -> None:
    depth = {320: 8, 512: 12, 768: 16, 1024: 20, 2304: 40}[width]
    shapes = Family(vocab=122_753, context=4096, band=Band(), fixed={}).shapes()
    assert (width, depth) in set(zip(shapes.width.tolist(), shapes.depth.tolist(), strict=True))


def test_a_number_of_parameters_becomes_a_shape_of_about_that_size() -> None:
    outlook = outlook_of(CHINCHILLA)
    for params in (1e6, 3e7, 1e9, 7e9):
        found = count(outlook.family.model(*nearest_shape(outlook, params))).params
        assert found == pytest.approx(params, rel=0.12)
