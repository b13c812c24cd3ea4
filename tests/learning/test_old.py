"""Learning beside an old network: its terms against sums by hand, its batches, and what may then be searched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from resight.describe.describer import Describer  # noqa: E402
from resight.errors import CollectionError, RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.learning.checkpoint import check_identity  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.mining.batches import replayed_batches  # noqa: E402
from resight.learning.mining.stages import Sampling  # noqa: E402
from resight.learning.old import OldTerms, with_replayed  # noqa: E402
from resight.learning.prepare import prepare  # noqa: E402
from resight.learning.run import train  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.upgrade import upgrade  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

NETWORK = "test_resnet.r160_in1k"


def units(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_terms_are_their_definitions():
    rng = np.random.default_rng(0)
    vectors, labels = units(rng, 7, 5), np.array([0, 0, 1, 1, 2, 2, 2])
    x, places = units(rng, 4, 5), np.array([6, 0, 3, 6])
    terms = OldTerms(vectors, labels, compatible=0.7, distil=1.3, temperature=0.2)
    found = terms(torch.from_numpy(x), torch.from_numpy(labels[places]), places)
    expected = 0.0
    for row, place in zip(x, places, strict=True):
        logits = []
        for name in range(3):
            mean = np.mean([v for v, own in zip(vectors, labels, strict=True) if own == name], axis=0)
            logits.append(row @ mean / np.linalg.norm(mean) / 0.2)
        expected += 0.7 * (np.log(np.exp(logits).sum()) - logits[labels[place]]) / 4
        expected += 1.3 * (1 - row @ vectors[place]) / 4
    assert float(found) == pytest.approx(expected, rel=1e-5)
    none = OldTerms(vectors, labels, compatible=0, distil=0)
    assert float(none(torch.from_numpy(x), torch.from_numpy(labels[places]), places)) == 0


def test_a_share_of_each_batch_is_of_old_objects():
    labels = np.repeat(np.arange(10), 4)  # the last six are the old ones
    batches = replayed_batches(Sampling(classes=4, each=2), labels, replayed=6, share=0.25, epoch=0, seed=0)
    assert len(batches) == 3  # 16 new photos, six a batch
    for batch in batches:
        own, counts = np.unique(labels[batch], return_counts=True)
        assert (own >= 4).sum() == 1 and (own < 4).sum() == 3 and (counts == 2).all()
    again = replayed_batches(Sampling(classes=4, each=2), labels, replayed=6, share=0.99, epoch=1, seed=0)
    assert all((labels[batch] < 4).sum() == 2 for batch in again)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """GeM over the last map of a tiny network with random weights."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.save_file(create_network(NETWORK).state_dict(), file)
    table = {"network": NETWORK, "weights": str(file), "pooling": "gem", "scales": [1.0], "whiten": "none"}
    table |= {"max_side": 64, "dimensions": 96}
    head = {"name": "old", "title": "Old", "source": "-", "filter": "global"}
    return Recipe.model_validate({**head, "image": {"max_side": 64}, "global": table})


@pytest.fixture(scope="module")
def sets(tmp_path_factory, pictures, view, save):
    """Two sets of three objects of three views each."""
    folder = tmp_path_factory.mktemp("sets")
    for part, names in (("new", ("astronaut", "chelsea", "coffee")), ("old", ("rocket", "brick", "moon"))):
        for name in names:
            for seed in range(3):
                save(
                    folder / part / name / f"{seed}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::3, ::3])
                )
    return folder


def test_the_trained_recipe_searches_the_old_collection_and_no_other_does(tmp_path, recipe, sets):
    import tomli_w

    old = tmp_path / "old"
    old.mkdir()
    (old / "recipe.toml").write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)))
    changes = [
        "old.distil=0.5",
        f"old.photos={sets / 'old'}",
        "old.replay=0.5",
        "sampling.classes=4",
        "sampling.each=2",
    ]
    given = {"side": 64, "chunk": 4, "epochs": 1, "rate": 1e-3, "accelerator": "cpu", "augment": NONE.model_dump()}
    settings = load_settings(None, [f"old.recipe={old}", *changes], **given)
    trained = train(old, sets / "new", settings=settings, into=tmp_path / "new")
    new = load_recipe(trained)
    assert new.compatible_with == Describer(load_recipe(old)).fingerprint and new.trained["classes"] == 6
    other = train(
        old, sets / "new", settings=load_settings(None, ["sampling.classes=3", "sampling.each=2"], **given),
        into=tmp_path / "other",
    )  # fmt: skip
    with Collection.create(tmp_path / "c", load_recipe(old)) as collection:
        collection.add([sets / "new"], workers=1)
    query = sets / "new" / "coffee" / "0.png"
    with Collection.open(tmp_path / "c", recipe=new) as collection:
        found = collection.search(query, exact=True)
        vector = Describer(new).describe(query).global_descriptor
        stored = [Describer(load_recipe(old)).describe(e.origin).global_descriptor for e in collection.entries()]
        order = np.argsort(-np.array(stored) @ vector, kind="stable")
        assert [e.id for e in collection.entries()] == sorted(found.ids)
        np.testing.assert_array_equal(found.ids, np.array([e.id for e in collection.entries()])[order])
    for refused, how in ((load_recipe(other), {}), (new, {"write": True})):
        with pytest.raises(CollectionError, match="resight upgrade"):
            Collection.open(tmp_path / "c", recipe=refused, **how)
    assert upgrade(tmp_path / "c", new, workers=1).changed
    with pytest.raises(CollectionError, match="cannot be compared"):  # what is old can no longer ask
        Collection.open(tmp_path / "c", recipe=load_recipe(old))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["old.replay=0.5"], "go together"),
        (["old.photos=x", "old.replay=0.5", "sampling.kind=shuffled"], "balanced"),
    ],
)
def test_settings_that_do_not_fit(changes, said):
    with pytest.raises(RecipeError, match=said):
        load_settings(None, ["old.recipe=x", *changes])


def test_what_does_not_fit_is_said(tmp_path, recipe, sets):
    new = training_set(load_labelled(sets / "new"))
    both = with_replayed(new, training_set(load_labelled(sets / "old")))
    assert (len(both.classes), both.replayed, len(both.photos)) == (6, 3, 18) and both.labels.max() == 5
    with pytest.raises(RecipeError, match="leave it out of one set"):
        with_replayed(new, replace(new, name="again"))
    short = recipe.model_copy(update={"global_": recipe.global_.model_copy(update={"layer": "layer3"})})
    from resight.learning.old import check_old

    with pytest.raises(RecipeError, match=r"learns\.projection"):
        check_old(short, 64)


def test_a_training_goes_on_only_beside_the_old_weights_it_began_with(tmp_path, recipe, sets):
    import tomli_w

    old = tmp_path / "old.toml"
    table = recipe.model_dump(by_alias=True, exclude_none=True)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(Path(table["global"]["weights"]).read_bytes())
    table["global"]["weights"] = str(weights)
    old.write_text(tomli_w.dumps(table))
    settings = load_settings(None, [f"old.recipe={old}", "sampling.classes=3"], accelerator="cpu")

    def identity():
        return prepare(recipe, sets / "new", settings, tmp_path / "training").identity

    begun = identity()
    assert identity() == begun
    network = create_network(NETWORK)
    safetensors.save_file(network.state_dict(), weights)
    with pytest.raises(RecipeError, match="was begun with old weights"):
        check_identity(tmp_path / "last", begun, identity())
