"""Records come back as they went in, within the precision that is promised."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.local.features import Colours, LocalFeatures
from resight.store.records import pack_features, record_length, unpack_features


@given(
    st.integers(0, 40),
    st.sampled_from([8, 5]),
    st.sampled_from([np.uint8, np.int8, np.float32]),
    st.sampled_from([0, 3, 8]),
    st.integers(0, 9999),
)
def test_what_is_packed_is_unpacked(n, dimension, stored, side, seed):
    rng = np.random.default_rng(seed)
    kind = np.dtype(stored)
    packed = LocalFeatures(
        rng.uniform(-1, 20000, (n, 2)).astype(np.float32),
        rng.uniform(1, 4000, n).astype(np.float32),
        rng.uniform(0, 2 * np.pi, n).astype(np.float32),
        rng.uniform(0.001, 0.3, n).astype(np.float32),
        np.frombuffer(
            rng.normal(size=n * dimension).astype("<f4").tobytes()[: n * dimension * kind.itemsize], kind
        ).reshape(n, dimension),
        Colours(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), (0.0, 0.0, 640.0, 480.0)) if side else None,
    )
    record = pack_features(packed)
    beside = 16 + 3 * side**2 if side else 0
    assert len(record) == record_length(n, dimension, kind, side) == n * (16 + dimension * kind.itemsize) + beside
    unpacked = unpack_features(np.frombuffer(record, np.uint8), n, dimension, kind, side)
    if side:
        assert unpacked.colours.frame == packed.colours.frame
        np.testing.assert_array_equal(unpacked.colours.pixels, packed.colours.pixels)
    else:
        assert unpacked.colours is None
    assert unpacked.descriptors.dtype == stored
    for exact in ("xy", "size", "descriptors"):
        np.testing.assert_array_equal(getattr(unpacked, exact), getattr(packed, exact))
    np.testing.assert_allclose(unpacked.angle, packed.angle, atol=0.002)
    np.testing.assert_allclose(unpacked.score, packed.score, rtol=0.001)
    assert (unpacked.angle < 2 * np.pi).all()
    assert unpacked.xy.dtype == unpacked.size.dtype == unpacked.angle.dtype == unpacked.score.dtype == np.float32


def test_the_bytes_are_little_endian_columns():
    """By hand: a collection made on one machine is read on any other."""
    one = np.ones(1, np.float32)
    features = LocalFeatures(np.array([[1.0, 2.0]], np.float32), one, one, one, np.uint8([[7, 8]]))
    record = pack_features(features)
    assert record.hex(" ", 2) == "0000 803f 0000 0040 0000 803f 003c 003c 0708"
    coloured = replace(features, colours=Colours(np.uint8([[[1, 2, 3]]]), (0.0, 0.0, 2.0, 1.0)))
    assert pack_features(coloured).hex()[len(record.hex()) :] == "0000000000000000000000400000803f" + "010203"


def test_descriptors_of_another_type_are_refused():
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="must be uint8, int8 or float32 to be stored, not float64"):
        pack_features(LocalFeatures(np.ones((1, 2), np.float32), one, one, one, np.ones((1, 8))))
