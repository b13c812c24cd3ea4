"""Pictures altered within ε: where the best alteration is known in closed form, and where a model learns from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.learning.adversarial import AdversarialStage, harden, projected_gradient  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.datasets.pictures import numbered  # noqa: E402
from resight.learning.embedding_task import EmbeddingTask  # noqa: E402
from resight.learning.model import make_model  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.learning.task import Batch, Lesson  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.recipes.recipe import load_recipe  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

NETWORK = "test_resnet.r160_in1k"


@given(epsilon=st.integers(1, 16), steps=st.integers(4, 12), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_linear_loss_is_least_in_a_corner_of_what_is_allowed(epsilon, steps, seed):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 3, 4, 5), np.uint8))
    slope = torch.from_numpy(rng.choice([-1.0, 2.0], (2, 3, 4, 5))).float()
    found = projected_gradient(
        lambda x, _: (slope * x).sum(dim=(1, 2, 3)), pixels, epsilon=epsilon, steps=steps, seeds=[seed, 7]
    )
    expected = (pixels.int() - epsilon * slope.sign().int()).clamp(0, 255)
    assert torch.equal(found.int(), expected)


def test_the_best_place_on_the_way_is_kept_and_draws_are_averaged():
    """A loss that falls, then rises again far above the start: each draw misleads, their mean does not."""
    pixels = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    seen = []

    def loss_of(x, draw):
        seen.append(draw)
        noise = 1000.0 if draw % 2 else -1000.0
        return ((x - 97.2).square() + noise * x).mean(dim=(1, 2, 3))

    found = projected_gradient(loss_of, pixels, epsilon=8, steps=10, seeds=[0], draws=2)
    assert seen == list(range(22))
    assert (found.int() - 97).abs().max() <= 2
    one = projected_gradient(lambda x, _: loss_of(x, 0), pixels, epsilon=8, steps=10, seeds=[0])
    assert (one == 108).all()  # the one draw alone leads to the border


def test_each_picture_has_its_own_start():
    pixels = torch.full((2, 3, 6, 6), 128, dtype=torch.uint8)
    flat = {"epsilon": 4, "steps": 1}
    both = projected_gradient(lambda x, _: x.sum(dim=(1, 2, 3)) * 0, pixels, seeds=[3, 5], **flat)
    alone = projected_gradient(lambda x, _: x.sum(dim=(1, 2, 3)) * 0, pixels[1:], seeds=[5], **flat)
    assert torch.equal(both[1:], alone) and not torch.equal(both[0], both[1])


@pytest.fixture(scope="module")
def stage(weights_of):
    table = {"network": NETWORK, "weights": str(weights_of(NETWORK)), "scales": [1.0], "whiten": "none"}
    return GlobalStage.model_validate(table | {"max_side": 64, "dimensions": 96})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, pictures, view, save):
    folder = tmp_path_factory.mktemp("set")
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        for seed in range(3):
            save(folder / name / f"{seed}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::3, ::3]))
    return load_labelled(folder)


def make_task(stage, labelled, **changes):
    small = {"side": 64, "chunk": 5, "sampling": {"classes": 3, "each": 3}, "augment": NONE.model_dump()}
    made = load_settings(None, **(small | changes))
    model = make_model(stage, weights=None, learns=made.learns, recipe_name="r", seed=0)
    return EmbeddingTask(model, Lesson(training_set(labelled), None, made))


def test_what_is_hardened_moves_further_than_noise_and_the_rest_stays(stage, labelled):
    task = make_task(stage, labelled)
    pictures = [task.pictures.picture(place, 0) for place in range(4)]
    pictures[3] = pictures[3][:, :32]  # another size goes by itself
    found = harden(task.model, pictures, [1, 3], AdversarialStage(epsilon=4, steps=5), [10, 11])
    assert found[0] is pictures[0] and found[2] is pictures[2]
    noise = torch.from_numpy(np.random.default_rng(0).choice([-4, 4], (3, 64, 64)))
    noisy = (pictures[1].int() + noise).clamp(0, 255).to(torch.uint8)

    def cosine(a, b):
        with torch.no_grad():
            return float((task.model(a[None]) * task.model(b[None])).sum())

    for place in (1, 3):
        assert found[place].dtype == torch.uint8 and found[place].shape == pictures[place].shape
        assert (found[place].int() - pictures[place].int()).abs().max() <= 4
    assert 1 - cosine(found[1], pictures[1]) > 50 * (1 - cosine(noisy, pictures[1]))
    assert not any(p.grad is not None for p in task.model.parameters())


@pytest.mark.parametrize("tuples", [None, np.array([[4, 0, 8], [4, 1, 8], [2, 3, 7]])])
def test_a_task_learns_from_hardened_anchors_whatever_the_chunk(stage, labelled, tuples):
    """The loss and its gradient are those of the batch with anchors altered by hand."""
    changes = {"adversarial": {"epsilon": 4, "steps": 2}, "loss": {"kind": "triplet"}}
    if tuples is None:
        changes["loss"] = {"kind": "siamese"}
    task, whole = (make_task(stage, labelled, chunk=chunk, **changes) for chunk in (4, 64))
    batch = Batch(task.batches(0)[0].places, tuples)
    labels = task.photos.labels[batch.places]
    rows = [0, 3, 6] if tuples is None else [2, 4]
    if tuples is None:
        assert [int(np.flatnonzero(labels == label)[0]) for label in dict.fromkeys(labels.tolist())] == rows
    copies = numbered(batch.places)
    pictures = [task.pictures.picture(place, 0, copy) for place, copy in copies]
    seeds = [int(np.random.SeedSequence([0, 7, *copies[row]]).generate_state(1)[0]) for row in rows]
    altered = harden(task.model, pictures, rows, task.settings.adversarial, seeds)
    assert [n for n, (a, b) in enumerate(zip(altered, pictures, strict=True)) if not torch.equal(a, b)] == rows
    x = task.model(torch.stack(altered))
    given = None if tuples is None else tuple(torch.from_numpy(np.ascontiguousarray(t)) for t in tuples.T)
    loss = task.loss(x, torch.from_numpy(labels), given)
    loss.backward()
    wanted = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    for made in (task, whole):
        made.module.zero_grad()
        figures = made.backward(batch, 0, 7, lambda value: value.backward())
        assert figures["loss"] == pytest.approx(loss.item(), rel=1e-4)
        for name, expected in wanted.items():
            found = dict(made.model.named_parameters())[name].grad
            torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()) + 1e-9, rtol=0)


def test_settings_refuse_what_does_not_go_with_it(tmp_path):
    with pytest.raises(RecipeError, match="say views = 0"):
        load_settings(None, adversarial={}, views=2)
    with pytest.raises(RecipeError, match="epsilon"):
        load_settings(None, adversarial={"epsilon": 0})
    assert "adversarial" not in load_settings(None).identity
    assert load_settings(None, adversarial={"steps": 1}).identity["adversarial.steps"] == 1
    from resight.learning.schemes import SCHEMES

    with pytest.raises(RecipeError, match="trained without adversarial"):
        SCHEMES["delf"](load_recipe("delf"), load_settings(None, adversarial={}, loss={"kind": "arcface"}))
