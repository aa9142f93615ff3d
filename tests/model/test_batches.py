"""What texts begin with is found, and of each something remains to be read."""

import random

from windtunnel.model.batches import batches, sharing


def some(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(320) for _ in range(length))


def test_what_texts_share_is_left_out_of_each_and_something_remains() -> None:
    draw = random.Random(2)
    few_shot, other = some(draw, 70), some(draw, 60)
    texts = [few_shot + some(draw, n) for n in (1, 5, 9, 3)] + [few_shot]
    texts += [other + some(draw, n) for n in (2, 2)] + [some(draw, 20)]
    groups = list(sharing(texts))
    assert sorted(text for _, group in groups for text in group) == sorted(texts)
    assert [len(group) for _, group in groups] == [5, 3]  # two sharers of `other` are too few
    assert groups[0][0] == few_shot[:-1] and groups[1][0] == ()


def test_texts_of_like_length_go_together_longest_first() -> None:
    texts = [(0,) * length for length in (3, 10, 1, 9, 4)]
    assert list(batches(texts, before=0, most=20)) == [[1, 3], [4, 0, 2]]
    assert list(batches(texts, before=0, most=1)) == [[1], [3], [4], [0], [2]]
    # a cache holds what is before them as well
    assert next(batches(texts, before=65_536 // 2 - 10, most=99)) == [1, 3]
