"""A collection upgraded to another recipe is the one that would be made by it anew, whatever happens meanwhile."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import killing  # noqa: E402
import safetensors.torch  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.describe.local_features import load_local  # noqa: E402
from resight.errors import CollectionError, LockedError  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402
from resight.search import upgrade as module  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.upgrade import cancel, upgrade  # noqa: E402
from resight.server.readers import Readers  # noqa: E402
from resight.store import indexing, successor, workers  # noqa: E402
from resight.store.qdrant_engine import EngineFacts  # noqa: E402
from resight.store.store import Store  # noqa: E402

FEW = ("astronaut-1.png", "astronaut-2.jpg", "coffee-1.png", "coffee-2.jpg", "moon.png", "rocket-1.png")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, recipe) -> dict[str, Recipe]:
    """By visual words, verified; by a small network that looks at regions; and by codes of that network's vectors."""
    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file(weights, path)
    words = recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 60})})
    table = load_recipe("gem-densenet169").model_dump(by_alias=True, exclude_none=True)
    table["global"] |= {"network": "resnet10t", "layer": "layer3", "max_side": 64, "whiten": "none", "dimensions": 256}
    table["global"] |= {"weights": str(path), "scales": [1.0]}
    regions = Recipe.model_validate(table | {"rerank": [{"method": "patches", "levels": 1}]})
    codes = Recipe.model_validate(table | {"filter": "hash", "hash": {"method": "lsh", "bits": 8}})
    return {"words": words, "regions": regions, "codes": codes}


@pytest.fixture(scope="module")
def few(tmp_path_factory, photos, save) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for name in ("brick.png", "chelsea-1.png", "grass.png", *FEW):
        save(folder / name, np.ascontiguousarray(read_image(photos / name).pixels[::2, ::2]))
    return folder


def describing(described: list[str]):
    """Describes files in this process, as the workers do it, and records which."""

    def describe_files(sources, recipe, known, *, feedings=(), **_):
        workers._recipe, workers._feedings, workers._known = recipe, feedings, known
        workers._local = None if recipe.local is None else load_local(recipe.local, recipe.name)
        for source in sources:
            outcome = workers._describe(source)
            if outcome.size is not None:
                described.append(Path(source.origin).name)
            yield outcome

    return describe_files


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch) -> list[str]:
    described: list[str] = []
    monkeypatch.setattr(indexing, "describe_files", describing(described))
    return described


def made(path: Path, recipe: Recipe, photos: Path) -> Path:
    with Collection.create(path, recipe) as collection:
        collection.add([photos])
    return path


def answers(path: Path | Collection, photos: Path) -> list[tuple]:
    """All that searches of some photos say, by name."""
    if isinstance(path, Path):
        with Collection.open(path) as opened:
            assert opened.verify() == [] and opened.info().pending == 0
            return answers(opened, photos)
    names = {entry.id: Path(entry.origin).name for entry in path.entries()}
    found = [path.search(photo) for photo in sorted(photos.glob("*.*g"))[::3]]
    return [
        (
            [names[i] for i in r.ids],
            [round(score, 4) for score in r.scores.tolist()],
            [e and (e.inliers, e.box) for e in r.evidence],
            r.accepted,
        )
        for r in found
    ]


@pytest.mark.parametrize(("old", "new"), [("words", "regions"), ("regions", "words"), ("words", "codes")])
def test_it_is_as_if_made_anew_and_keeps_what_people_said(tmp_path, recipes, few, old, new):
    path = made(tmp_path / "c", recipes[old], few)
    with Collection.open(path, write=True) as collection:
        collection.set_metadata({2: {"name": "given"}})
        collection.decide_duplicates([1, 2], "different")
        entries = list(collection.entries())
    report = upgrade(path, recipes[new], workers=1)
    assert (report.changed, report.images, report.described, report.lacking) == (True, 9, 9, ())
    assert answers(path, few) == answers(made(tmp_path / "anew", recipes[new], few), few)
    with Collection.open(path, write=True) as collection:
        assert collection.recipe == recipes[new]
        assert list(collection.entries()) == entries and collection.metadata(2)["name"] == "given"
        shutil.copy(few / "moon.png", tmp_path / "another.png")
        assert collection.add([few, tmp_path / "another.png"]).added == 1  # and it can be gone on with
        assert len(collection.search(few / "moon.png")) == 10
        # Of the old one nothing is left.
        assert {p.name for p in path.iterdir()} == {"catalogue.sqlite", "lock", "upgrade-00000001"}
    assert upgrade(path, recipes[old], workers=1).changed and len(Collection.open(path)) == 10
    assert {p.name for p in path.iterdir()} == {"catalogue.sqlite", "lock", "upgrade-00000002"}
    with pytest.raises(CollectionError, match="already"):
        upgrade(path, recipes[old])


def test_searches_go_on_and_are_wholly_of_one_recipe(tmp_path, recipes, few):
    path = made(tmp_path / "c", recipes["words"], few)
    reader = Collection.open(path)
    before, after = answers(reader, few), answers(made(tmp_path / "anew", recipes["codes"], few), few)
    seen, ended = [], threading.Event()

    def search() -> None:
        while not ended.is_set():
            with Collection.open(path) as opened:
                seen.append(answers(opened, few))

    thread = threading.Thread(target=search)
    thread.start()
    try:
        upgrade(path, recipes["codes"], workers=1)
        count = len(seen)
        while len(seen) < count + 2 and thread.is_alive():
            ended.wait(0.01)
    finally:
        ended.set()
        thread.join()
    assert before in seen and seen[-1] == after and all(found in (before, after) for found in seen)
    assert answers(reader, few) == before  # what was loaded before goes on
    assert reader.follow() and answers(reader, few) == after
    assert not reader.follow()
    reader.close()


def test_what_comes_goes_and_moves_meanwhile_is_taken_along(tmp_path, recipes, few, monkeypatch, in_this_process):
    photos = tmp_path / "photos"
    shutil.copytree(few, photos)
    path = made(tmp_path / "c", recipes["regions"], photos)
    describe, passes = successor.Successor.describe, []

    def change(self, *arguments):
        count = describe(self, *arguments)
        if not passes:
            with Collection.open(path, write=True) as collection:
                collection.remove([str(photos / "moon.png")])
                (photos / "moon.png").unlink()
                shutil.copy(few.parent / few.name / "moon.png", photos / "z.png")
                (photos / "coffee-1.png").rename(photos / "swap")
                (photos / "coffee-2.jpg").rename(photos / "coffee-1.png")
                (photos / "swap").rename(photos / "coffee-2.jpg")
                collection.add([photos])
        passes.append(count)
        return count

    monkeypatch.setattr(successor.Successor, "describe", change)
    report = upgrade(path, recipes["words"], workers=1)
    assert report.changed and len(passes) == 2
    found = answers(path, photos)
    monkeypatch.undo()
    assert {name for names, *_ in found for name in names} == {p.name for p in photos.iterdir()}
    with Collection.open(path) as collection:
        for photo in photos.iterdir():
            assert Path(collection.entry(collection.search(photo).ids[0]).origin) == photo


@pytest.mark.parametrize("drop", [False, True])
def test_missing_photos_are_named_and_nothing_is_changed(tmp_path, recipes, few, in_this_process, drop):
    photos = tmp_path / "photos"
    shutil.copytree(few, photos)
    path = made(tmp_path / "c", recipes["words"], photos)
    before = answers(path, few)
    (photos / "astronaut-2.jpg").unlink()  # between others
    shutil.copy(photos / "moon.png", photos / "rocket-1.png")  # the last
    report = upgrade(path, recipes["regions"], workers=1)
    assert not report.changed and report.described == 7
    assert [Path(origin).name for origin, _ in report.lacking] == ["astronaut-2.jpg", "rocket-1.png"]
    assert "changed" in report.lacking[1][1] and answers(path, few) == before
    with Collection.open(path) as collection:
        assert "7 images described" in collection.info().advice
    in_this_process.clear()
    if drop:
        assert upgrade(path, recipes["regions"], drop=True, workers=1).changed
        (photos / "rocket-1.png").unlink()
    else:
        for name in ("astronaut-2.jpg", "rocket-1.png"):
            shutil.copy(few / name, photos / name)
        assert upgrade(path, recipes["regions"], workers=1).changed
        assert set(in_this_process) == {"astronaut-2.jpg", "rocket-1.png"}  # of the others nothing was done again
    assert answers(path, few) == answers(made(tmp_path / "anew", recipes["regions"], photos), few)
    assert not list(path.glob("*-before"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory, recipes, few) -> tuple[Path, Path, list[tuple], list[tuple]]:
    """A collection whose upgrade waited for a photo that is back, its photos, and what is found before and after."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(few, folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "describe_files", describing([]))
        path = made(folder / "c", recipes["codes"], folder / "photos")
        (folder / "photos" / "astronaut-2.jpg").unlink()
        assert not upgrade(path, recipes["words"], workers=1).changed
        shutil.copy(few / "astronaut-2.jpg", folder / "photos")
        after = answers(made(folder / "anew", recipes["words"], folder / "photos"), few)
        return path, folder / "photos", answers(path, few), after


SLOW = [pytest.param(share, marks=pytest.mark.slow) for share in (0.04, 0.15, 0.26, 0.4, 0.5, 0.6, 0.8, 0.9, 0.985)]


@pytest.mark.parametrize("share", [0.33, 0.7, 0.96, *SLOW])
def test_it_can_be_killed_at_any_moment(tmp_path, recipes, few, begun, share, monkeypatch):
    """In place of a call to the file system; what is searched is one recipe's or the other's, and the next run ends it.

    What was described before the photo was back is moved meanwhile.
    """
    monkeypatch.setattr(successor, "_BATCH_IMAGES", 2)
    origin, _, before, after = begun
    path = tmp_path / "c"
    shutil.copytree(origin, path)
    shutil.copytree(origin, tmp_path / "copy")
    count = killing.events(lambda tell: upgrade(tmp_path / "copy", recipes["words"], workers=1))
    assert killing.run(lambda tell: upgrade(path, recipes["words"], workers=1), at_event=int(share * count)).killed
    state = answers(path, few)
    assert state in (before, after)
    if state == before:
        assert upgrade(path, recipes["words"], workers=1).changed
        assert answers(path, few) == after
    else:
        Collection.open(path, write=True).close()  # which takes the rest away
    assert {p.name for p in path.iterdir()} == {"catalogue.sqlite", "lock", "upgrade-00000001"}


def test_one_at_a_time_and_none_after_it_is_given_up(tmp_path, recipes, few, monkeypatch):
    path = made(tmp_path / "c", recipes["words"], few)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    said = []

    def meanwhile(progress) -> None:
        said.append(progress.phase)
        if progress.phase == "describing" and progress.done == 3:
            with pytest.raises(LockedError):
                upgrade(path, recipes["codes"], workers=1)
            with pytest.raises(LockedError):
                cancel(path)
            said.append(Collection.open(path, write=True))  # holds the lock until the upgrade waits for it
        if "waiting" in progress.phase and (held := [one for one in said if isinstance(one, Collection)]):
            held[0].close()

    assert upgrade(path, recipes["codes"], workers=1, progress=meanwhile).changed
    assert any("waiting" in one for one in said if isinstance(one, str))
    (few / "moon.png").rename(few / "away.png")
    try:
        assert not upgrade(path, recipes["words"], workers=1).changed
    finally:
        (few / "away.png").rename(few / "moon.png")
    for other in ("regions", "other"):  # of which one would not have to describe anything
        with pytest.raises(CollectionError, match=r"has been begun.*--cancel"):
            upgrade(path, reranked(recipes["codes"]) if other == "other" else recipes[other], workers=1)
    assert cancel(path) and not cancel(path)
    assert upgrade(path, recipes["regions"], workers=1).changed


def stricter(words: Recipe) -> Recipe:
    """Verifies otherwise, and has another name."""
    verify = words.verify.model_copy(update={"depth": 5, "seed": 3})
    return words.model_copy(update={"name": "stricter", "verify": verify, "query": None})


def reranked(recipe: Recipe) -> Recipe:
    """The same with one query looked at twice."""
    query = {"scales": [1.0, 0.7], "merge": "mean"}
    return Recipe.model_validate(recipe.model_dump(by_alias=True, exclude_none=True) | {"query": query})


def expanded(regions: Recipe) -> Recipe:
    """Its vectors alone, re-ranked by diffusion, of which something is built beforehand."""
    table = regions.model_dump(by_alias=True, exclude_none=True)
    return Recipe.model_validate(table | {"rerank": [{"method": "diffusion", "k": 3}]})


@pytest.mark.parametrize(
    ("old", "change"),
    [("words", stricter), ("codes", reranked), ("regions", expanded)],
    ids=["verify", "query", "rerank"],
)
def test_what_only_searches_otherwise_needs_no_photo(tmp_path, recipes, few, in_this_process, old, change):
    photos = Path(shutil.copytree(few, tmp_path / "photos"))
    path, new = made(tmp_path / "c", recipes[old], photos), change(recipes[old])
    expected = answers(made(tmp_path / "anew", new, photos), few)
    before = {p.name for p in path.iterdir()}
    in_this_process.clear()
    shutil.rmtree(photos)
    with Collection.open(path) as reader:
        reader.search(few / "moon.png")
        readers = Readers(path)
        _, first = readers.searchable()
        report = upgrade(path, new, workers=1)
        assert (report.changed, report.images, report.described, report.recipe) == (True, 9, 0, new.name)
        assert reader.follow() and reader.recipe == new and not reader.follow()
        after, second = readers.searchable(now=True)
        assert after.recipe == new and first < second
        readers.close()
    assert answers(path, few) == expected and not in_this_process
    assert before <= {p.name for p in path.iterdir()} and not list(path.glob("upgrade-*"))
    with Collection.open(path) as opened:
        assert opened.verify() == [] and opened.fingerprint == Collection.open(tmp_path / "anew").fingerprint
    with pytest.raises(CollectionError, match="already"):
        upgrade(path, new)


@pytest.mark.parametrize(("old", "new"), [("words", "coarser"), ("regions", "codes"), ("codes", "regions")])
def test_what_is_described_alike_is_copied(tmp_path, recipes, few, in_this_process, old, new):
    words = recipes["words"]
    coarser = words.model_copy(update={"codebook": words.codebook.model_copy(update={"seed": 5})})
    path, wanted = made(tmp_path / "c", recipes[old], few), {**recipes, "coarser": coarser}[new]
    expected = answers(made(tmp_path / "anew", wanted, few), few)
    in_this_process.clear()
    report = upgrade(path, wanted, workers=1)
    assert (report.changed, report.images, report.described) == (True, 9, 0) and not in_this_process
    assert answers(path, few) == expected
    with Collection.open(path) as opened:
        assert opened.verify() == []


def test_of_what_is_damaged_the_photo_is_described(tmp_path, recipes, few, in_this_process):
    words = recipes["words"]
    coarser = words.model_copy(update={"codebook": words.codebook.model_copy(update={"seed": 5})})
    path = made(tmp_path / "c", words, few)
    with Collection.open(path) as opened:
        third = Path(opened.entry(3).origin).name
    with Store(path, write=False) as store:
        ((at,),) = store.catalogue.rows("SELECT features_at FROM images WHERE id = 3")
    with (path / "features.log").open("r+b") as log:
        log.seek(at + 5)
        byte = log.read(1)[0]
        log.seek(at + 5)
        log.write(bytes([byte ^ 4]))
    in_this_process.clear()
    report = upgrade(path, coarser, workers=1)
    assert report.changed and report.described == 1 and in_this_process == [third]
    assert answers(path, few) == answers(made(tmp_path / "anew", coarser, few), few)


def test_an_error_before_it_changes_over_leaves_it_as_it_was(tmp_path, recipes, few, monkeypatch):
    path = made(tmp_path / "c", recipes["words"], few)
    before = answers(path, few)

    def full(*_):
        raise CollectionError("no room")

    monkeypatch.setattr(module, "_finish", full)
    with pytest.raises(CollectionError, match="no room"):
        upgrade(path, stricter(recipes["words"]), workers=1)
    assert answers(path, few) == before and Collection.open(path).recipe == recipes["words"]


def test_other_weights_describe_otherwise(tmp_path, recipes, few):
    old = recipes["codes"]
    torch.manual_seed(1)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    stage = old.global_.model_copy(update={"weights": str(tmp_path / "weights.safetensors")})
    path = made(tmp_path / "c", old, few)
    report = upgrade(path, old.model_copy(update={"global_": stage}), workers=1)
    assert report.changed and report.described == 9


def test_ctrl_c_while_a_batch_is_kept_does_not_keep_it_twice(tmp_path, recipes, few, monkeypatch):
    """Or its images would have their words twice."""
    path = made(tmp_path / "c", recipes["regions"], few)
    monkeypatch.setattr(successor, "_BATCH_IMAGES", 4)
    add, kept = Store.add, []

    def stopped(self, new, *others):
        add(self, new, *others)
        kept.extend(item.id for item in new)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            upgrade(path, recipes["words"], workers=1)
    assert kept == [1, 2, 3, 4]
    report = upgrade(path, recipes["words"], workers=1)
    assert report.changed and report.described == 5
    assert answers(path, few) == answers(made(tmp_path / "anew", recipes["words"], few), few)


def test_a_photo_that_moves_before_its_turn_is_not_dropped(tmp_path, recipes, few):
    photos = tmp_path / "photos"
    shutil.copytree(few, photos)
    path = made(tmp_path / "c", recipes["regions"], photos)

    def move(progress) -> None:
        if progress.phase == "describing" and progress.done == 2 and (photos / "moon.png").exists():
            (photos / "moon.png").rename(photos / "z.png")
            with Store(path, write=True) as store, store.catalogue.transaction() as db:  # as indexing does
                names = str(photos / "z.png"), str(photos / "moon.png")
                db.execute("UPDATE images SET origin = ? WHERE origin = ?", names)

    report = upgrade(path, recipes["words"], drop=True, workers=1, progress=move)
    assert not report.changed and [(Path(o).name, "moved" in why) for o, why in report.lacking] == [("z.png", True)]
    report = upgrade(path, recipes["words"], drop=True, workers=1)
    assert (report.changed, report.images, report.lacking) == (True, 9, ())


def test_a_vector_database_connected_meanwhile_keeps_it_as_it_is(tmp_path, recipes, few):
    """It holds vectors of the old recipe, which nothing would compare with queries of the new one but the search."""
    path = made(tmp_path / "c", recipes["regions"], few)

    def connect(progress) -> None:
        if progress.phase == "describing" and progress.done == 3:
            with Store(path, write=True) as store:
                store.set_engine(EngineFacts("http://127.0.0.1:9", "name", "owner", 256))

    with pytest.raises(CollectionError, match="vector database"):
        upgrade(path, recipes["words"], workers=1, progress=connect)
    with Store(path, write=False) as store:
        assert store.recipe == recipes["regions"] and store.engine() is not None


def test_a_service_takes_it_up(tmp_path, recipes, few):
    path = made(tmp_path / "c", recipes["words"], few)
    readers = Readers(path)
    before, first = readers.searchable()
    with Collection.open(path, write=True) as collection:
        collection.set_metadata({2: {"name": "given"}})
    _, second = readers.searchable(now=True)
    upgrade(path, recipes["codes"], workers=1)
    after, third = readers.searchable(now=True)
    assert first < second < third  # by which it knows what it has answered already
    assert readers.searchable(now=True) == (after, third)
    assert (before.recipe, after.recipe, readers.live.recipe) == (recipes["words"], recipes["codes"], recipes["codes"])
    assert len(after.search(few / "moon.png")) == len(before.search(few / "moon.png")) == 9
    assert readers.live.info().recipe == recipes["codes"].name
    readers.close()


def test_the_command(tmp_path, recipes, few):
    photos = tmp_path / "photos"
    shutil.copytree(few, photos)
    path = made(tmp_path / "c", recipes["words"], photos)
    (photos / "brick.png").unlink()
    (tmp_path / "new.toml").write_text(tomli_w.dumps(recipes["regions"].model_dump(by_alias=True, exclude_none=True)))

    def resight(*arguments: object):
        return CliRunner().invoke(app, ["upgrade", str(path), *map(str, arguments)])

    refused = resight("--recipe", tmp_path / "new.toml", "--workers", 1)
    assert refused.exit_code == 1 and "1 of 9 images" in refused.stderr and "brick.png: " in refused.stderr
    assert resight().exit_code == 2 and resight("--cancel", "--drop").exit_code == 2
    done = resight("--recipe", tmp_path / "new.toml", "--drop", "--json", "-q")
    facts = json.loads(done.stdout)
    assert done.exit_code == 0 and facts["changed"] and facts["images"] == 8 and facts["described"] == 0
    assert [Path(origin).name for origin, _ in facts["lacking"]] == ["brick.png"]
    assert resight("--cancel").stdout == "no upgrade was begun\n"


def test_an_empty_collection_and_one_that_learns_too_little(tmp_path, recipes, few):
    Collection.create(tmp_path / "c", recipes["words"]).close()
    assert upgrade(tmp_path / "c", recipes["regions"], workers=1).changed
    with Collection.open(tmp_path / "c", write=True) as collection:
        assert collection.add([few / "moon.png"], workers=1).added == 1
    with pytest.raises(CollectionError, match="too few to learn a hash function"):
        upgrade(tmp_path / "c", recipes["codes"], workers=1)
    with Collection.open(tmp_path / "c") as collection:  # which is searched as before
        assert collection.recipe == recipes["regions"] and len(collection.search(few / "moon.png")) == 1
