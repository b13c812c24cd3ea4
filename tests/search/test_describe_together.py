"""Queries described together, through a network, are what each is by itself, and one that is wrong harms no other."""

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import QueryError  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.examples import Example  # noqa: E402


@pytest.fixture(scope="module")
def collection(tmp_path_factory, photos):
    """Two photos under a recipe of a small network with random weights."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    table = load_recipe("gem-densenet169").model_dump(by_alias=True, exclude_none=True)
    table["global"] |= {"network": "resnet10t", "layer": "layer3", "max_side": 128, "whiten": "none"}
    table["global"] |= {"dimensions": 256, "weights": "weights.safetensors"}
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    with Collection.create(tmp_path_factory.mktemp("collection") / "c", load_recipe(folder)) as made:
        made.add([photos / "coffee-1.png", photos / "rocket-1.png"], workers=1)
        yield made


def test_each_is_what_it_is_by_itself(collection, photos):
    queries = [
        [Example(photos / "coffee-2.jpg"), Example(photos / "moon.png", weight=-0.3)],
        [Example(1)],
        [Example(999)],
        [Example(2, (10, 10, 150, 120))],
        [],
        [Example(photos / "astronaut-1.png")],
    ]
    together = collection.describe_together(queries)
    for query, found in zip(queries, together, strict=True):
        if isinstance(found, QueryError):
            with pytest.raises(QueryError) as error:
                collection.describe_examples(query)
            assert str(error.value) == str(found)
            continue
        for example, described in zip(query, found, strict=True):
            (alone,) = collection.describe_examples([Example(example.image, example.box)])
            vector = described.description.global_descriptor
            np.testing.assert_array_equal(vector, alone.description.global_descriptor)
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
            assert (described.description.size, described.box) == (alone.description.size, alone.box)
            assert described.weight == example.weight
    assert [isinstance(found, QueryError) for found in together] == [False, False, True, False, True, False]
