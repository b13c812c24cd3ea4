"""Matching over all pairs against loops over exact distances, and against OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import QueryError
from resight.images.image import Image
from resight.local import nearest
from resight.local.nearest import match_all
from resight.local.rootsift import rootsift


def looped(a, b, mutual, ratio, max_distance) -> list[tuple[int, int]]:
    squared = [[int(((x - y) ** 2).sum()) for y in b.astype(int)] for x in a.astype(int)]
    pairs = []
    for i, row in enumerate(squared):
        if not row or (ratio is not None and len(row) < 2):
            continue
        j = min(range(len(row)), key=lambda k: (row[k], k))
        if mutual and (any(other[j] < row[j] for other in squared) or j in [j for _, j in pairs]):
            continue
        second = sorted(row)[1] if len(row) > 1 else None
        if ratio is not None and not row[j] ** 0.5 < ratio * second**0.5:
            continue
        if max_distance is not None and row[j] > max_distance**2:
            continue
        pairs.append((i, j))
    return pairs


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 12),
    m=st.integers(0, 12),
    mutual=st.booleans(),
    max_distance=st.sampled_from([None, 0, 2, 4]),
    block=st.sampled_from([1, 10, 1 << 20]),
)
def test_matches_are_those_of_a_loop(seed, n, m, mutual, max_distance, block):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 4, (count, 3)).astype(np.uint8) for count in (n, m))  # few values, so that there are ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_PRODUCT", block)
        i, j, distance = match_all(a, b, mutual=mutual, max_distance=max_distance)
        assert list(zip(i.tolist(), j.tolist(), strict=True)) == looped(a, b, mutual, None, max_distance)
        for ratio in (0.7, 1.0):
            k, _, _ = match_all(a, b, mutual=False, ratio=ratio)
            assert k.tolist() == [i for i, _ in looped(a, b, False, ratio, None)]
    np.testing.assert_allclose(distance, np.linalg.norm(a[i].astype(float) - b[j], axis=1), rtol=1e-6)


@pytest.fixture(scope="module")
def described(pictures, view) -> list[np.ndarray]:
    seen = [pictures["coffee"], view(pictures["coffee"], 1)[0]]
    settings = {"max_features": 300, "contrast_threshold": 0.01, "edge_threshold": 10.0}
    return [rootsift(Image(p, p.shape[1::-1], "-"), **settings).descriptors for p in seen]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_matches_of_photographs_are_opencvs(described, kind):
    a, b = (d.astype(kind) for d in described)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    pairs = matcher.knnMatch(a.astype(np.float32), b.astype(np.float32), k=2)
    expected = {(m.queryIdx, m.trainIdx): m.distance for m, second in pairs if m.distance < 0.8 * second.distance}
    i, j, distance = match_all(a, b, mutual=False, ratio=0.8)
    assert len(expected) > 50 and set(zip(i.tolist(), j.tolist(), strict=True)) == set(expected)
    np.testing.assert_allclose(
        distance, [expected[pair] for pair in zip(i.tolist(), j.tolist(), strict=True)], rtol=1e-5
    )
    crossed = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a.astype(np.float32), b.astype(np.float32))
    i, j, _ = match_all(a, b)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == {(m.queryIdx, m.trainIdx) for m in crossed}


def test_nearest_of_long_unsigned_descriptors_is_exact():
    """Squared distances that differ by one part in ten million, which a float32 of their norms could not tell apart."""
    a = np.full((1, 128), 255, np.uint8)
    b = np.zeros((3, 128), np.uint8)
    b[1, 0] = 1  # nearer than row 0 by 509 of 8.3 million
    i, j, _ = match_all(a, b)
    assert i.tolist() == [0] and j.tolist() == [1]


def test_what_does_not_fit_is_refused():
    a = np.zeros((2, 8), np.float32)
    for b, options in (
        (a[:, :4], {}),
        (a[0], {}),
        (a, {"ratio": 0.0}),
        (a, {"ratio": 1.1}),
        (a, {"max_distance": -1.0}),
    ):
        with pytest.raises(QueryError):
            match_all(a, b, **options)
