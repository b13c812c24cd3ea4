"""COLMAP models that are written here by the published description of their layout, and the pairs of a known scene."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from resight.errors import GroundTruthError
from resight.learning.unlabelled.colmap import find_models, read_model, rotation_of
from resight.learning.unlabelled.colmap_pairs import pairs_of_folder, positives
from resight.learning.unlabelled.stages import ColmapStage

# Cameras at a distance from a cloud around the origin, looking at it, from different angles (degrees).
SEEN_FROM = {"a 0.jpg": (0, 10.0), "sub/b.jpg": (10, 10.0), "c.jpg": (80, 10.0), "far.jpg": (5, 25.0)}
FOCAL = {7: ("PINHOLE", 1, [800.0, 810.0, 320.0, 240.0]), 9: ("SIMPLE_RADIAL", 2, [1600.0, 320.0, 240.0, 0.01])}


def scene(shift=0):
    """Points by id, and views: name → id, camera, pose, and the point of each keypoint, −1 for none."""
    rng = np.random.default_rng(5 + shift)
    points = {int(100 + 3 * n + 1000 * shift): rng.normal(size=3) for n in range(60)}
    views = {}
    for number, (name, (angle, distance)) in enumerate(SEEN_FROM.items()):
        rotation = Rotation.from_euler("y", angle, degrees=True)
        seen = [-1, *rng.permutation(list(points))[: 55 - 5 * number].tolist(), -1]
        views[f"{shift}/{name}"] = (40 + 2 * number, 7, rotation, np.array([0, 0, distance]), seen)
    return points, views


def wxyz(rotation):
    x, y, z, w = rotation.as_quat()
    return [w, x, y, z]


def write_text(folder, points, views):
    folder.mkdir(parents=True)
    lines = [f"{number} {name} 640 480 {' '.join(map(repr, p))}" for number, (name, _, p) in FOCAL.items()]
    (folder / "cameras.txt").write_text("# Camera list\n" + "\n".join(lines) + "\n")
    lines = [
        "# Image list with two lines of data per image:",
        "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
    ]
    for name, (number, camera, rotation, t, seen) in views.items():
        lines.append(" ".join(map(str, [number, *map(repr, map(float, wxyz(rotation))), *map(float, t), camera, name])))
        lines.append(" ".join(f"{n + 0.5} {2 * n}.25 {point}" for n, point in enumerate(seen)))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = [
        f"{n} {x!r} {y!r} {z!r} 1 2 3 0.5 40 1 42 3" for n, (x, y, z) in ((n, map(float, p)) for n, p in points.items())
    ]
    (folder / "points3D.txt").write_text("# 3D point list\n" + "\n".join(lines) + "\n")


def write_binary(folder, points, views):
    folder.mkdir(parents=True)
    with (folder / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(FOCAL)))
        for number, (_, model, parameters) in FOCAL.items():
            file.write(struct.pack("<IiQQ", number, model, 640, 480) + struct.pack(f"<{len(parameters)}d", *parameters))
    with (folder / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(views)))
        for name, (number, camera, rotation, t, seen) in views.items():
            file.write(struct.pack("<I4d3dI", number, *wxyz(rotation), *t, camera) + name.encode() + b"\0")
            file.write(struct.pack("<Q", len(seen)))
            for n, point in enumerate(seen):
                file.write(struct.pack("<dd", n + 0.5, 2 * n + 0.25) + struct.pack("<Q", point % 2**64))
    with (folder / "points3D.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(points)))
        for number, xyz in points.items():
            file.write(struct.pack("<Q3d3Bd", number, *xyz, 1, 2, 3, 0.5))
            file.write(struct.pack("<Q4I", 2, 40, 1, 42, 3))


WRITERS = {"text": write_text, "binary": write_binary}


@pytest.mark.parametrize("form", WRITERS)
def test_a_model_is_read_as_it_was_written(tmp_path, form):
    points, views = scene()
    WRITERS[form](tmp_path / "m", points, views)
    model = read_model(tmp_path / "m")
    assert [view.name for view in model.views] == sorted(views)
    assert model.ids.tolist() == sorted(points)
    np.testing.assert_array_equal(model.places(np.array([103, 100])), [points[103], points[100]])
    for view in model.views:
        _, _, rotation, t, seen = views[view.name]
        np.testing.assert_allclose(view.rotation, rotation.as_matrix(), atol=1e-12)
        np.testing.assert_allclose(view.rotation @ view.centre + view.translation, 0, atol=1e-12)
        np.testing.assert_array_equal(view.translation, t)
        assert view.points.tolist() == sorted(set(seen) - {-1}) and view.focal == 800.0


def test_the_binary_form_is_preferred_and_folders_of_models_are_found(tmp_path):
    write_text(tmp_path / "all" / "0", *scene())
    write_binary(tmp_path / "all" / "1", *scene(1))
    assert find_models(tmp_path / "all") == [tmp_path / "all" / "0", tmp_path / "all" / "1"]
    assert find_models(tmp_path / "all" / "1") == [tmp_path / "all" / "1"]
    (tmp_path / "all" / "1" / "images.txt").write_text("rubbish")
    assert len(read_model(tmp_path / "all" / "1").views) == 4
    with pytest.raises(GroundTruthError, match="holds no COLMAP model"):
        find_models(tmp_path / "nothing")


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_rotations_are_scipys(q):
    w, x, y, z = q
    np.testing.assert_allclose(rotation_of(np.array(q)), Rotation.from_quat([x, y, z, w]).as_matrix(), atol=1e-12)


def expected_pairs(points, views, *, least, overlap, scale, angle):
    """By loops over photos and points, from the definitions."""
    found = {}
    for one, (_, _, r, t, seen) in views.items():
        for other, (_, _, r2, t2, seen2) in views.items():
            shared = (set(seen) & set(seen2)) - {-1}
            own = set(seen) - {-1}
            if one == other or len(shared) < least or len(shared) / len(own) < overlap:
                continue
            ratios, angles = [], []
            for n in shared:
                here, there = r.apply(points[n]) + t, r2.apply(points[n]) + t2
                ratios.append(there[2] / here[2])
                a, b = points[n] + r.inv().apply(t), points[n] + r2.inv().apply(t2)
                angles.append(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
            change = np.median(ratios)
            if max(change, 1 / change) <= scale and (not angle or np.median(angles) <= angle):
                found[one, other] = len(shared)
    return found


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ({"least": 15, "overlap": 0.2, "scale": 1.5, "angle": 0}, 6),  # far.jpg is too small
        ({"least": 15, "overlap": 0.2, "scale": 1.5, "angle": 30}, 2),  # and c.jpg from the side
        ({"least": 15, "overlap": 0.2, "scale": 4.0, "angle": 0}, 12),
        ({"least": 44, "overlap": 0.0, "scale": 4.0, "angle": 0}, 2),
        ({"least": 1, "overlap": 0.85, "scale": 4.0, "angle": 0}, None),  # a share of the anchor's, so not symmetric
    ],
)
def test_pairs_are_those_of_the_definitions(tmp_path, rules, count):
    points, views = scene()
    write_binary(tmp_path / "m", points, views)
    stage = ColmapStage(
        kind="colmap", model="", points=rules["least"], **{k: rules[k] for k in ("overlap", "scale", "angle")}
    )
    found = {(one.name, other.name): n for one, other, n in positives(read_model(tmp_path / "m"), stage)}
    expected = expected_pairs(points, views, **rules)
    assert found == expected
    if count is None:
        assert any((b, a) not in found for a, b in found)
    else:
        assert len(found) == count


def test_photos_of_a_model_are_of_one_part_and_models_with_a_common_photo_too(tmp_path):
    for shift in range(3):
        points, views = scene(shift)
        if shift == 2:
            views["0/c.jpg"] = views.pop("2/c.jpg")
        write_binary(tmp_path / "models" / str(shift), points, views)
    names = [f"{shift}/{name}" for shift in range(3) for name in SEEN_FROM]
    paths = [tmp_path / "photos" / name for name in [*names, "unknown.jpg"]]
    stage = ColmapStage(kind="colmap", model=str(tmp_path / "models"), scale=4.0)
    pairs, parts = pairs_of_folder(stage, tmp_path / "photos", paths)
    assert pairs.shape == (13, 13) and pairs[0, 1] > 15 and pairs[0, 4] == 0
    groups = [set(parts[4 * n : 4 * n + 4].tolist()) for n in range(3)]
    assert groups[0] == {parts[0]} and groups[1] == {parts[4]} != groups[0]
    assert groups[2] == {parts[0], -1}  # through 0/c.jpg; 2/c.jpg is in no model
    assert parts[12] == -1
    with pytest.raises(GroundTruthError, match=r"none of its photos, such as 0/.* below .*unlabelled.images"):
        pairs_of_folder(stage, tmp_path, [path.with_suffix(".png") for path in paths])
    elsewhere = stage.model_copy(update={"images": str(tmp_path / "photos")})
    assert (pairs_of_folder(elsewhere, tmp_path, paths)[0] != pairs).nnz == 0


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_cut_binary_file_is_damaged(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("m") / "m"
    write_binary(folder, *scene())
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(GroundTruthError, match=rf"{name}: is damaged"):
        read_model(folder)


def test_counts_are_not_believed(tmp_path):
    write_binary(tmp_path / "m", *scene())
    (tmp_path / "m" / "points3D.bin").write_bytes(struct.pack("<Q", 2**60))
    with pytest.raises(GroundTruthError, match="records cannot follow"):
        read_model(tmp_path / "m")
    (tmp_path / "m" / "cameras.bin").write_bytes(struct.pack("<QIiQQ", 1, 1, 99, 640, 480))
    with pytest.raises(GroundTruthError, match=r"model 99.*model_converter"):
        read_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cameras.txt", "7 PINHOLE 640", r"cameras.txt: line 1 should be CAMERA_ID"),
        ("cameras.txt", "8 PINHOLE 640 480 1 1 1 1", r"images.txt: 0/a 0.jpg is of camera 7"),
        ("images.txt", "1 1 0 0 0 0 0 0 7", r"images.txt: line 1 should be IMAGE_ID"),
        ("images.txt", "1 1 0 0 0 0 0 0 7 a.jpg\n1 2", r"images.txt: line 2 should be X Y POINT3D_ID"),
        ("images.txt", "1 0 0 0 0 0 0 0 7 a.jpg\n1 2 100", r"a.jpg has no pose"),
        ("images.txt", "1 1 0 0 0 0 0 0 7 a.jpg\n1 2 5", r"a.jpg sees point 5, which points3D.txt does not list"),
        ("points3D.txt", "1 2", r"points3D.txt: line 1 should be POINT3D_ID"),
    ],
)
def test_damaged_text_is_named_by_its_line(tmp_path, name, text, message):
    write_text(tmp_path / "m", *scene())
    (tmp_path / "m" / name).write_text(text + "\n")
    with pytest.raises(GroundTruthError, match=message):
        read_model(tmp_path / "m")


def test_a_missing_file_is_named(tmp_path):
    write_text(tmp_path / "m", *scene())
    (tmp_path / "m" / "points3D.txt").unlink()
    with pytest.raises(GroundTruthError, match=r"points3D.txt: there is no such file"):
        read_model(tmp_path / "m")


def test_an_image_without_keypoints_has_an_empty_line(tmp_path):
    points, views = scene()
    name = next(iter(views))
    views[name] = (*views[name][:4], [])
    write_text(tmp_path / "m", points, views)
    model = read_model(tmp_path / "m")
    assert len(model.views) == 4 and [len(v.points) for v in model.views if v.name == name] == [0]
