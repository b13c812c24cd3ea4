"""Photos in chunks: how they are cut and named, and that what is written is what is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.cluster.chunks import Chunk, chunk_name, cut, pack
from resight.errors import CollectionError
from resight.images.sources import Source
from resight.local.features import Colours, LocalFeatures
from resight.store.workers import Outcome

pytest.importorskip("safetensors")


def sources(*numbers):
    return [Source(f"/photos/{number}.jpg", 10 * number, number) for number in numbers]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(1, 20))
def test_runs_hold_every_source_once_in_order(count, size):
    given_ = sources(*range(count))
    runs = list(cut(given_, size))
    assert [source for run in runs for source in run] == given_
    assert all(0 < len(run) <= 2 * size for run in runs)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999))
def test_a_photo_that_comes_changes_few_runs(place):
    many = sources(*range(1000))
    before = {tuple(run) for run in cut(many, 10)}
    after = {tuple(run) for run in cut([*many[:place], *sources(5000), *many[place:]], 10)}
    # Cuts by length alone come back into step at the next cut by checksum.
    assert len(before) > 80 and len(before - after) <= 8


def test_a_name_depends_on_all_that_a_file_is_made_from():
    two, three = sources(1, 2), sources(1, 2, 3)
    touched = [two[0], Source(two[1].origin, two[1].bytes, 77)]
    names = [
        chunk_name("f", two, frozenset()),
        chunk_name("f", three, frozenset()),
        chunk_name("f", touched, frozenset()),
        chunk_name("g", two, frozenset()),
        chunk_name("f", two, frozenset({"d"})),
    ]
    assert len(set(names)) == len(names)
    assert chunk_name("f", sources(1, 2), frozenset({"b", "a"})) == chunk_name("f", two, frozenset({"a", "b"}))


@pytest.fixture
def outcomes(recipe):
    """One described, one failed, one of known content, one described without features."""
    rng = np.random.default_rng(0)

    def features(n):
        xy, size, angle, score = (rng.uniform(0, 6, (n, k)).astype(np.float32) for k in (2, 1, 1, 1))
        side = recipe.local.colours
        colours = Colours(rng.integers(0, 256, (side, side, 3), np.uint8), (0.0, 1.0, 20.0, 30.0)) if side else None
        descriptors = rng.integers(0, 256, (n, 128), np.uint8)
        return LocalFeatures(xy, size[:, 0], angle[:, 0], score[:, 0], descriptors, colours)

    a, b, c, d = sources(1, 2, 3, 4)
    return [
        (Outcome(a, "da", (640, 480), features(5), metadata={"year": 1999.5, "camera": "é"}), np.float32([0.6, 0.8])),
        (Outcome(b, reason="is cut off"), None),
        (Outcome(c, "dc"), None),
        (Outcome(d, "dd", (20, 30), features(0)), np.float32([1, 0])),
    ]


def test_what_is_packed_is_read(recipe, outcomes):
    chunk = Chunk(pack(outcomes), "x", recipe)
    for read, (outcome, _) in zip(chunk.outcomes(), outcomes, strict=True):
        for name in ("source", "digest", "size", "reason", "metadata"):
            assert getattr(read, name) == getattr(outcome, name)
        assert read.local is None and read.views is None
    for row in (0, 3):
        outcome, vector = outcomes[row]
        found = chunk.description(row)
        np.testing.assert_array_equal(found.global_descriptor, vector)
        assert found.size == outcome.size
        for name in ("xy", "size", "descriptors"):
            np.testing.assert_array_equal(getattr(found.local, name), getattr(outcome.local, name))
        np.testing.assert_allclose(found.local.angle, outcome.local.angle, rtol=1e-3)
        if outcome.local.colours is not None:
            np.testing.assert_array_equal(found.local.colours.pixels, outcome.local.colours.pixels)
    for row in (1, 2):
        with pytest.raises(ValueError, match="was not described"):
            chunk.description(row)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\0" * len(data)])
def test_a_damaged_file_is_named(recipe, outcomes, damage):
    with pytest.raises(CollectionError, match=r"chunks/x: is damaged .* delete it and run the same command again"):
        Chunk(damage(pack(outcomes)), "chunks/x", recipe)
