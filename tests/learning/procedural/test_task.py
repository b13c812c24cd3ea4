"""The compact network learns from rendered pictures: what a step is, with a teacher and without, and going on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from resight.errors import RecipeError
from resight.learning.launch import launch
from resight.learning.log import read_log
from resight.learning.procedural.corners import UNKNOWN, cell_targets, corner_response, shared_response
from resight.learning.procedural.distil import Teacher, regression
from resight.learning.procedural.scenes import Rendering, Scenes, render
from resight.learning.procedural.task import ProceduralTask
from resight.learning.procedural.training import ProceduralTraining, Teaching
from resight.learning.trainer import run
from resight.networks.compact import Compact, CompactMaps

NETWORK = "test_resnet.r160_in1k"


def settings(**changes):
    small = {
        "epochs": 2,
        "steps": 3,
        "subjects": 4,
        "side": 64,
        "precision": "32-true",
        "accelerator": "cpu",
        "renderers": 0,
        "held_out": 3,
        "warm_up": 0,
        "checkpoint_every": 2,
        "local": {"points": 24},
    }
    return ProceduralTraining.model_validate(small | changes)


def made(chosen, teacher=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProceduralTask(Compact(), chosen, teacher, None)


def trained(fabric, chosen, folder, resume=False, stop=None):
    """The module's state after training. stop: the step after which it breaks off as in a crash."""
    torch.set_num_threads(1)
    task, done = made(chosen), []

    def progress(phase, place, total):
        done.append(phase)
        if len(done) == stop:
            raise RuntimeError("crash")

    try:
        run(task, chosen, folder, fabric, identity=chosen.identity, resume=resume, progress=progress)
    finally:
        task.close()
    return task.module.state_dict()


def test_the_loss_is_the_weighted_sum_of_the_figures():
    chosen = settings(local={"points": 24, "descriptors": 0.5, "reliability": 2.0, "keypoints": 0.0})
    chosen = chosen.model_copy(update={"vector": chosen.vector.model_copy(update={"weight": 3.0})})
    task = made(chosen)
    figures = task.backward(task.batches(0)[0], 0, 0, lambda loss: loss.backward())
    parts = 0.5 * figures["descriptors"] + 2 * figures["reliability"] + 3 * figures["vector"]
    assert figures["loss"] == pytest.approx(parts, rel=1e-5)
    without = {name for name, x in task.network.named_parameters() if x.grad is None or not x.grad.any()}
    assert without == {name for name, _ in task.network.named_parameters() if name.startswith("cells.")}


def test_keypoints_are_learned_where_they_are_known_and_each_picture_its_own():
    task = made(settings(side=96))
    scenes = render(0, 0, 2, 96)
    how, images = task.settings.local, scenes.images
    response = torch.stack([corner_response(pair, how.sigma) for pair in images])
    shared = shared_response(response, scenes.warp, scenes.visible)
    order = [(pair, view) for view in range(2) for pair in range(2)]  # of a batch: view 0 of all, then view 1
    wanted = torch.stack(
        [
            cell_targets(shared[p, v][None], response[p, v][None], scenes.visible[p, v][None], how.quality)[0]
            for p, v in order
        ]
    )
    assert (wanted == UNKNOWN).float().mean() > 0.02 and len(wanted[wanted >= 0].unique()) > 20
    with torch.no_grad():
        maps = task.network(images.transpose(0, 1).flatten(0, 1))
    blind, sure = torch.zeros_like(maps.keypoints), torch.zeros_like(maps.keypoints)
    sure.scatter_(1, wanted.clamp(min=0)[:, None], 50.0)
    draw = torch.Generator().manual_seed(0)
    losses = [task._local(scenes, replace(maps, keypoints=logits), draw)[1]["keypoints"] for logits in (blind, sure)]
    assert losses == pytest.approx([math.log(65), 0.0], abs=1e-4)


def test_descriptors_are_compared_where_the_same_point_is_seen():
    draw, side = torch.Generator().manual_seed(0), 96
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grid, cell = torch.stack([x, y], dim=-1).float(), torch.tensor([8.0, 0.0])
    warp = torch.stack([grid + cell, grid - cell]).expand(2, 2, side, side, 2)
    visible = torch.stack([(x >= 4) & (x < side - 12), (x >= 12) & (x < side - 4)]).expand(2, 2, side, side)
    scenes = Scenes(torch.rand(2, 2, 3, side, side, generator=draw), warp, visible, torch.arange(2))
    first = torch.nn.functional.normalize(torch.randn(2, 64, 12, 12, generator=draw), dim=1)
    second = first.roll(1, dims=3)  # the first moved by a cell, as the second view is
    relied = torch.tensor([4.0, 4, -1, -1]).reshape(4, 1, 1, 1).expand(4, 1, 12, 12)
    maps = CompactMaps(torch.cat([first, second]), torch.zeros(4, 65, 12, 12), relied, torch.zeros(1))
    figures = made(settings(side=side))._local(scenes, maps, draw)[1]
    assert figures["right"] == 1 and figures["descriptors"] < 0.01
    assert figures["reliability"] == pytest.approx((math.log1p(math.exp(-4)) + math.log1p(math.exp(1))) / 2, rel=1e-4)


def test_it_learns():
    task = made(settings())
    optimiser = torch.optim.Adam(task.module.parameters(), 3e-3)
    figures = []
    for _ in range(12):  # of one batch: others differ in difficulty by more than so few steps teach
        optimiser.zero_grad()
        figures.append(task.backward(task.batches(0)[0], 0, 0, lambda loss: loss.backward()))
        optimiser.step()
    for name in ("loss", "descriptors", "keypoints", "vector"):
        assert figures[-1][name] < 0.8 * figures[0][name]
    assert figures[-1]["right"] > 3 * figures[0]["right"]


@pytest.mark.parametrize("renderers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_that_broke_off_goes_on_to_the_same_weights(tmp_path, renderers):
    chosen = settings(renderers=renderers)
    whole = launch(chosen, trained, chosen, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        launch(chosen, trained, chosen, tmp_path / "broken", False, 5)
    again = launch(chosen, trained, chosen, tmp_path / "broken", True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert (tmp_path / "whole/log.csv").read_bytes() == (tmp_path / "broken/log.csv").read_bytes()
    validations = [row for row in read_log(tmp_path / "whole/log.csv") if row["part"] == "validation"]
    assert len(validations) == 3 and {"held out", "matching score", "precision", "recall"} <= validations[0].keys()


def test_no_subject_comes_twice_nor_in_validation_and_each_process_takes_its_share(monkeypatch):
    task = made(settings(subjects=4))
    numbers = np.concatenate([batch.places for epoch in range(2) for batch in task.batches(epoch)])
    assert numbers.tolist() == list(range(2 * 3 * 4))
    task.validate()
    ours = render(0, 0, 3, 64).images  # of the seed that is learned from
    assert not any(torch.equal(one, other) for one in task._held_out.images for other in ours)
    monkeypatch.setattr("resight.learning.procedural.task.ranks", lambda: (1, 2))
    assert task._scenes(task.batches(1)[0].places).subject.tolist() == [14, 15]


def test_echoes_use_a_batch_again_altered_and_ranges_grow_by_steps(monkeypatch):
    chosen = settings(epochs=2, steps=3, subjects=4, echoes=2, growth=1.0)
    task = made(chosen)
    plan = [batch for epoch in range(2) for batch in task.batches(epoch)]
    assert [int(batch.places[0]) for batch in plan] == [0, 0, 4, 4, 8, 8] and chosen.batches == 3
    seen = []
    local = task._local
    monkeypatch.setattr(task, "_local", lambda scenes, *rest: seen.append(scenes) or local(scenes, *rest))
    for step, batch in enumerate(plan[:4]):
        task.backward(batch, 0, step, lambda loss: None)
    own = render(0, 4, 4, 64, settings=chosen.rendering_at(2))
    assert torch.equal(seen[2].images, own.images) and torch.equal(seen[2].warp, own.warp)
    for first, again in (seen[:2], seen[2:]):
        assert again is not first and torch.equal(again.subject, first.subject)
        assert float(again.images.sum()) == pytest.approx(float(first.images.sum()), rel=1e-5)
    assert not all(torch.equal(first.images, again.images) for first, again in (seen[:2], seen[2:]))


def test_viewpoints_grow_to_the_whole_range():
    chosen = settings(epochs=2, steps=10, growth=0.5, ease=0.2, rendering={"azimuth": 40, "filled": [0.25, 4]})
    seen = [chosen.rendering_at(step) for step in range(20)]
    assert [each.azimuth for each in seen[:11]] == pytest.approx([8 + 3.2 * step for step in range(11)])
    assert seen[5].filled == pytest.approx((4**-0.6, 4**0.6))
    assert all(each == chosen.rendering for each in seen[10:])
    assert settings(growth=0).rendering_at(0) == Rendering()
    task = made(chosen)
    found, wanted = task._scenes(np.arange(8, 12)), render(0, 8, 4, 64, settings=seen[2])
    assert torch.equal(found.warp, wanted.warp) and torch.equal(found.images, wanted.images)


@pytest.fixture(scope="module")
def teaching():
    return Teaching(network=NETWORK, dimensions=8, fitted_on=12, pictures=6, p=2.5)


def teacher_of(weights, how, side=64):
    return Teacher(weights, how, seed=5, rendering=Rendering(), side=side, device=torch.device("cpu"))


def test_a_teachers_vectors_are_gem_on_principal_axes(weights_of, teaching):
    from resight.networks.backbone import load_backbone

    found = teacher_of(weights_of(NETWORK), teaching)(render(9, 0, 2, 64).images.flatten(0, 1)).numpy()
    backbone = load_backbone(NETWORK, weights=weights_of(NETWORK))

    def pooled(images):
        return (backbone(images)[0].numpy().clip(1e-6) ** 2.5).mean(axis=(2, 3)) ** (1 / 2.5)

    fitted = pooled(render(5, 0, 12, 64).images.flatten(0, 1))
    axes = np.linalg.svd(fitted - fitted.mean(axis=0))[2][:8]
    wanted = (pooled(render(9, 0, 2, 64).images.flatten(0, 1)) - fitted.mean(axis=0)) @ axes.T
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=2e-3)  # axes have no sign of their own


def test_the_vector_learns_what_a_teacher_says(weights_of, teaching):
    chosen = settings(teaching=teaching.model_dump() | {"relations": 0.5}, rate=1e-3)
    task = made(chosen, teacher_of(weights_of(NETWORK), teaching))
    optimiser = torch.optim.Adam(task.module.parameters(), 1e-3)
    batch, figures = task.batches(0)[0], []
    for _ in range(8):
        optimiser.zero_grad()
        figures.append(task.backward(batch, 0, 0, lambda loss: loss.backward()))
        optimiser.step()
    assert figures[-1]["regression"] < 0.9 * figures[0]["regression"]
    assert figures[-1]["relations"] < figures[0]["relations"]
    assert not any(name.startswith("network.teaching") for name in task.module.state_dict())


def test_regression_is_one_less_the_cosine():
    x, wanted = torch.eye(3), torch.nn.functional.normalize(torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, -1]]), dim=1)
    assert float(regression(torch.nn.Identity(), x, wanted)) == pytest.approx((1 - 0.5**0.5 + 0 + 2) / 3)


def test_a_teacher_that_will_not_do(weights_of, teaching):
    with pytest.raises(RecipeError, match="no map"):
        teacher_of(weights_of(NETWORK), teaching.model_copy(update={"layer": "pooled"}))
    with pytest.raises(RecipeError, match="cannot be read"):
        teacher_of(weights_of(NETWORK).with_name("other.safetensors"), teaching)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side": 100}, "multiple of 32"),
        ({"teaching": {"dimensions": 24, "fitted_on": 12}}, "fitted_on"),
        ({"subjects": 5, "devices": 2}, "evenly"),
        ({"local": {"point": 3}}, "point"),
    ],
)
def test_settings_that_contradict_one_another(changes, said):
    with pytest.raises(ValueError, match=said):
        settings(**changes)
