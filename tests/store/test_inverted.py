"""Segments against a dictionary of postings: built, written, cut, merged and gathered from."""

import numpy as np
import pytest

from resight.errors import CollectionError
from resight.local.asmk import Encoding
from resight.store import inverted
from resight.store.inverted import Segment, merged, write_segment

BYTES = 2


def encodings(count: int, seed: int, words: int = 30) -> list[Encoding]:
    rng = np.random.default_rng(seed)
    sets = [np.flatnonzero(rng.random(words) < 0.3).astype(np.int32) for _ in range(count)]
    return [Encoding(s, rng.integers(0, 256, (len(s), BYTES)).astype(np.uint8)) for s in sets]


def postings(ids, encoded) -> set[tuple]:
    return {
        (int(w), i, bytes(c)) for i, e in zip(ids, encoded, strict=True) for w, c in zip(e.words, e.codes, strict=True)
    }


def listed(segment: Segment) -> list[tuple]:
    rows = zip(segment.posting_words, segment.images, segment.codes, strict=True)
    return [(int(w), int(i), bytes(c)) for w, i, c in rows]


def disk(folder, *parts) -> Segment:
    crc = write_segment(folder, parts)
    assert crc == inverted.segment_crc(folder)
    return Segment.open(folder)


def test_a_segment_lists_every_posting_by_word_and_image(tmp_path):
    ids, encoded = [9, 4, 7, 5], [*encodings(3, 0), encodings(1, 1, words=0)[0]]
    built = Segment.build(ids, encoded, BYTES)
    expected = sorted(postings(ids, encoded))
    assert sorted(listed(built)) == expected and len(built) == len(expected)
    assert [(w, i) for w, i, _ in listed(built)] == [(w, i) for w, i, _ in expected]
    assert listed(disk(tmp_path / "s", built)) == listed(built)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 19])
def test_gathering_finds_every_posting_of_the_words_asked_for(monkeypatch, tmp_path, chunk):
    monkeypatch.setattr(inverted, "_CHUNK", chunk)
    ids, encoded = list(range(20)), encodings(20, 0)
    segment = disk(tmp_path / "s", Segment.build(ids, encoded, BYTES))
    wanted = np.array([0, 3, 4, 29, 31, 1000], np.int32)
    found = set()
    for rows, places in segment.gather(wanted):
        assert len(rows) == len(places)
        for row, place in zip(rows, places, strict=True):
            entry = int(wanted[row]), int(segment.images[place]), bytes(segment.codes[place])
            assert entry not in found
            found.add(entry)
    assert found == {p for p in postings(ids, encoded) if p[0] in wanted}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 19])
def test_merging_keeps_the_postings_of_the_living(monkeypatch, tmp_path, chunk):
    monkeypatch.setattr(inverted, "_CHUNK", chunk)
    groups = [(range(0, 5), 0), (range(5, 9), 1), (range(9, 9), 2), (range(20, 30), 3)]
    segments, expected = [], set()
    dead = {2, 5, 6, 7, 8}
    for k, (ids, seed) in enumerate(groups):
        encoded = encodings(len(ids), seed)
        segments.append(disk(tmp_path / str(k), Segment.build(list(ids), encoded, BYTES)))
        expected |= {p for p in postings(ids, encoded) if p[1] not in dead}
    whole = disk(tmp_path / "m", *merged(segments, lambda ids: ~np.isin(ids, list(dead))))
    assert sorted(listed(whole)) == sorted(expected)
    assert [(w, i) for w, i, _ in listed(whole)] == sorted((w, i) for w, i, _ in expected)
    assert (np.diff(whole.words) > 0).all()


def test_nothing_is_a_segment_too(tmp_path):
    nothing = disk(tmp_path / "s", Segment.build([], [], BYTES))
    assert len(nothing) == 0 and list(nothing.gather(np.arange(5, dtype=np.int32))) == []
    some = disk(tmp_path / "t", Segment.build([1], encodings(1, 0), BYTES))
    assert listed(disk(tmp_path / "m", *merged([nothing, some], lambda ids: ids > 0))) == listed(some)
    assert len(disk(tmp_path / "n", *merged([nothing, nothing], lambda ids: ids > 0))) == 0
    assert list(some.gather(np.empty(0, np.int32))) == []


@pytest.mark.parametrize("kind", ["words", "offsets", "images", "codes"])
def test_a_missing_or_shortened_file_is_an_error_that_names_it(tmp_path, kind):
    write_segment(tmp_path / "s", [Segment.build([1, 2], encodings(2, 0), BYTES)])
    file = tmp_path / "s" / kind
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CollectionError, match="`resight refit` rebuilds it"):
        Segment.open(tmp_path / "s")
    file.unlink()
    with pytest.raises(CollectionError, match=f"{tmp_path}/s: .*`resight refit` rebuilds it"):
        Segment.open(tmp_path / "s")


def test_offsets_that_lead_astray_are_found_on_opening(tmp_path):
    write_segment(tmp_path / "s", [Segment.build([1, 2], encodings(2, 0), BYTES)])
    file = tmp_path / "s" / "offsets"
    sound = np.fromfile(file, "<i8")
    for at, value in ((0, 1), (1, 2**40), (2, -5)):
        changed = sound.copy()
        changed[at] = value
        changed.tofile(file)
        with pytest.raises(CollectionError, match="is damaged"):
            Segment.open(tmp_path / "s")
