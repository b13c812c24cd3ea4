"""R-ASMK against its equations typed as loops, and against ASMK where they must agree."""

import math

import numpy as np
import pytest

from resight.embedding.codebook import Codebook
from resight.local.asmk import encode
from resight.local.kernels import asmk, similarity
from resight.local.regional_asmk import encode_regional, inside, regional_asmk

N, D = 40, 16


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    rng = np.random.default_rng(1)
    return Codebook(rng.normal(size=(1, D)).astype(np.float32), rng.normal(size=(6, D)).astype(np.float32), "made")


@pytest.fixture(scope="module")
def descriptors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


def dense(descriptors, regions, codebook, k) -> dict[int, np.ndarray]:
    """V(c), as Detect-to-Retrieve has it: the mean over regions of VLADs of unit length."""
    total = np.zeros((len(codebook), D))
    for rows in regions:
        vlad = np.zeros((len(codebook), D))
        for x in descriptors[rows].astype(float):
            order = sorted(range(len(codebook)), key=lambda w: ((x - codebook.words[w]) ** 2).sum())
            for word in order[:k]:
                vlad[word] += x - codebook.words[word]
        if (length := math.sqrt((vlad**2).sum())) > 0:
            total += vlad / length / len(regions)
    return {c: v for c, v in enumerate(total) if np.any(v)}


REGIONS = [np.arange(N), np.array([3, 1, 4, 15]), np.empty(0, np.int64), np.arange(20, 30)]


@pytest.mark.parametrize("k", [1, 2])
def test_sums_follow_the_equations(descriptors, codebook, k):
    expected = dense(descriptors, REGIONS, codebook, k)
    full, binary = (f(descriptors, REGIONS, codebook, k) for f in (regional_asmk, encode_regional))
    assert full.words.tolist() == binary.words.tolist() == sorted(expected)
    for word, vector, code in zip(full.words.tolist(), full.vectors, binary.codes, strict=True):
        np.testing.assert_allclose(vector, expected[word] / np.linalg.norm(expected[word]), atol=1e-5)
        assert np.unpackbits(code).astype(bool).tolist() == (expected[word] >= 0).tolist()


def test_the_whole_image_alone_is_asmk(descriptors, codebook):
    whole, plain = regional_asmk(descriptors, [np.arange(N)], codebook), asmk(descriptors, codebook)
    np.testing.assert_array_equal(whole.words, plain.words)
    np.testing.assert_allclose(whole.vectors, plain.vectors, atol=1e-6)
    binary, star = encode_regional(descriptors, [np.arange(N)], codebook), encode(descriptors, codebook)
    np.testing.assert_array_equal(binary.words, star.words)
    np.testing.assert_array_equal(binary.codes, star.codes)


def test_regions_bring_out_the_object_they_hold(codebook):
    """An object in clutter: the region on it makes the image more like the object alone."""
    rng = np.random.default_rng(2)
    thing = rng.normal(size=(12, D)).astype(np.float32)
    scene = np.concatenate([thing, rng.normal(size=(60, D)).astype(np.float32)])
    query, whole = asmk(thing, codebook), np.arange(len(scene))
    plain, regional = asmk(scene, codebook), regional_asmk(scene, [whole, np.arange(12)], codebook)
    assert similarity(query, regional) > 1.2 * similarity(query, plain)


def test_no_regions_leave_nothing(descriptors, codebook):
    for regions in ([], [np.empty(0, np.int64)]):
        assert len(regional_asmk(descriptors, regions, codebook)) == 0
        assert encode_regional(descriptors, regions, codebook).codes.shape == (0, D // 8)


def test_keypoints_are_in_the_boxes_that_hold_their_pixels():
    xy = np.array([[0, 0], [9, 4], [10, 4], [9.4, 9.4], [9.5, 3]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 1, 1], [30, 30, 40, 40]], np.float32)
    assert [rows.tolist() for rows in inside(xy, boxes)] == [[0, 1, 3], [2, 4], [0], []]
