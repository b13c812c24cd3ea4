"""Subjects rendered twice: what they depend on, and that the pictures agree with the correspondences."""

import numpy as np
import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")

from resight.learning.procedural import Rendering, render  # noqa: E402
from resight.learning.procedural.pool import pool  # noqa: E402
from resight.learning.procedural.settings import PLAIN  # noqa: E402
from resight.learning.procedural.staging import SHAPE, generator, model, staged  # noqa: E402
from resight.learning.procedural.subject import Wants  # noqa: E402
from resight.learning.procedural.subjects import subject  # noqa: E402

SIDE = 48


def same(one, other):
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("images", "warp", "visible"))


@pytest.fixture(scope="module")
def scenes():
    return render(3, 10, 8, SIDE)


def test_shapes_and_ranges(scenes):
    assert scenes.images.shape == (8, 2, 3, SIDE, SIDE) and scenes.images.dtype == torch.float32
    assert scenes.warp.shape == (8, 2, SIDE, SIDE, 2) and scenes.warp.dtype == torch.float32
    assert scenes.visible.shape == (8, 2, SIDE, SIDE) and scenes.visible.dtype == torch.bool
    assert scenes.subject.tolist() == list(range(10, 18)) and scenes.subject.dtype == torch.int64
    assert scenes.images.min() >= 0 and scenes.images.max() <= 1 and scenes.warp.isfinite().all()
    seen = scenes.warp[scenes.visible]
    assert len(seen) and seen.min() >= -0.5 and seen.max() <= SIDE - 0.5
    # No picture is empty.
    assert scenes.images.std(dim=(2, 3, 4)).min() > 0.03


def test_a_subject_is_the_same_to_the_last_bit_whatever_the_batch(scenes):
    for first, count in ((12, 1), (11, 4)):
        some, place = render(3, first, count, SIDE), first - 10
        for part in ("images", "warp", "visible", "subject"):
            assert torch.equal(getattr(some, part), getattr(scenes, part)[place : place + count])
    assert not torch.equal(render(4, 12, 1, SIDE).images, scenes.images[2:3])
    assert not torch.equal(scenes.images[0], scenes.images[1])


def test_what_is_done_to_the_pictures_leaves_the_geometry(scenes):
    other = render(
        3, 10, 8, SIDE, settings=Rendering(noisy=1, noise=0.2, jpeg=1, quality=(10, 20), defocus=1, motion=1)
    )
    assert torch.equal(other.warp, scenes.warp) and torch.equal(other.visible, scenes.visible)
    assert (other.images != scenes.images).flatten(1).any(1).all()


def test_corresponding_pixels_have_the_same_colour_in_even_light():
    scenes = render(5, 0, 10, 96, settings=PLAIN)
    agree, differ = [], []
    for pair, warp, visible in zip(scenes.images, scenes.warp, scenes.visible, strict=True):
        grid = (warp[0] / 95 * 2 - 1)[None]
        there = torch.nn.functional.grid_sample(pair[1][None], grid, align_corners=True)[0]
        # Where a picture is smooth, so that it matters little how the two sample it.
        blurred = torch.nn.functional.avg_pool2d(pair[:1], 3, 1, 1)[0]
        calm = visible[0] & ((pair[0] - blurred).abs().amax(0) < 0.03)
        agree.append((there - pair[0]).abs().amax(0)[calm])
        differ.append((there.roll(17, 2) - pair[0]).abs().amax(0)[calm])
    agree, differ = torch.cat(agree), torch.cat(differ)
    assert len(agree) > 5000
    assert agree.median() < 0.02 and agree.quantile(0.75) < 0.07 and differ.quantile(0.75) > 0.2


def test_twins_have_the_shape_of_the_one_before_and_another_print():
    settings = Rendering(twins=1.0, shared=0.0)
    assert [model(0, n, settings) for n in (0, 1, 5)] == [0, 0, 0]
    assert [model(0, n, Rendering(twins=0.0)) for n in (0, 1, 5)] == [0, 1, 5]
    chance = [model(0, n, Rendering(twins=0.3)) < n for n in range(1, 400)]
    assert 0.2 < np.mean(chance) < 0.4
    surfaces = pool(0)
    (one, _), prints = staged(0, 0, SIDE, settings, surfaces)
    (other, _), others = staged(0, 1, SIDE, settings, surfaces)
    assert one.common == other.common  # the subject, where the surroundings are not shared
    thing = one.solids[: one.common]
    for a, b in zip(thing, other.solids, strict=False):
        assert np.array_equal(a.centre, b.centre)
        assert a.kind == b.kind and np.array_equal(a.half, b.half) and np.array_equal(a.axes, b.axes)
        assert a.faces == b.faces
    used = {face.texture for a in thing for face in a.faces}
    large = [n for n in used if len(prints[n]) > len(surfaces.pyramid(0))]
    assert large and all(not np.array_equal(prints[n], others[n]) for n in large)
    apart = staged(0, 1, SIDE, Rendering(twins=0.0), surfaces)[0][0]
    assert any(not np.array_equal(a.half, b.half) for a, b in zip(thing, apart.solids, strict=False))


def holds(thing, points):
    """Which of N points a solid holds."""
    p = np.abs((points - thing.centre) @ thing.axes.T / thing.half)
    return {
        "box": p.max(1) < 1,
        "cylinder": (np.hypot(p[:, 0], p[:, 1]) < 1) & (p[:, 2] < 1),
        "ellipsoid": (p**2).sum(1) < 1,
    }[thing.kind]


def test_what_is_round_a_subject_neither_holds_a_camera_nor_hides_its_middle():
    settings, surfaces, others = Rendering(shared=0.0, clutter=24, occluders=8, twins=0.0), pool(0), 0
    for number in range(12):
        thing = subject(generator(0, number, SHAPE), Wants(), settings)
        for view in staged(0, number, SIDE, settings, surfaces)[0]:
            line = np.array(thing.middle) - view.camera.position
            for other in view.solids[view.common :]:
                between = view.camera.position + np.linspace(0, 1, 400)[:, None] * line
                assert not holds(other, between[:-1]).any()
            others += len(view.solids) - view.common
    assert others > 60


def test_subjects_fill_the_share_of_the_picture_that_is_asked_for():
    facades = {"facades": 1.0, **dict.fromkeys(("prints", "boxes", "cans", "balls", "groups"), 0.0)}  # of any size

    def extents(filled):
        found = []
        for number in range(10):
            settings = Rendering(shared=0.0, twins=0.0, filled=(filled, filled), azimuth=10, roll=0, **facades)
            for view in staged(2, number, SIDE, settings, pool(2))[0]:
                corners = np.concatenate([s.corners() for s in view.solids[: view.common]])
                xy = view.camera.project(corners)[0]
                found.append(np.ptp(xy, axis=0).max() / SIDE)
        return np.array(found)

    small, large = extents(0.2), extents(0.4)
    assert np.median(small) == pytest.approx(0.2, rel=0.25)
    assert np.median(large / small) == pytest.approx(2, rel=0.2)


def test_shared_surroundings_correspond_and_others_do_not():
    alone, shared = (render(1, 0, 6, SIDE, settings=Rendering(shared=chance)) for chance in (0.0, 1.0))
    assert alone.visible.float().mean() < 0.8 * shared.visible.float().mean()
    assert shared.visible.flatten(1).float().mean(1).min() > 0.02


def test_wrong_arguments_are_named():
    for wrong in ((-1, 0, 1, 32), (0, -1, 1, 32), (0, 0, 0, 32), (0, 0, 1, 8)):
        with pytest.raises(ValueError, match="must be at least"):
            render(*wrong)
    with pytest.raises(ValidationError, match="fog"):
        Rendering(fog=1)
    with pytest.raises(ValidationError, match="smaller first"):
        Rendering(filled=(1.0, 0.5))
    with pytest.raises(ValidationError, match="one must be more than 0"):
        Rendering(prints=0, boxes=0, cans=0, balls=0, facades=0, groups=0)


def test_sides_need_not_be_multiples_of_tiles():
    assert render(0, 0, 1, 40).images.shape[-1] == 40
    assert not same(render(0, 0, 1, 40), render(0, 1, 1, 40))
