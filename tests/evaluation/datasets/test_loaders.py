"""Every published layout in miniature: what its loader makes of it, and what it refuses."""

import shutil

import pytest

from resight.errors import GroundTruthError
from resight.evaluation.datasets import DATASETS, load_dataset
from resight.evaluation.datasets.layout import fit_box
from resight.evaluation.datasets.oxford import CORRUPT


def load(name, folder, protocol=None):
    return load_dataset(name, folder, protocol, partial=True)


def stems(paths):
    return {path.rsplit("/", 1)[-1].removesuffix(".jpg") for path in paths}


class TestUkbench:
    @pytest.fixture
    def folder(self, tmp_path, photograph):
        for number in (*range(4), *range(10196, 10200)):
            photograph(tmp_path / "full" / f"ukbench{number:05d}.jpg")
        photograph(tmp_path / "thumbnails/ukbench00000.jpg")  # the archive has these too
        return tmp_path

    def test_groups_are_by_number(self, folder):
        labelled = load("ukbench", folder)
        assert labelled.in_fours and labelled.leave_one_out
        assert len(labelled.database) == len(labelled.queries) == 8
        last = labelled.queries[-1]
        assert stems(last.positives | {last.path}) == {f"ukbench{number}" for number in range(10196, 10200)}

    def test_numbers_are_not_ordered_as_text(self, folder, photograph):
        for number in (98, 99, 100, 101, 96, 97, 102, 103):
            photograph(folder / "full" / f"ukbench{number}.jpg")
        groups = {frozenset(stems(query.positives | {query.path})) for query in load("ukbench", folder).queries}
        assert frozenset({"ukbench96", "ukbench97", "ukbench98", "ukbench99"}) in groups

    def test_the_photographs_beside_the_project(self, photographs):
        labelled = load("ukbench", photographs / "ukbench1000/images")
        assert len(labelled.queries) == 600
        folders = {path: path.split("/")[0] for path in labelled.database}
        assert all({folders[path] for path in q.positives} == {folders[q.path]} for q in labelled.queries)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda folder: (folder / "full/ukbench00002.jpg").unlink(), "ukbench00000 has 3 of its 4"),
            (lambda folder: (folder / "full/ukbench00002.jpg").rename(folder / "full/cat.jpg"), "not called ukbench"),
            (lambda folder: shutil.copy(folder / "full/ukbench00002.jpg", folder / "full/ukbench2.jpg"), "one number"),
            (lambda folder: shutil.rmtree(folder / "full"), "thumbnails|has 1 of its 4"),
        ],
    )
    def test_refusals(self, folder, change, said):
        change(folder)
        with pytest.raises(GroundTruthError, match=said):
            load("ukbench", folder)


class TestHolidays:
    @pytest.fixture
    def folder(self, tmp_path, photograph):
        for number in (100000, 100001, 100002, 149900, 149901):
            photograph(tmp_path / "jpg" / f"{number}.jpg")
        return tmp_path

    @pytest.mark.parametrize(("name", "said"), [("holidays", "as published"), ("holidays-upright", "upright by hand")])
    def test_the_first_of_a_scene_asks_and_is_removed(self, folder, name, said):
        labelled = load(name, folder)
        assert said in labelled.protocol and labelled.name == name
        assert [(q.path, sorted(q.positives)) for q in labelled.queries] == [
            ("jpg/100000.jpg", ["jpg/100001.jpg", "jpg/100002.jpg"]),
            ("jpg/149900.jpg", ["jpg/149901.jpg"]),
        ]
        assert labelled.leave_one_out and len(labelled.database) == 5

    def test_the_published_list_decides(self, folder):
        (folder / "eval_holidays").mkdir()
        listed = folder / "eval_holidays/holidays_images.dat"
        listed.write_text("100000.jpg\n100001.jpg\n149900.jpg\n149901.jpg\n")
        assert len(load("holidays", folder).database) == 4
        listed.write_text("100000.jpg\n100001.jpg\n100005.jpg\n")
        with pytest.raises(GroundTruthError, match=r"1 of the 3 images that holidays_images.dat names.*100005"):
            load("holidays", folder)

    def test_a_scene_without_its_query(self, folder):
        (folder / "jpg/149900.jpg").unlink()
        with pytest.raises(GroundTruthError, match=r"query 149900\.jpg of scene 1499 is missing"):
            load("holidays", folder)


class TestOxford:
    def test_texts(self, oxford):
        labelled = load("oxford5k", oxford)
        first, second = labelled.queries
        assert len(labelled.database) == 7
        assert stems(first.positives) == {"hall_000000", "hall_000001", "hall_000002"}  # itself among them
        assert stems(first.junk) == {"hall_000003"} and first.box == (1.5, 2, 40.25, 30)
        assert second.box == (0, 0, 64, 48) and second.keeps_itself
        assert not labelled.leave_one_out and first.path in labelled.database
        assert "queries cropped to their boxes" in labelled.protocol and labelled.name == "oxford5k (cropped)"

    def test_uncropped_is_labelled(self, oxford):
        labelled = load("oxford5k", oxford, "uncropped")
        assert "NOT CROPPED" in labelled.protocol and all(query.box is None for query in labelled.queries)

    @pytest.mark.parametrize("suffix", [".pkl", ".mat", ".json"])
    def test_the_other_published_form_says_the_same(self, oxford, suffix, write_gnd):
        texts = load("oxford5k", oxford)
        images = [f"hall_{number:06d}" for number in range(7)]
        entries = [
            {"ok": [0, 1, 2], "junk": [3], "bbx": [1.5, 2, 40.25, 30]},
            {"ok": [0, 1, 2], "junk": [], "bbx": [0, 0, 64, 48]},
        ]
        write_gnd(oxford / f"gnd_oxford5k{suffix}", images, images[:2], entries)
        other = load("oxford5k", oxford)
        assert (other.database, other.queries) == (texts.database, texts.queries)
        assert other.revision != texts.revision

    def test_paris_has_subfolders_and_no_corrupt_files(self, oxford, photograph):
        for file in (oxford / "gt").iterdir():
            file.write_text(file.read_text().replace("oxc1_", ""))
        (oxford / "jpg/paris/hall").mkdir(parents=True)
        for number in range(7):
            name = f"hall_{number:06d}.jpg"
            (oxford / "jpg" / name).rename(oxford / "jpg/paris/hall" / name)
        broken = oxford / "jpg/paris/louvre/paris_louvre_000136.jpg"
        photograph(broken)
        broken.write_text("<html>302 Found</html>")
        with (oxford / "gt/hall_1_junk.txt").open("a") as file:
            file.write("paris_louvre_000136\n")
        labelled = load("paris6k", oxford)
        assert len(labelled.database) == 7 and labelled.database[0].startswith("jpg/paris/hall/")
        assert stems(labelled.queries[0].junk) == {"hall_000003"}

    def test_the_corrupt_files_are_those_that_rparis_lacks(self, revisitop):
        from resight.evaluation.datasets.groundtruth import read_gnd

        gnd = read_gnd(revisitop / "gnd_rparis6k.pkl", ())
        assert len(CORRUPT) == 20 and not CORRUPT & {*gnd.images, *gnd.queries}
        assert len(gnd.images) + len(gnd.queries) == DATASETS["paris6k"].images == 6412 - len(CORRUPT)

    def test_flickr100k_is_beside_or_inside(self, oxford, photograph):
        with pytest.raises(GroundTruthError, match="has no distractors: put the 100,071 images of Flickr100k into"):
            load("oxford105k", oxford)
        photograph(oxford.parent / "oxc1_100k/sky/x.jpg")
        labelled = load("oxford105k", oxford)
        assert (labelled.distractors, len(labelled.database), len(labelled.own)) == (1, 8, 7)
        assert "NOT ALL DISTRACTORS: 1 of 100,071" in labelled.protocol
        (oxford.parent / "oxc1_100k").rename(oxford / "oxc1_100k")
        assert load("oxford105k", oxford).distractors == 1
        assert load("oxford5k", oxford).distractors == 0

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda f: (f / "jpg/hall_000002.jpg").unlink(), "images that gt names are missing: hall_000002"),
            (lambda f: (f / "gt/hall_1_junk.txt").unlink(), "hall_1_junk.txt: cannot be read"),
            (lambda f: (f / "gt/hall_1_query.txt").write_text("hall_000000 1 2 3"), "not an image and four numbers"),
            (lambda f: (f / "gt/hall_1_query.txt").write_text(""), "not an image and four numbers"),
            (lambda f: (f / "gt/hall_1_query.txt").write_text("hall_000000 1 2 90 9"), "leaves the image of 64 × 48"),
            (lambda f: (f / "gt/hall_1_junk.txt").write_text("hall_000001"), "both positive and junk"),
            (lambda f: shutil.rmtree(f / "gt"), "has no ground truth"),
            (lambda f: shutil.copytree(f / "gt", f / "lab"), "keep one of them"),
            (lambda f: shutil.copy(f / "jpg/hall_000002.jpg", f / "hall_000002.jpg"), "have one name"),
        ],
    )
    def test_refusals(self, oxford, change, said):
        change(oxford)
        with pytest.raises(GroundTruthError, match=said):
            load("oxford5k", oxford)


class TestRevisited:
    @pytest.mark.parametrize(
        ("level", "positives", "junk", "second"),
        [
            ("easy", {0, 2}, {1, 4}, {3}),
            ("medium", {0, 2, 4}, {1}, {3}),
            ("hard", {4}, {0, 1, 2}, set()),
        ],
    )
    def test_the_three_levels(self, revisited, level, positives, junk, second):
        labelled = load("roxford5k", revisited, level)
        names = [f"hall_{number:06d}" for number in range(6)]
        first, other = labelled.queries
        assert stems(first.positives) == {names[place] for place in positives}
        assert stems(first.junk) == {names[place] for place in junk}
        assert stems(other.positives) == {names[place] for place in second}
        assert (first.box, other.box) == ((1.5, 2, 40.25, 30), (0, 0, 64, 48))
        assert first.path not in labelled.database and not labelled.leave_one_out
        assert labelled.name == f"roxford5k ({level})" and f"revisited, {level.title()}" in labelled.protocol

    def test_medium_is_usual_and_uncropped_is_labelled(self, revisited):
        assert load("roxford5k", revisited).name == "roxford5k (medium)"
        labelled = load("roxford5k", revisited, "hard-uncropped")
        assert "NOT CROPPED" in labelled.protocol and all(query.box is None for query in labelled.queries)

    def test_the_real_ground_truth_on_stand_in_photographs(self, revisitop, tmp_path, photograph):
        """4,993 + 70 links to one picture that is large enough: nothing is missing, and the set is whole."""
        from resight.evaluation.datasets.groundtruth import read_gnd

        gnd = read_gnd(revisitop / "gnd_roxford5k.pkl", ("easy", "hard", "junk"))
        photograph(tmp_path / "one.png", (1200, 1200))
        (tmp_path / "jpg").mkdir()
        shutil.copy(revisitop / "gnd_roxford5k.pkl", tmp_path)
        for name in (*gnd.images, *gnd.queries):
            (tmp_path / "jpg" / f"{name}.jpg").symlink_to(tmp_path / "one.png")
        sets = {
            level: load_dataset("roxford5k", tmp_path, f"{level}-uncropped") for level in ("easy", "medium", "hard")
        }
        assert len(sets["easy"].database) == 4993 and "WHOLE" not in sets["easy"].protocol
        for easy, medium, hard in zip(*(labelled.queries for labelled in sets.values()), strict=True):
            assert medium.positives == easy.positives | hard.positives and not easy.positives & hard.positives
            assert easy.junk == medium.junk | hard.positives and hard.junk == medium.junk | easy.positives
        assert [sum(not q.positives for q in labelled.queries) for labelled in sets.values()] == [2, 0, 0]
        (tmp_path / "jpg" / f"{gnd.images[7]}.jpg").unlink()
        with pytest.raises(GroundTruthError, match=f"1 of the 4993 images .* {gnd.images[7]}"):
            load_dataset("roxford5k", tmp_path)

    def test_r1m(self, revisited, photograph):
        photograph(revisited.parent / "revisitop1m/jpg/0/00a.jpg")
        labelled = load("roxford5k+1m", revisited, "hard")
        assert labelled.distractors == 1 and "NOT ALL DISTRACTORS: 1 of 1,001,001" in labelled.protocol
        with pytest.raises(GroundTruthError, match="is not whole: 6 of 4,993 images, 2 of 70 queries"):
            load_dataset("roxford5k+1m", revisited)

    def test_a_query_in_the_database_is_refused(self, revisited, write_gnd):
        entries = [{"bbx": [0, 0, 4, 4], "easy": [1], "hard": [], "junk": []}]
        write_gnd(revisited / "gnd_roxford5k.pkl", ["hall_000000", "hall_000001"], ["hall_000000"], entries)
        with pytest.raises(GroundTruthError, match="is a query and in the database"):
            load("roxford5k", revisited)


class TestInstre:
    def test_corners(self, instre):
        labelled = load("instre", instre([30, 20, 50, 40], [5, 5, 64, 48]))
        assert [query.box for query in labelled.queries] == [(30, 20, 50, 40), (5, 5, 64, 48)]
        assert stems(labelled.queries[0].positives) == {"000", "002"}  # counted from 1 in the file
        assert {query.subset for query in labelled.queries} == {"INSTRE-S1", "INSTRE-M"}
        assert "read as (x1, y1, x2, y2)" in labelled.protocol

    def test_extents(self, instre):
        labelled = load("instre", instre([40, 20, 20, 10], [5, 5, 59, 43]))
        assert [query.box for query in labelled.queries] == [(40, 20, 60, 30), (5, 5, 64, 48)]
        assert "read as (x, y, width, height)" in labelled.protocol

    def test_boxes_that_could_be_either_are_refused_until_it_is_said(self, instre):
        folder = instre([5, 5, 20, 20], [1, 2, 8, 9])
        with pytest.raises(GroundTruthError, match="fits as corners and as extents"):
            load("instre", folder)
        assert load("instre", folder, "cropped-corners").queries[0].box == (5, 5, 20, 20)
        assert load("instre", folder, "cropped-extents").queries[0].box == (5, 5, 25, 25)

    def test_boxes_that_leave_their_images_are_refused(self, instre):
        with pytest.raises(GroundTruthError, match=r"boxes leave their images: as .*as "):
            load("instre", instre([40, 20, 20, 40], [5, 5, 64, 48]))
        with pytest.raises(GroundTruthError, match="read as"):
            load("instre", instre([40, 20, 20, 40], [5, 5, 64, 48]), "cropped-corners")

    def test_a_missing_image_is_refused(self, instre):
        folder = instre([30, 20, 50, 40], [5, 5, 64, 48])
        (folder / "INSTRE-M/01/000.jpg").unlink()
        with pytest.raises(GroundTruthError, match=r"1 of the 6 images .*INSTRE-M/01/000.jpg"):
            load("instre", folder, "uncropped")


class TestLandmarks:
    def test_private_and_public_are_apart(self, gldv2):
        private, public = load("gldv2", gldv2), load("gldv2", gldv2, "public")
        assert [stems(query.positives) for query in private.queries] == [
            {"1123456789abcdef", "2123456789abcdef"},
            {"3123456789abcdef"},
        ]
        assert private.queries[0].path == "test/b/1/2/b123456789abcdef.jpg"
        assert [stems(query.positives) for query in public.queries] == [{"0123456789abcdef"}]
        assert (private.selection, public.selection) == ("Usage Private", "Usage Public")
        assert private.average_precision == "truncated" and private.revision == public.revision
        assert len(private.database) == 4

    def test_gldv1_leaves_out_what_is_gone(self, gldv2):
        for split in ("index", "test"):
            for file in list((gldv2 / split).rglob("*.jpg")):
                file.rename(gldv2 / split / file.name)
        (gldv2 / "ground_truth/retrieval_solution_v2.1.csv").rename(gldv2 / "retrieval_solution.csv")
        (gldv2 / "index/2123456789abcdef.jpg").unlink()
        labelled = load_dataset("gldv1", gldv2)
        assert len(labelled.database) == 3 and stems(labelled.queries[0].positives) == {"1123456789abcdef"}
        assert "1 index images are gone" in labelled.protocol

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("images", "image", "has no column images"),
            ("0123456789abcdef,Public", "0123456789abcdef", "is cut short"),
            ("a123456789abcdef", "../../etc/passwd", "is no image's id"),
            ("a123456789abcdef", "b123456789abcdef", "twice"),
            ("3123456789abcdef", "9123456789abcdef", "is not in the database"),
            ("Private", "private", "no query's Usage is Private"),
        ],
    )
    def test_refusals(self, gldv2, old, new, said):
        file = gldv2 / "ground_truth/retrieval_solution_v2.1.csv"
        file.write_text(file.read_text().replace(old, new))
        with pytest.raises(GroundTruthError, match=said):
            load("gldv2", gldv2)

    def test_earlier_ground_truth_is_not_taken(self, gldv2):
        file = gldv2 / "ground_truth/retrieval_solution_v2.1.csv"
        file.rename(file.with_name("retrieval_solution_v2.0.csv"))
        with pytest.raises(GroundTruthError, match=r"retrieval_solution_v2\.1\.csv"):
            load("gldv2", gldv2)


class TestIlias:
    def test_core(self, ilias):
        labelled = load("ilias", ilias)
        assert [(q.path.rsplit("/", 1)[-1], stems(q.positives), q.box) for q in labelled.queries] == [
            ("Q000_00.jpg", {"P000_00", "P000_01"}, None),
            ("Q001_00.jpg", {"P001_00"}, None),
        ]
        assert labelled.average_precision == "truncated-1000" and "whole, as published" in labelled.protocol
        assert (len(labelled.database), labelled.distractors) == (3, 0)

    def test_cropped_is_the_box_around_all_boxes(self, ilias):
        labelled = load("ilias", ilias, "core-cropped")
        assert labelled.queries[0].box == (5, 6, 40, 38) and "CROPPED" in labelled.protocol

    def test_distractors_stay_in_their_shards(self, ilias):
        every, mini = load("ilias", ilias, "shards"), load("ilias", ilias, "mini")
        assert (every.distractors, len(every.database)) == (3, 6) and "3 distractors in 2 shards" in every.protocol
        assert [path.rsplit("!/", 1)[1] for path in mini.database[-2:]] == ["aa.jpg", "cc.jpg"]
        assert str(mini.locate(mini.database[-1])) == mini.database[-1]

    def test_a_mini_set_with_shards_missing_is_refused(self, ilias):
        (ilias / "yfcc100m/yfcc100m_0001.tar").unlink()
        assert "NOT ALL DISTRACTORS: 1 of 2" in load("ilias", ilias, "mini").protocol

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda f: shutil.rmtree(f / "ilias_core/shy_shoe_001/pos"), "has no positive"),
            (lambda f: shutil.rmtree(f / "ilias_core"), "no such folder"),
            (lambda f: (f / "image_ids/mini_ilias_yfcc100m_ids.txt").unlink(), "says which distractors"),
            (lambda f: shutil.rmtree(f / "yfcc100m"), "has no shards"),
            (lambda f: (f / "yfcc100m/yfcc100m_0000.tar").write_bytes(b"x" * 2000), "yfcc100m_0000.tar"),
        ],
    )
    def test_refusals(self, ilias, change, said):
        change(ilias)
        with pytest.raises(GroundTruthError, match=said):
            load("ilias", ilias, "mini")

    def test_the_published_lists_must_be_met(self, ilias):
        (ilias / "image_ids/image_query_ids.txt").write_text("bold_bimp_000/query/Q000_00.jpg,1\n")
        (ilias / "image_ids/positive_ids.txt").write_text("bold_bimp_000/pos/P000_07.jpg,0.5,12\n")
        with pytest.raises(GroundTruthError, match=r"1 of the 2 images .*P000_07"):
            load("ilias", ilias)


@pytest.mark.parametrize("name", ["ukbench", "roxford5k", "gldv2"])
def test_a_set_that_is_not_whole_gives_no_figures(name, request, tmp_path, photograph):
    if name == "ukbench":
        folder = tmp_path
        for number in range(4):
            photograph(folder / f"ukbench{number:05d}.jpg")
    else:
        folder = request.getfixturevalue({"roxford5k": "revisited"}.get(name, name))
    with pytest.raises(GroundTruthError, match=rf"{name}.* is not whole: .* compare with nobody's"):
        load_dataset(name, folder)
    assert "NOT THE WHOLE SET" in load(name, folder).protocol


def test_unknown_names_and_protocols_are_refused_with_the_choice(revisited):
    with pytest.raises(GroundTruthError, match="no data set is called 'oxford'; choose ukbench, holidays"):
        load_dataset("oxford", revisited)
    with pytest.raises(GroundTruthError, match="roxford5k has no protocol 'difficult'; choose medium, hard"):
        load_dataset("roxford5k", revisited, "difficult")
    with pytest.raises(GroundTruthError, match="no such folder; `resight datasets get roxford5k"):
        load_dataset("roxford5k", revisited / "none")


def test_a_rounded_box_is_cut_to_its_image_and_a_larger_one_refused():
    assert fit_box((-0.5, 0, 64.75, 48), (64, 48), "q") == (0, 0, 64, 48)
    for box in [(-2, 0, 9, 9), (0, 0, 66, 9), (0, 0, 9, 50), (5, 5, 5, 9), (9, 5, 5, 9)]:
        with pytest.raises(GroundTruthError, match="q: box"):
            fit_box(box, (64, 48), "q")
