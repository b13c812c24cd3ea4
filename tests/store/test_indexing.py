"""What a run notices about files: new, changed, touched, moved, copied, gone, back again, and unreadable.

Files are described in this process, by what the workers run; tests/store/test_workers.py is about the processes.
"""

import os
import shutil
import zipfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from resight.errors import CollectionError, UnreadError
from resight.search.collection import Collection
from resight.store import indexing
from resight.store.log import LogWriter
from resight.store.workers import Outcome

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def folder(tmp_path, pictures, save) -> Path:
    """Four pictures: a, b, c and sub/d."""
    folder = tmp_path / "photos"
    for name, picture in (("a", "astronaut"), ("b", "coffee"), ("c", "chelsea"), ("sub/d", "rocket")):
        save(folder / f"{name}.png", pictures[picture])
    return folder


@pytest.fixture
def collection(tmp_path, recipe):
    with Collection.create(tmp_path / "collection", recipe) as made:
        yield made
        assert made.verify() == []


FACTS = ("added", "changed", "moved", "unchanged", "vanished", "failed")


def add(collection: Collection, *paths: object) -> dict[str, int]:
    """Runs and gives what is not zero of the report. Every file is counted once."""
    report = collection.add(paths)
    return {fact: getattr(report, fact) for fact in FACTS if getattr(report, fact)}


def names(collection: Collection) -> dict[str, int]:
    return {Path(entry.origin).name: entry.id for entry in collection.entries()}


def best(collection: Collection, path: Path) -> str:
    ranking = collection.search(path)
    assert ranking.accepted >= 1
    return Path(collection.entry(ranking.ids[0]).origin).name


def test_a_second_run_describes_nothing(collection, folder, in_this_process):
    assert add(collection, folder) == {"added": 4}
    assert sorted(in_this_process) == ["a.png", "b.png", "c.png", "d.png"]
    assert add(collection, folder) == {"unchanged": 4}
    assert add(collection, folder / "a.png", folder / "sub") == {"unchanged": 2}
    assert len(in_this_process) == 4 and len(collection) == 4


def test_a_changed_file_is_described_anew(collection, folder, pictures, save):
    add(collection, folder)
    old = names(collection)["a.png"]
    save(folder / "a.png", pictures["brick"])
    assert add(collection, folder) == {"changed": 1, "unchanged": 3}
    assert best(collection, folder / "a.png") == "a.png" and names(collection)["a.png"] != old
    with pytest.raises(Exception, match="no image with this id"):
        collection.search(old)


def test_a_touched_file_is_not_described_anew(collection, folder, in_this_process):
    add(collection, folder)
    before = names(collection)
    os.utime(folder / "a.png", ns=(1, 1))
    assert add(collection, folder) == {"unchanged": 4}
    assert add(collection, folder) == {"unchanged": 4}
    assert names(collection) == before and len(in_this_process) == 4


def test_a_moved_file_keeps_its_id_and_description(collection, folder, in_this_process):
    add(collection, folder)
    before = names(collection)
    (folder / "a.png").rename(folder / "sub/renamed.png")
    assert add(collection, folder) == {"moved": 1, "unchanged": 3}
    assert names(collection) == {**{n: i for n, i in before.items() if n != "a.png"}, "renamed.png": before["a.png"]}
    assert len(in_this_process) == 4 and best(collection, folder / "sub/renamed.png") == "renamed.png"


def test_a_copied_file_is_an_image_of_its_own(collection, folder):
    add(collection, folder)
    shutil.copy(folder / "a.png", folder / "copy.png")
    assert add(collection, folder) == {"added": 1, "unchanged": 4}
    ranking = collection.search(folder / "a.png")
    assert [Path(collection.entry(i).origin).name for i in ranking.ids[:2]] == ["a.png", "copy.png"]
    assert ranking.scores[0] == ranking.scores[1]


def test_two_files_that_trade_places_trade_descriptions(collection, folder):
    add(collection, folder)
    (folder / "a.png").rename(folder / "x")
    (folder / "b.png").rename(folder / "a.png")
    (folder / "x").rename(folder / "b.png")
    # Renaming keeps a file's time, and these two differ in length.
    assert add(collection, folder) == {"changed": 2, "unchanged": 2}
    assert best(collection, folder / "a.png") == "a.png" and best(collection, folder / "b.png") == "b.png"


def test_a_vanished_file_is_kept_as_missing_until_it_returns(collection, folder, in_this_process):
    add(collection, folder)
    before, kept = names(collection), (folder / "a.png").read_bytes()
    (folder / "a.png").unlink()
    assert add(collection, folder) == {"vanished": 1, "unchanged": 3}
    assert names(collection) == before and collection.info().missing == 1
    assert before["a.png"] in collection.search(before["a.png"]).ids
    (folder / "a.png").write_bytes(kept)
    assert add(collection, folder) == {"unchanged": 4}
    assert names(collection) == before and collection.info().missing == 0 and len(in_this_process) == 4


def test_a_vanished_file_that_returns_beside_a_copy_of_itself(collection, folder):
    """The copy sorts first, and must not take the place of the file that is there again."""
    add(collection, folder)
    kept = (folder / "b.png").read_bytes()
    (folder / "b.png").unlink()
    add(collection, folder)
    (folder / "b.png").write_bytes(kept)
    (folder / "a-copy.png").write_bytes(kept)
    assert add(collection, folder) == {"added": 1, "unchanged": 4}
    assert sorted(names(collection)) == ["a-copy.png", "a.png", "b.png", "c.png", "d.png"]


def test_only_what_a_run_covers_can_vanish(collection, folder):
    add(collection, folder)
    (folder / "a.png").unlink()
    (folder / "sub/d.png").unlink()
    assert add(collection, folder / "sub") == {"vanished": 1}
    assert collection.info().missing == 1
    assert add(collection, folder / "b.png") == {"unchanged": 1}


def test_missing_images_are_removed_on_demand(collection, folder):
    add(collection, folder)
    (folder / "a.png").unlink()
    add(collection, folder)
    assert collection.remove([], missing=True) == 1
    assert sorted(names(collection)) == ["b.png", "c.png", "d.png"]


def test_files_that_cannot_be_read_are_named_once_and_tried_again_only_when_changed(
    collection, folder, pictures, save, in_this_process
):
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.png").write_bytes((folder / "a.png").read_bytes()[:5000])
    (folder / "text.jpg").write_text("not a picture")
    assert add(collection, folder) == {"added": 4, "failed": 3}
    reasons = {Path(f.origin).name: f.reason for f in collection.failures()}
    assert reasons["empty.jpg"] == "the file is empty" and "truncated" in reasons["half.png"]
    assert "not an image" in reasons["text.jpg"] and len(reasons) == 3
    assert add(collection, folder) == {"unchanged": 4, "failed": 3} and len(in_this_process) == 4
    save(folder / "half.png", pictures["brick"])
    (folder / "text.jpg").unlink()
    assert add(collection, folder) == {"added": 1, "unchanged": 4, "failed": 1}
    assert [Path(f.origin).name for f in collection.failures()] == ["empty.jpg"]


def test_an_image_whose_file_is_damaged_is_no_longer_found_but_named(collection, folder, pictures, save):
    add(collection, folder)
    (folder / "a.png").write_bytes(b"damaged")
    assert add(collection, folder) == {"unchanged": 3, "failed": 1}
    assert "a.png" not in names(collection)
    assert [Path(f.origin).name for f in collection.failures()] == ["a.png"]
    save(folder / "a.png", pictures["astronaut"])
    assert add(collection, folder) == {"added": 1, "unchanged": 3}
    assert list(collection.failures()) == [] and best(collection, folder / "a.png") == "a.png"


def test_what_a_disk_does_not_give_costs_no_image_and_is_tried_again(collection, folder, in_this_process, monkeypatch):
    add(collection, folder)
    before = names(collection)
    for photo in folder.rglob("*.png"):
        os.utime(photo, (1, 1))
    (folder / "new.png").write_bytes((folder / "a.png").read_bytes() + b" ")

    def failing(origin: str) -> bytes:
        raise UnreadError("the file cannot be read: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("resight.store.workers.load", failing)
        for _ in range(2):
            assert add(collection, folder) == {"failed": 5}
            assert names(collection) == before and best(collection, folder / "b.png") == "b.png"
            assert {f.reason for f in collection.failures()} == {"the file cannot be read: Input/output error"}
    assert add(collection, folder) == {"added": 1, "unchanged": 4}
    assert names(collection).items() > before.items() and list(collection.failures()) == []


def test_a_changed_file_that_takes_too_long_keeps_its_image_and_is_not_tried_again(
    collection, folder, in_this_process, monkeypatch
):
    add(collection, folder)
    before = names(collection)
    os.utime(folder / "a.png", (1, 1))
    with monkeypatch.context() as patch:
        slow = partial(map, partial(Outcome, reason="took longer than 1 s to read and describe"))
        patch.setattr("resight.store.indexing.describe_files", lambda sources, *_, **__: (o for o in slow(sources)))
        assert add(collection, folder) == {"unchanged": 3, "failed": 1}
    assert add(collection, folder) == {"unchanged": 3, "failed": 1} and names(collection) == before


def test_a_name_that_is_no_text_is_a_failure_that_can_be_shown(collection, folder):
    (folder / "a.png").rename(folder / "\udcff.png")  # the byte ff
    assert add(collection, folder) == {"added": 3, "failed": 1}
    (failure,) = collection.failures()
    assert failure.origin == f"{folder}/\\udcff.png" and "UTF-8" in failure.reason
    (folder / "\udcff.png").rename(folder / "a.png")
    assert add(collection, folder) == {"added": 1, "unchanged": 3} and list(collection.failures()) == []


def test_a_damaged_archive_is_a_failure_until_it_is_mended(collection, tmp_path, folder):
    archive = tmp_path / "box.zip"
    archive.write_bytes(b"PK no zip")
    assert add(collection, archive) == {"failed": 1}
    assert [f.origin for f in collection.failures()] == [str(archive)]
    with zipfile.ZipFile(archive, "w") as box:
        box.write(folder / "a.png", "in/a.png")
    assert add(collection, archive) == {"added": 1} and list(collection.failures()) == []


def test_pictures_in_archives_are_images_and_vanish_with_them(collection, tmp_path, folder):
    archive = tmp_path / "box.zip"
    with zipfile.ZipFile(archive, "w") as box:
        for name in ("a", "b"):
            box.write(folder / f"{name}.png", f"in/{name}.png")
        box.writestr("in/broken.jpg", b"broken")
    assert add(collection, archive) == {"added": 2, "failed": 1}
    assert [e.origin for e in collection.entries()] == [f"{archive}!/in/a.png", f"{archive}!/in/b.png"]
    ranking = collection.search(f"{archive}!/in/b.png")
    assert ranking.accepted >= 1 and ranking.ids[0] == collection.find(f"{archive}!/in/b.png")
    with zipfile.ZipFile(archive, "w") as box:
        box.write(folder / "b.png", "in/b.png")
    assert add(collection, archive) == {"unchanged": 1, "vanished": 1}
    assert collection.remove([str(archive)]) == 2 and len(collection) == 0


def test_pictures_without_features_are_images_like_others(collection, folder, pictures, save):
    flat = pictures["brick"] * 0 + 128
    save(folder / "flat.png", flat)
    save(folder / "dot.png", flat[:1, :1])
    assert add(collection, folder) == {"added": 6}
    ids = names(collection)
    ranking = collection.search(folder / "a.png")
    assert len(ranking) == 6 and ranking.ids[0] == ids["a.png"] and ranking.accepted == 1
    for query in (ids["flat.png"], folder / "dot.png", flat):
        nothing = collection.search(query)
        assert nothing.accepted == 0 and len(nothing) == 6
        assert nothing.ids.tolist() == sorted(ids.values())  # all equally unlikely, so by id
    assert add(collection, folder) == {"unchanged": 6}


def test_a_collection_of_pictures_without_features_says_what_it_lacks(collection, tmp_path, pictures, save):
    save(tmp_path / "flat/flat.png", pictures["brick"] * 0 + 128)
    assert add(collection, tmp_path / "flat") == {"added": 1}
    with pytest.raises(CollectionError, match=r"1 images have no codebook yet.*index more photos"):
        collection.search(1)
    with pytest.raises(CollectionError, match="too few features"):
        collection.refit()
    save(tmp_path / "flat/brick.png", pictures["brick"])
    assert add(collection, tmp_path / "flat") == {"added": 1, "unchanged": 1}
    assert collection.search(tmp_path / "flat/brick.png").accepted == 1


def test_an_empty_collection_finds_nothing(collection, tmp_path, pictures, save):
    photo = save(tmp_path / "a.png", pictures["coffee"])
    ranking = collection.search(photo)
    assert len(ranking) == ranking.accepted == 0 and collection.info().images == 0
    (tmp_path / "none").mkdir()
    assert add(collection, tmp_path / "none") == {}


def test_images_added_later_are_found_with_the_codebook_there_is(collection, folder, pictures, view, save):
    add(collection, folder)
    before = collection.info().codebook
    later = save(folder / "later.png", pictures["hubble_deep_field"])
    assert add(collection, folder) == {"added": 1, "unchanged": 4}
    assert collection.info().codebook == before
    assert best(collection, save(folder.parent / "q.png", view(pictures["hubble_deep_field"], 1)[0])) == later.name


def test_refit_learns_from_all_images_and_is_advised_when_many_came(collection, folder, pictures, save):
    add(collection, folder / "a.png")
    assert collection.info().advice is None and collection.info().codebook["images_at_fit"] == 1
    report = collection.add([folder])
    assert "1 images; now there are 4. `resight refit" in report.advice
    answer = collection.search(folder / "b.png")
    words = collection.info().codebook["words"]
    assert "the collection itself, 4 images" in collection.refit()
    assert collection.info().codebook["words"] > words and collection.info().advice is None
    again = collection.search(folder / "b.png")
    assert again.ids[0] == answer.ids[0] and again.accepted == 1 and collection.verify() == []


def test_removed_images_never_appear(collection, folder):
    add(collection, folder)
    ids = names(collection)
    assert collection.remove([ids["a.png"], str(folder / "sub"), 99]) == 2
    for query in (folder / "a.png", folder / "sub/d.png", folder / "b.png"):
        assert sorted(collection.search(query).ids) == sorted([ids["b.png"], ids["c.png"]])
    collection.refit()
    assert sorted(collection.search(folder / "a.png").ids) == sorted([ids["b.png"], ids["c.png"]])
    assert collection.remove(["/nowhere"]) == 0
    # Removed is not forbidden: the next run over the folder has them again, under new ids.
    assert add(collection, folder) == {"added": 2, "unchanged": 2}
    assert names(collection)["a.png"] > max(ids.values())


@pytest.mark.parametrize("stage", ["describing", "learning the codebook", "encoding"])
def test_an_interrupted_run_is_gone_on_with(tmp_path, recipe, folder, monkeypatch, in_this_process, stage):
    """Ctrl-C at each stage: what was described is kept, and the next run makes the collection whole."""
    monkeypatch.setattr(indexing, "_BATCH_IMAGES", 2)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    with Collection.create(whole, recipe) as collection:
        collection.add([folder])
        expected = collection.search(folder / "a.png")
    in_this_process.clear()

    def interrupt(progress) -> None:
        if progress.phase == stage and (stage != "describing" or progress.done == 3):
            raise KeyboardInterrupt

    with Collection.create(parted, recipe) as collection:
        with pytest.raises(KeyboardInterrupt):
            collection.add([folder], progress=interrupt)
        assert len(collection) == (3 if stage == "describing" else 4) and collection.verify() == []
        learned = nullcontext() if stage == "encoding" else pytest.raises(CollectionError, match="no codebook yet")
        with learned:
            assert collection.search(folder / "a.png").accepted == 0
    with Collection.open(parted, write=True) as collection:
        collection.add([folder])
        assert collection.verify() == [] and len(in_this_process) == 4
        found = collection.search(folder / "a.png")
        assert found.ids.tolist() == expected.ids.tolist() and found.scores.tolist() == expected.scores.tolist()


def test_ctrl_c_in_the_middle_of_a_commit_does_not_cost_the_batch(collection, folder, monkeypatch):
    left = [KeyboardInterrupt]

    def interrupted(log, sync=LogWriter.sync) -> None:
        if left:
            raise left.pop()
        sync(log)

    monkeypatch.setattr(indexing, "_BATCH_IMAGES", 2)
    monkeypatch.setattr(LogWriter, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collection.add([folder])
    assert len(collection) == 2 and collection.verify() == []
    assert add(collection, folder) == {"added": 2, "unchanged": 2}


def test_another_recipe_is_refused(tmp_path, recipe):
    Collection.create(tmp_path / "c", recipe).close()
    other = recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 77})})
    with pytest.raises(CollectionError, match="cannot be compared"):
        Collection.open(tmp_path / "c", recipe=other)
    Collection.open(tmp_path / "c", write=True, recipe=recipe).close()


def test_a_collection_open_for_reading_is_not_written(tmp_path, recipe):
    Collection.create(tmp_path / "c", recipe).close()
    with Collection.open(tmp_path / "c") as reading:
        for write in (lambda: reading.add([tmp_path]), lambda: reading.remove([1]), reading.refit):
            with pytest.raises(CollectionError, match="is open for reading; open it with write=True"):
                write()
