"""The manifest: what is written is read, and two writers are told apart."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from resight.cluster.files import Files
from resight.cluster.manifest import FILE, Learned, Manifest, Words, existing_manifest, publish, read_manifest, shard_of
from resight.errors import CollectionError

pytest.importorskip("fsspec")


@pytest.fixture
def manifest(recipe):
    words = Words("words/w", None, {"words": 5, "fitted_on": "é"})
    return Manifest(
        1, recipe, "f00d", "catalogues/c", Learned(words, "learned/h"), ("shards/0.tar", "shards/1.tar"), (3, 4), 64
    )


def test_it_is_read_as_it_was_written(tmp_path, manifest):
    files = Files(tmp_path)
    assert read_manifest(files) is None
    with pytest.raises(CollectionError, match="no collection in shards here; make one with"):
        existing_manifest(files)
    publish(files, manifest)
    assert existing_manifest(files) == manifest
    later = replace(
        manifest, version=2, learned=Learned(), previous=manifest.shards, shards=("shards/2.tar", "shards/1.tar")
    )
    publish(files, later)
    assert existing_manifest(files) == later
    assert {"shards/0.tar", "shards/1.tar", "shards/2.tar", "catalogues/c"} <= later.files


def test_a_state_that_another_writer_has_passed_is_refused(tmp_path, manifest):
    files = Files(tmp_path)
    publish(files, manifest)
    with pytest.raises(CollectionError, match="another process has written"):
        publish(files, manifest)
    with pytest.raises(CollectionError, match="another process has written"):
        publish(files, replace(manifest, version=3))
    assert existing_manifest(files) == manifest


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"format": 1', '"format": 2', "has format 2, this resight reads 1"),
        ('"version"', '"versio"', "is damaged"),
        ("{", "", "is damaged"),
        ('"filter"', '"fliter"', "is damaged"),
    ],
)
def test_what_was_not_written_so_is_refused(manifest, old, new, match):
    text = manifest.to_json()
    assert old in text
    with pytest.raises(CollectionError, match=f"^m.json: {match}"):
        Manifest.from_json(text.replace(old, new, 1), "m.json")
    assert FILE == "manifest.json"


def test_neighbours_share_a_shard_and_shards_are_even():
    shards = shard_of(np.arange(1, 6401), 4, 16)
    assert [shard_of(image, 4, 16) for image in range(1, 6401)] == shards.tolist()
    assert max(Counter(shards.tolist()).values()) - min(Counter(shards.tolist()).values()) <= 16
    assert np.flatnonzero(np.diff(shards)).tolist() == list(range(15, 6399, 16))
