"""Pictures of scenes made by hand, against geometry that is computed another way."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.learning.procedural.camera import Camera, look  # noqa: E402
from resight.learning.procedural.casting import FAR, cast, world  # noqa: E402
from resight.learning.procedural.rendering import draw  # noqa: E402
from resight.learning.procedural.solids import KINDS, Face, Solid, mapping, solid  # noqa: E402
from resight.learning.procedural.textures import pyramid, textures  # noqa: E402
from resight.learning.procedural.views import Light, View  # noqa: E402

SIDE = 64
CENTRE = ((SIDE - 1) / 2, (SIDE - 1) / 2)


def camera(x, y, z, *, target=(0, 0, 0.5), focal=70.0, roll=0.0):
    return look(np.array([x, y, z], float), np.array(target, float), focal, CENTRE, roll)


def textured(rng, count=1):
    return textures([pyramid(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)], "cpu")


def drawn(cameras, solids, common=None, light=None, surfaces=None):
    light = light or Light()
    views = [View(c, light, s, len(s) if common is None else common) for c, s in zip(cameras, solids, strict=True)]
    surfaces = surfaces or textured(np.random.default_rng(0))
    colours, edges, warp, visible = draw(views, [0] * len(views), surfaces, SIDE, "cpu")
    return colours.numpy(), edges.numpy(), warp.numpy().astype(float), visible.numpy()


def varied(seed) -> list[Solid]:
    """Solids of all kinds, turned at will, round the origin."""
    rng, solids = np.random.default_rng(seed), []
    for number in range(9):
        axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        kind = ("box", "cylinder", "ellipsoid")[number % 3]
        half = rng.uniform(0.1, 0.45, 3)
        solids.append(solid(kind, rng.uniform(-0.8, 0.8, 3), half, Face(0), axes=axes))
    return solids


def inside(solids, points):
    """Which solids hold each of N points: P×N."""
    held = []
    for s in solids:
        p = (points - s.centre) @ s.axes.T / s.half
        held.append(
            {
                "box": np.abs(p).max(1) < 1,
                "cylinder": (np.hypot(p[:, 0], p[:, 1]) < 1) & (np.abs(p[:, 2]) < 1),
                "ellipsoid": (p**2).sum(1) < 1,
            }[s.kind]
        )
    return np.array(held)


def plane_to_picture(cam: Camera):
    """The homography from (x, z, 1) of the plane y = 0: columns of K [R | -R c] but for y's."""
    k = np.array([[cam.focal, 0, cam.centre[0]], [0, cam.focal, cam.centre[1]], [0, 0, 1]])
    p = k @ np.column_stack([cam.axes, -cam.axes @ cam.position])
    return p[:, [0, 2, 3]]


def test_the_warp_of_a_plane_is_its_homography():
    one, other = camera(0.4, -2.0, 0.6), camera(-1.1, -1.6, 1.3, focal=60.0, roll=0.5)
    # The front face lies in y = 0 and goes beyond what either sees.
    board = [solid("box", (0, 0.1, 0.5), (9, 0.1, 9), Face(0))]
    _, edges, warp, visible = drawn([one, other], [board, board])
    h = plane_to_picture(other) @ np.linalg.inv(plane_to_picture(one))
    y, x = np.mgrid[:SIDE, :SIDE]
    for view, m in ((0, h), (1, np.linalg.inv(h))):
        to = np.stack([x, y, np.ones_like(x)], -1) @ m.T
        expected = to[..., :2] / to[..., 2:]
        within = ((expected > -0.5) & (expected < SIDE - 0.5)).all(-1)
        assert 500 < within.sum() < SIDE * SIDE
        near = ((expected > -2) & (expected < SIDE + 1)).all(-1)
        np.testing.assert_allclose(warp[view][near], expected[near], atol=2e-3)
        border = np.abs(expected[..., None] - [-0.5, SIDE - 0.5]).min((-1, -2)) < 0.01
        assert np.array_equal(visible[view] & ~border, within & ~border)
    assert not edges.any()


@pytest.mark.parametrize("seed", [0, 1])
def test_depth_is_that_of_the_first_point_of_a_ray_within_a_solid(seed):
    solids, cam = varied(seed), camera(0.3, -3.0, 0.8, target=(0, 0, 0))
    depth, index = (part.numpy()[0] for part in cast(world([cam], [solids], "cpu"), SIDE))
    rng = np.random.default_rng(3)
    step = 0.004
    ts = np.arange(0.02, 5, step)
    met = 0
    for x, y in rng.integers(0, SIDE, (150, 2)):
        direction = cam.rays @ [x, y, 1]
        held = inside(solids, cam.position + ts[:, None] * direction)
        first = np.flatnonzero(held.any(0))
        if len(first):
            # Grazed solids are shorter than a step.
            assert depth[y, x] < ts[first[0]] + 1e-3
            if depth[y, x] > ts[first[0]] - 2 * step:
                assert held[index[y, x], first[0]]
                met += 1
        just = cam.position + (depth[y, x] + np.array([-1e-3, 1e-3]))[:, None] * direction
        if depth[y, x] < FAR:
            assert not inside(solids, just[:1]).any()
        else:
            assert not len(first)
    assert met > 40


def test_a_ray_along_a_boxs_sides_meets_its_front():
    box = [solid("box", (0, 0, 0.5), (0.5, 0.5, 0.5), Face(0))]
    for x in (-0.2, 0.0, 0.2):
        straight = look(np.array([x, -2.0, 0.5]), np.array([x, 0.0, 0.5]), 70.0, (32.0, 32.0))
        depth = cast(world([straight], [box], "cpu"), SIDE)[0].numpy()[0]
        np.testing.assert_allclose(depth[12:52, 32], 1.5, rtol=1e-6)  # column 32 looks along x = const, row 32 z
        np.testing.assert_allclose(depth[32, 25:39], 1.5, rtol=1e-6)
        _, edges, _, visible = drawn([straight, straight], [box, box])
        assert not edges[0, 12:52, 25:39].any() and visible[0, 12:52, 25:39].all()
    beside = look(np.array([0.6, -2.0, 0.5]), np.array([0.6, 0.0, 0.5]), 70.0, (32.0, 32.0))
    assert (cast(world([beside], [box], "cpu"), SIDE)[0][0, :, 32] == FAR).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_point_is_visible_where_nothing_stands_between_it_and_the_other_camera(seed):
    solids = varied(seed)
    cameras = [camera(0.8, -2.6, 0.5, target=(0, 0, 0)), camera(-1.9, -1.7, 1.0, target=(0, 0, 0), roll=-0.3)]
    _, edges, warp, visible = drawn(cameras, [solids, solids])
    depth = cast(world(cameras, [solids] * 2, "cpu"), SIDE)[0].numpy()
    rng, hidden, seen = np.random.default_rng(5), 0, 0
    for x, y in rng.integers(1, SIDE - 1, (400, 2)):
        if depth[0, y, x] == FAR:
            assert not visible[0, y, x]
            continue
        point = cameras[0].position + depth[0, y, x] * (cameras[0].rays @ [x, y, 1])
        xy, _ = cameras[1].project(point[None])
        np.testing.assert_allclose(warp[0, y, x], xy[0], atol=1e-2)
        column, row = np.round(xy[0]).astype(int)
        if not (0 <= column < SIDE and 0 <= row < SIDE):
            assert not visible[0, y, x]
            continue
        if edges[1, row, column] or edges[0, y, x]:
            continue  # half a pixel decides
        towards = cameras[1].position - point
        between = inside(solids, point + np.linspace(0.004, 1, 1000)[:, None] * towards).any()
        assert visible[0, y, x] == (not between)
        hidden, seen = hidden + bool(between), seen + (not between)
    assert hidden > 8 and seen > 10


def test_a_face_turned_away_is_not_visible_though_its_solid_is_there():
    one, other = camera(1.2, -2, 0.5), camera(2.2, 0.2, 0.5)  # the second is beside the box, and sees its right alone
    box = [solid("box", (0, 0, 0.5), (0.5, 0.5, 0.5), Face(0))]
    _, edges, _, visible = drawn([one, other], [box, box])
    depth = cast(world([one], [box], "cpu"), SIDE)[0].numpy()[0]
    counts = {"front": 0, "right": 0}
    for y, x in np.argwhere((depth < FAR) & ~edges[0]):
        point = one.position + depth[y, x] * (one.rays @ [x, y, 1])
        name = "front" if abs(point[1] + 0.5) < 1e-3 else "right"
        counts[name] += 1
        assert visible[0, y, x] == (name == "right")
    assert min(counts.values()) > 50


def test_what_an_occluder_hides_is_not_visible_and_what_is_beside_it_is():
    one, other = camera(0, -2, 0.5), camera(1.0, -2, 0.5)
    board = solid("box", (0, 0.1, 0.5), (1, 0.1, 1), Face(0))
    post = solid("box", (0.5, -1.0, 0.5), (0.05, 0.05, 0.05), Face(0))  # between the second camera and (0, 0, 0.5)
    _, _, _, visible = drawn([one, other], [[board, post]] * 2)
    pixel = {at: one.project(np.array([[*at]], float))[0][0].round().astype(int) for at in ((0, 0, 0.5), (0, 0, 0.9))}
    (x, y), (x2, y2) = pixel.values()
    assert not visible[0, y, x] and visible[0, y2, x2]
    _, _, _, free = drawn([one, other], [[board], [board]])
    assert free[0, y, x]
    # A second board that takes the first one's place in the other view is not the same board.
    _, _, _, none = drawn([one, other], [[board], [board]], common=0)
    assert not none.any()


def test_there_and_back_is_the_same_pixel():
    solids = varied(4)
    cameras = [camera(0.5, -2.2, 0.5, target=(0, 0, 0)), camera(-0.3, -2.0, 0.8, target=(0, 0, 0))]
    _, edges, warp, visible = drawn(cameras, [solids, solids])
    y, x = np.nonzero(visible[0])
    to = warp[0, y, x]
    # The nearest pixel there is at most half a pixel off in both directions: it comes back as near, by the local scale.
    column, row = to.round().astype(int).T
    calm = visible[1, row, column] & ~edges[1, row, column] & ~edges[0, y, x]
    grid = torch.from_numpy(to[calm] / (SIDE - 1) * 2 - 1)[None, None]
    back = torch.nn.functional.grid_sample(torch.from_numpy(warp[1]).permute(2, 0, 1)[None], grid, align_corners=True)
    error = np.abs(back[0, :, 0].T.numpy() - np.stack([x, y], 1)[calm]).max(1)
    assert calm.sum() > 400
    # Linear between pixels, which a curved surface is not.
    assert np.median(error) < 0.02 and np.quantile(error, 0.9) < 0.2


def test_prints_are_read_from_outside_and_upright():
    print_ = np.zeros((32, 32, 3), np.uint8)
    print_[:16, :16], print_[:16, 16:], print_[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    surfaces = textures([pyramid(print_)], "cpu")
    a, b = SIDE // 2 - 8, SIDE // 2 + 7
    viewpoints = {
        "front": camera(0, -2, 0.5), "right": camera(2, 0, 0.5), "back": camera(0, 2, 0.5), "left": camera(-2, 0, 0.5),
    }  # fmt: skip
    for kind in ("box", "cylinder", "ellipsoid"):
        for name, cam in viewpoints.items():
            turn = {"front": 0, "right": math.pi / 2, "back": math.pi, "left": -math.pi / 2}[name]
            one = [solid(kind, (0, 0, 0.5), (0.5, 0.5, 0.5), Face(0), turn=0 if kind == "box" else turn)]
            colours, *_ = drawn([cam, cam], [one, one], surfaces=surfaces)
            shown = [colours[0, :, y, x].round().tolist() for y, x in ((a, a), (a, b), (b, a), (b, b))]
            assert shown == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], (kind, name)


def test_ambient_light_from_below_and_highlights_are_their_closed_forms():
    white = textures([pyramid(np.full((8, 8, 3), 255, np.uint8))], "cpu")
    floor = [solid("box", (0, 0, -0.1), (9, 9, 0.1), Face(0, gloss=0.5))]
    wall = [solid("box", (0, 0.1, 0.5), (9, 0.1, 9), Face(0))]
    dim = Light(ambient=(0.4, 0.4, 0.4), ground=0.25)
    cam = camera(0, -3, 3, target=(0, 0, 0), focal=60)
    level = camera(0, -3, 0.5)
    of_floor, of_wall = (
        drawn([c] * 2, [s] * 2, light=dim, surfaces=white)[0] for c, s in ((cam, floor), (level, wall))
    )
    assert of_floor == pytest.approx(0.4) and of_wall == pytest.approx(0.4 * (1 + 0.25) / 2)
    towards = np.array([0.2, 0.5, 0.0])
    towards[2] = math.sqrt(1 - (towards**2).sum())
    sun = Light(tuple(towards.tolist()), (0, 0, 0), (0.5, 0.5, 0.5))
    colours = drawn([cam] * 2, [floor] * 2, light=sun, surfaces=white)[0][0, 0]
    depth = cast(world([cam], [floor], "cpu"), SIDE)[0].numpy()[0]
    shines = []
    for y, x in np.ndindex(SIDE, SIDE):
        eye = -(cam.rays @ [x, y, 1]) * depth[y, x]
        half = towards + eye / np.linalg.norm(eye)
        shines.append((half[2] / np.linalg.norm(half)) ** 32)
    np.testing.assert_allclose(colours.ravel(), 0.5 * (towards[2] + 0.5 * np.array(shines)), atol=2e-3)
    assert max(shines) > 0.9 and min(shines) < 0.2


@pytest.mark.parametrize(("kind", "half"), [("ellipsoid", (0.7, 0.3, 0.45)), ("cylinder", (0.7, 0.3, 0.45))])
def test_curved_surfaces_are_lit_by_the_gradient_of_their_equation(kind, half):
    white = textures([pyramid(np.full((8, 8, 3), 255, np.uint8))], "cpu")
    towards = np.array([0.6, -0.64, 0.48])
    thing, cam = [solid(kind, (0, 0, 0.5), half, Face(0))], camera(0.3, -2.2, 0.5)
    light = Light(tuple(towards.tolist()), (0, 0, 0), (1, 1, 1))
    colours = drawn([cam] * 2, [thing] * 2, light=light, surfaces=white)[0][0, 0]
    depth = cast(world([cam], [thing], "cpu"), SIDE)[0].numpy()[0]
    shown = np.argwhere(depth < FAR)
    assert len(shown) > 300
    for y, x in shown:
        point = cam.position + depth[y, x] * (cam.rays @ [x, y, 1]) - (0, 0, 0.5)
        normal = point / np.square(half) * (1, 1, kind == "ellipsoid")
        lit = max(0.0, normal @ towards / np.linalg.norm(normal))
        assert colours[y, x] == pytest.approx(lit, abs=3e-3)


def test_textures_far_off_are_their_mean_and_near_by_themselves():
    checks = np.repeat((255 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    surfaces = textures([pyramid(checks)], "cpu")
    wall = [solid("box", (0, 0.1, 0.5), (2, 0.1, 2), Face(0))]  # 16 texels to a unit
    near, far = camera(0, -0.5, 0.5), camera(0, -14, 0.5)
    # Read bilinearly, a board of checks is (1 + t(x) t(y)) / 2, t going evenly from -1 to 1 and back: of variance 1/36.
    for cam, deviation, part in ((near, 1 / 6, slice(None)), (far, 0.0, slice(28, 36))):
        values = np.sqrt(drawn([cam] * 2, [wall] * 2, surfaces=surfaces)[0][0, 0, part, part])
        assert values.std() == pytest.approx(deviation, abs=0.02)
        assert values.mean() == pytest.approx(0.5, abs=0.02)


def test_densities_of_textures_are_of_the_faces_areas():
    made = [solid(kind, (0, 0, 0), (0.3, 0.5 if kind == "box" else 0.3, 0.8), Face(0, (3, 2))) for kind in KINDS[:2]]
    box, cylinder = mapping(made)[2]
    areas = np.array([1.0 * 1.6] * 2 + [0.6 * 1.6] * 2 + [0.6 * 1.0] * 2)
    np.testing.assert_allclose(box, np.sqrt(6 / areas))
    assert cylinder[3] == pytest.approx(math.sqrt(6 / (2 * math.pi * 0.3 * 1.6)))


def test_light_follows_lamberts_law_and_shadows_fall_away_from_the_sun():
    white = textures([pyramid(np.full((8, 8, 3), 255, np.uint8))], "cpu")
    floor = solid("box", (0, 0, -0.1), (9, 9, 0.1), Face(0))
    ball = solid("ellipsoid", (0, 0, 0.5), (0.3, 0.3, 0.3), Face(0))
    towards = (math.sin(0.6), 0.0, math.cos(0.6))
    light = Light(towards, (0.1, 0.1, 0.1), (0.5, 0.6, 0.7), 1.0, shadows=True)
    cam = camera(0, -3, 3, target=(0, 0, 0), focal=40)
    colours, *_ = drawn([cam, cam], [[floor, ball]] * 2, light=light, surfaces=white)
    # The ball's shadow is about where the line through its middle meets the floor.
    for point, lit in (((-0.5 * math.tan(0.6), 0, 0), 0.0), ((1.0, -0.5, 0), math.cos(0.6))):
        x, y = cam.project(np.array([point], float))[0][0].round().astype(int)
        np.testing.assert_allclose(colours[0, :, y, x], 0.1 + lit * np.array([0.5, 0.6, 0.7]), atol=1e-3)
