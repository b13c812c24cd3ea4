"""A network learns descriptors of a few rendered objects; what it is validated by is what the recipe gives."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import GroundTruthError, RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.evaluation.metrics import average_precision, positive_ranks  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.photos import split_by_object, training_set  # noqa: E402
from resight.learning.datasets.pictures import numbered  # noqa: E402
from resight.learning.embedding_task import EmbeddingTask  # noqa: E402
from resight.learning.launch import launch  # noqa: E402
from resight.learning.log import read_log  # noqa: E402
from resight.learning.model import make_model  # noqa: E402
from resight.learning.model_settings import Learns  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.learning.sizes import side_for  # noqa: E402
from resight.learning.task import Batch, Lesson  # noqa: E402
from resight.learning.trainer import run  # noqa: E402
from resight.learning.validate import Validation, readable_part  # noqa: E402
from resight.learning.views import KeptViews  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402

NETWORK = "test_resnet.r160_in1k"
PLAIN = NONE.model_dump()
SMALL = {
    "side": 64,
    "chunk": 5,
    "epochs": 2,
    "rate": 0.002,
    "accelerator": "cpu",
    "sampling": {"classes": 4, "each": 3},
    "augment": {**PLAIN, "scale": (0.7, 1.0)},
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """GeM over the last map of a tiny network with random weights."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.save_file(create_network(NETWORK).state_dict(), file)
    table = {"network": NETWORK, "weights": str(file), "pooling": "gem", "scales": [1.0], "whiten": "none"}
    return GlobalStage.model_validate(table | {"max_side": 64, "dimensions": 96})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, pictures, view, save):
    """Six objects of four views each, 96 pixels on the longest side."""
    folder = tmp_path_factory.mktemp("set")
    for name in ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon"):
        for seed in range(4):
            seen, _ = view(pictures[name], seed)
            save(folder / name / f"{seed}.png", np.ascontiguousarray(seen[::3, ::3]))
    return load_labelled(folder)


@pytest.fixture
def task(stage, labelled):
    """Makes a task of settings."""

    def make(held_out=None, learns=None, **changes):
        settings = load_settings(None, **(SMALL | changes), learns=learns or {})
        lesson = Lesson(training_set(labelled), held_out, settings)
        model = make_model(stage, weights=None, learns=settings.learns, recipe_name="r", seed=settings.seed)
        return EmbeddingTask(model, lesson)

    return make


def gradients(task, batch, step=0):
    task.module.zero_grad()
    figures = task.backward(batch, 0, step, lambda loss: loss.backward())
    return figures, {n: p.grad.clone() for n, p in task.module.named_parameters() if p.grad is not None}


def close(found, wanted, rtol=1e-4):
    assert found.keys() == wanted.keys() and found
    for name in wanted:
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(found[name], wanted[name], atol=rtol * max(scale, 1e-7), rtol=0)


def test_it_is_the_loss_of_the_models_descriptors(task):
    """By hand: all pairs of Eq. 13, the whole batch through the model at once."""
    made = task()
    batch = made.batches(0)[0]
    figures, found = gradients(made, batch)
    made.module.zero_grad()
    pictures = torch.stack([made.pictures.picture(place, 0) for place in batch.places.tolist()])
    x = made.model(pictures)
    labels = torch.from_numpy(made.photos.labels[batch.places])
    terms = []
    for i in range(len(x)):
        for j in range(len(x)):
            d = (x[i] - x[j]).square().sum()
            if i != j:
                terms.append(d / 2 if labels[i] == labels[j] else (0.7 - d).clamp_min(0) / 2)
    loss = torch.stack(terms).mean()
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    close(found, {n: p.grad for n, p in made.module.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("kind", ["triplet", "arcface", "smooth-ap", "entropy-siamese", "quartet"])
def test_a_chunk_more_or_less_changes_nothing(task, kind):
    one, many = task(loss={"kind": kind}, chunk=64), task(loss={"kind": kind}, chunk=5)
    batch = one.batches(0)[0]
    (a, wanted), (b, found) = gradients(one, batch), gradients(many, batch)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    close(found, wanted, 1e-3)


@pytest.mark.parametrize("budget", [0, 1])
def test_pictures_are_made_once_where_there_is_room(task, budget, monkeypatch):
    made = task(loss={"kind": "triplet"}, budget=budget, sampling={"kind": "whole"}, side=96)
    asked, picture = [], made.pictures.picture
    monkeypatch.setattr(made.pictures, "picture", lambda *key: asked.append(key) or picture(*key))
    _, found = gradients(made, made.batches(0)[0])
    # Half of a MiB has room for 18 of 24 pictures of 27,648 bytes: three chunks of five.
    assert len(asked) == (48 if budget == 0 else 24 + 9)
    close(found, gradients(task(loss={"kind": "triplet"}, side=96), Batch(np.arange(24)))[1], 1e-3)


def test_photos_keep_their_aspect_where_that_is_asked(task):
    made = task(fit="aspect", loss={"kind": "triplet"})
    batch = Batch(np.arange(24))
    sizes = {made.pictures.picture(place, 0).shape for place in range(24)}
    assert len(sizes) > 1
    _, found = gradients(made, batch)
    made.module.zero_grad()
    x = torch.cat([made.model(made.pictures.picture(place, 0)[None]) for place in range(24)])
    made.loss(x, torch.from_numpy(made.photos.labels)).backward()
    close(found, {n: p.grad for n, p in made.module.named_parameters() if p.grad is not None}, 1e-3)


def test_a_mined_batch_is_of_its_tuples(task):
    made = task(loss={"kind": "triplet", "margin": 3.0}, miner={"kind": "hardest"})
    figures, _ = gradients(made, made.batches(0)[0])
    assert figures["tuples"] > 0
    pool = task(
        loss={"kind": "triplet", "reduction": "mean"},
        miner={"kind": "pool", "queries": 8, "negatives": 2, "tuples_per_batch": 4},
    )
    batches = pool.batches(0)
    assert len(batches) == 2 and all(len(batch.tuples) == 8 for batch in batches)
    again = pool.batches(0)
    assert all(np.array_equal(a.tuples, b.tuples) for a, b in zip(batches, again, strict=True))
    figures, _ = gradients(pool, batches[0])
    pool.module.zero_grad()
    pictures = torch.stack([pool.pictures.picture(place, 0) for place in batches[0].places.tolist()])
    x = pool.model(pictures)
    a, p, n = (x[batches[0].tuples[:, column]] for column in range(3))
    wanted = (0.1 + (a - p).square().sum(1) - (a - n).square().sum(1)).clamp_min(0).mean()
    assert figures["loss"] == pytest.approx(wanted.item(), rel=1e-4) and figures["tuples"] == 8


def test_a_memory_counts_after_it_is_warm(task):
    plain, kept = task(), task(memory={"size": 30, "warm": 1})
    batch = plain.batches(0)[0]
    assert gradients(plain, batch)[0]["loss"] == pytest.approx(gradients(kept, batch)[0]["loss"])
    figures, _ = gradients(kept, batch, 1)
    x, _ = kept.memory.contents()
    assert len(x) == 24  # of two steps
    first, own = x[:12], torch.from_numpy(kept.photos.labels[batch.places])
    same = own[:, None] == own[None]
    d = (first[:, None] - first[None]).square().sum(2)
    across = torch.where(same, d / 2, (0.7 - d).clamp_min(0) / 2).mean()
    within = gradients(plain, batch)[0]["loss"]
    assert figures["loss"] == pytest.approx(within + across.item(), rel=1e-3)


def test_what_does_not_go_together_is_refused(task):
    for match, changes in {
        "nothing is mined": {"loss": {"kind": "arcface"}, "miner": {"kind": "hardest"}},
        "arcface takes no memory": {"loss": {"kind": "arcface"}, "memory": {"size": 9}},
        "quartet takes no memory": {"loss": {"kind": "quartet"}, "memory": {"size": 9}},
        "trains no descriptor": {"loss": {"kind": "nonmetric"}},
        "classes cannot be made": {"sampling": {"classes": 7, "each": 2}},
    }.items():
        with pytest.raises(RecipeError, match=match):
            task(**changes)
    with pytest.raises(RecipeError, match=r"views = 2, but nothing of .* can be computed once"):
        task(views=2).keep_in(None)


def test_views_that_are_kept_are_what_is_computed_anew(task, tmp_path):
    learns = {"layers": "layer4"}
    anew, kept = task(learns=learns), task(learns=learns, views=2, views_dtype="float32")
    kept.keep_in(tmp_path)
    batch = Batch(np.array([3, 9, 9, 14, 20, 0]))
    assert numbered(batch.places)[1:3] == [(9, 0), (9, 1)]
    (_, wanted), (b, found) = gradients(anew, batch), gradients(kept, batch)
    # A second copy of a photo is its next view, which epoch 1 has.
    pictures = [anew.pictures.picture(place, copy) for place, copy in numbered(batch.places)]
    x = anew.model(torch.stack(pictures))
    loss = anew.loss(x, torch.from_numpy(anew.photos.labels[batch.places]))
    assert b["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert found.keys() == wanted.keys() and not any("layer1" in name for name in found)
    once = kept.backward(Batch(batch.places[:2]), 0, 0, lambda loss: loss.backward())
    assert kept.backward(Batch(batch.places[:2]), 2, 0, lambda loss: loss.backward()) == once  # of two views
    assert kept.backward(Batch(batch.places[:2]), 1, 0, lambda loss: loss.backward()) != once


def test_views_that_do_not_fit_are_refused(tmp_path):
    many = {"views": 1000, "photos": 10**9, "shape": (1000,), "dtype": "float32", "chunk": 4}
    with pytest.raises(RecipeError, match=r"need .* GB, and there are"):
        KeptViews(tmp_path / "v.npy", lambda places, view: torch.ones(len(places), 1000), **many)
    few = {"views": 1, "photos": 9, "shape": (3,), "chunk": 4}
    with pytest.raises(RecipeError, match="too large for float16"):
        large = KeptViews(tmp_path / "v.npy", lambda p, v: torch.full((len(p), 3), 1e6), dtype="float16", **few)
        large.fill([0])


def test_validation_is_the_map_of_the_ordinary_describer(stage, labelled, task, tmp_path):
    """AP from the ranks of cosines of what the recipe's describer makes of each picture."""
    made = task(labelled)
    describer = GlobalDescriber(stage, None, engine="torch")
    paths = labelled.database
    x = np.stack([describer.describe(read_image(labelled.locate(path), max_side=64).pixels) for path in paths])
    scores = x @ x.T
    found = []
    for query in labelled.queries:
        own = paths.index(query.path)
        order = [place for place in np.argsort(-scores[own], kind="stable") if place != own]
        positives = [paths.index(path) for path in query.positives]
        found.append(average_precision(positive_ranks(order, positives), len(positives)))
    assert made.validate()["mAP"] == pytest.approx(np.mean(found), abs=0.02)
    assert made.validate() == made.validate()
    assert task().validate() == {}


def test_it_learns_to_tell_objects_apart(task, labelled, tmp_path):
    _, held_out = split_by_object(labelled, 0.34, 0)
    loss = {"kind": "siamese", "margin": 1.5}
    made = task(held_out, epochs=10, loss=loss, sampling={"kind": "whole"}, augment=PLAIN)
    outcome = launch(made.settings, lambda f: run(made, made.settings, tmp_path, f, identity={}))
    losses = [float(row["loss"]) for row in read_log(tmp_path / "log.csv") if row["part"] == "train"]
    assert len(losses) == 10 and losses[-1] < 0.7 * losses[0]
    assert outcome.best is not None


def test_unreadable_images_are_listed_or_left_out(labelled, tmp_path):
    for path in labelled.database:
        target = tmp_path / "set" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(labelled.locate(path).read_bytes())
    (tmp_path / "set" / "coffee" / "1.png").write_bytes(b"no picture")
    broken = load_labelled(tmp_path / "set")
    with pytest.raises(GroundTruthError, match=r"1 of 24 images cannot be read(.|\n)*coffee/1\.png: "):
        readable_part(broken, workers=2, skip=False)
    part = readable_part(broken, workers=2, skip=True)
    assert len(part.database) == 23 and len(part.queries) == 23
    assert all("coffee/1.png" not in query.positives for query in part.queries)
    assert "without 1 unreadable" in part.selection
    assert readable_part(labelled, workers=1, skip=False) is labelled


def test_sides_that_a_network_takes(stage):
    model = make_model(stage, weights=None, learns=Learns(), recipe_name="r", seed=0)
    assert side_for(64, model) % model.multiple == 0
    model.multiple, model.least = 14, 28
    assert [side_for(side, model) for side in (10, 32, 352)] == [28, 28, 350]


def test_small_pictures_are_stretched_and_boxes_are_the_picture(labelled):
    query = replace(labelled.queries[0], box=(10.0, 10.0, 90.0, 12.0))
    one = replace(labelled, queries=(query, *labelled.queries[1:]))
    sizes = []

    def embed(pictures):
        sizes.append(tuple(pictures.shape[2:]))
        return torch.nn.functional.normalize(pictures.float().mean(dim=(2, 3)))

    found = Validation(one, side=64, multiple=1, least=16, chunk=4, readers=2).mean_average_precision(embed)
    assert 0 < found <= 1 and (16, 64) in sizes and min(map(min, sizes)) == 16
