"""Examples of several queries described together, through a network, are what each is by itself."""

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import QueryError  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.examples import DescribedExample, Example, ReadExample  # noqa: E402


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
        [Example(2, (10, 10, 150, 120))],
        [Example(photos / "astronaut-1.png")],
    ]
    examples = [example for query in queries for example in query]
    read = [collection.read_example(example) for example in examples]
    together = collection.describe_each([one for one in read if isinstance(one, ReadExample)])
    found = [next(together) if isinstance(one, ReadExample) else one for one in read]
    assert sum(isinstance(one, DescribedExample) for one in read) == 1, "only what is stored whole is not described"
    alone = [one for query in queries for one in collection.describe_examples(query)]
    for example, one, same in zip(examples, found, alone, strict=True):
        vector = one.description.global_descriptor
        np.testing.assert_allclose(vector, same.description.global_descriptor, atol=1e-6)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert (one.description.size, one.box) == (same.description.size, same.box)
        assert one.box == example.box and one.weight == example.weight == same.weight
    with pytest.raises(StopIteration):
        next(together)


def test_what_cannot_be_read_is_named_by_its_number(collection, photos):
    for wrong, said in (
        (Example(999), "example 2, id:999: there is no image"),
        (Example(photos / "none.jpg"), "example 2, .*none.jpg: "),
        (Example(1, (0, 0, 9999, 10)), "example 2, .*leaves the image"),
    ):
        with pytest.raises(QueryError, match=said):
            collection.describe_examples([Example(1), wrong])
    with pytest.raises(QueryError, match="there is none"):
        collection.describe_examples([])
