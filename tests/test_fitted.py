"""Which photos something was fitted on: exact for small sets, estimated well for large ones, checked when read."""

import hashlib
import json

import pytest

from resight.fitted import PhotoSketch


def digests(start, stop):
    return [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in range(start, stop)]


@pytest.mark.parametrize(("start", "expected"), [(0, 1.0), (75, 0.25), (100, 0.0)])
def test_small_sets_are_exact(start, expected):
    sketch = PhotoSketch.of(digests(0, 100))
    assert sketch.count == 100 and sketch.share_in(digests(start, start + 100)) == expected


def test_photos_given_twice_count_once():
    sketch = PhotoSketch.of(digests(0, 10) * 2)
    assert sketch == PhotoSketch.of(digests(0, 10))
    assert sketch.share_in([*digests(9, 11), *digests(9, 10) * 8]) == 0.5


def test_large_sets_are_estimated():
    sketch = PhotoSketch.of(digests(0, 40_000))
    assert sketch.count == 40_000 and len(sketch.smallest) == 4096
    # of 20,000 about 2,000 are in range: a standard error of one per cent
    assert sketch.share_in(digests(35_000, 55_000)) == pytest.approx(0.25, abs=0.04)
    assert sketch.share_in(digests(40_000, 60_000)) == 0.0
    assert sketch.share_in(digests(100, 300)) == 1.0


def test_no_photo_no_answer():
    assert PhotoSketch.of(digests(0, 5)).share_in([]) is None
    assert PhotoSketch.of(digests(0, 40_000)).share_in(["f" * 32]) is None  # beyond the sketch's range
    assert PhotoSketch.of([]).share_in(digests(0, 5)) == 0.0


def test_json_holds_all_of_it():
    for sketch in (PhotoSketch.of(digests(0, 50)), PhotoSketch.of(digests(0, 5000)), PhotoSketch.of([])):
        assert PhotoSketch.from_json(json.loads(json.dumps(sketch.to_json()))) == sketch


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"count": 2, "smallest": ["b" * 12, "a" * 12]},
        {"count": 2, "smallest": ["a" * 12, "a" * 12]},
        {"count": 1, "smallest": ["xyz"]},
        {"count": 3, "smallest": ["a" * 12]},
        {"count": "many", "smallest": []},
    ],
)
def test_damaged_json_is_refused(value):
    with pytest.raises((KeyError, TypeError, ValueError)):
        PhotoSketch.from_json(value)
