"""Collections as older versions of resight made them: opened and brought up to date, or told what to run.

collections/format-N.tar.xz is of eight views of four pictures of scikit-image at /srv/photos, by the last commit before
the format after it; of format 1 only the catalogue.
"""

import shutil
import tarfile
from contextlib import closing
from pathlib import Path

import killing
import numpy as np
import pytest

from resight.errors import CollectionError
from resight.search.collection import Collection
from resight.store.catalogue import FILE, Catalogue
from resight.store.duplicates import decisions, pairs
from resight.store.schema import CHECKED, FORMAT

COLLECTIONS = Path(__file__).parent / "collections"


@pytest.fixture
def last(tmp_path) -> Path:
    with tarfile.open(COLLECTIONS / "format-2.tar.xz") as archive:
        archive.extractall(tmp_path / "c", filter="data")
    return tmp_path / "c"


def found(path: Path) -> list[tuple]:
    with Collection.open(path) as collection:
        rankings = [collection.search(entry.id) for entry in collection.entries()]
        facts = [collection.metadata(entry.id) for entry in collection.entries()]
        assert collection.verify() == [] and len(collection) == 8
        return [(r.ids.tolist(), np.round(r.scores, 5).tolist(), r.accepted) for r in rankings], facts


def test_the_last_format_is_read_as_it_is_and_brought_up_to_date_by_a_writer(last):
    before = found(last)
    ids, scores, accepted = before[0][4]
    assert ids[:2] == [5, 6] and accepted == 2 and min(scores[:2]) > 0.99  # as the version that made it said
    assert before[1][0]["artist"] == "somebody"
    with closing(Catalogue(last, write=False)) as catalogue:
        assert catalogue.get("format") == 2
    with Collection.open(last, write=True) as collection:
        collection.remove([])
    with closing(Catalogue(last, write=False)) as catalogue:
        assert len(pairs(catalogue)) == 4 and decisions(catalogue) == {(1, 3): "different"}
        assert catalogue.get("format") == FORMAT and all(catalogue.damaged(table) == [] for table in CHECKED)
    assert found(last) == before
    with Collection.open(last, write=True) as collection:  # what triggers and tables are for
        collection.refit()
        collection.set_metadata({2: {"artist": "somebody else"}})
        collection.decide_duplicates([2, 5], "different")
        assert collection.verify() == []


@pytest.mark.parametrize("moments", [2, pytest.param(100, marks=pytest.mark.torture)])
def test_an_upgrade_that_is_killed_has_not_begun_or_is_done(last, tmp_path, moments, count):
    def upgrade(path, tell):
        Collection.open(path, write=True).close()

    calls = killing.events(lambda tell: upgrade(shutil.copytree(last, tmp_path / "counted"), tell))
    before = found(last)
    for at in (tried := range(1, calls + 1, max(1, calls // moments))):
        path = shutil.copytree(last, tmp_path / str(at))
        killing.run(lambda tell, path=path: upgrade(path, tell), at_event=at)
        assert found(path) == before
        Collection.open(path, write=True).close()
        assert found(path) == before
    count(f"an upgrade killed in place of {len(tried)} of its {calls} calls, all survived")


def test_a_format_that_is_too_old_says_what_to_run(tmp_path):
    with tarfile.open(COLLECTIONS / "format-1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for write in (False, True):
        with pytest.raises(CollectionError) as told:
            Collection.open(tmp_path, write=write)
        command = f"`resight index /srv/photos --into {tmp_path}-anew --recipe rootsift-asmk`"
        assert f"{tmp_path}: has format 1, of an older resight" in str(told.value) and command in str(told.value)


def test_a_collection_whose_own_facts_are_damaged_says_so_and_what_to_run(last):
    Collection.open(last, write=True).close()
    content = (last / FILE).read_bytes()
    at = content.index(b'\\"rootsift-asmk\\"')
    (last / FILE).write_bytes(content[: at + 3] + b"x" + content[at + 4 :])
    with pytest.raises(
        CollectionError, match=r"\(recipe\) is damaged; restore a copy, or .*`resight index /srv/photos"
    ):
        Collection.open(last)
