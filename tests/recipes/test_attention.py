"""Attention in a recipe: what does not go together is refused when it is read; files may move, parameters count."""

import pytest
import tomli_w

from resight.errors import RecipeError
from resight.recipes import load_recipe
from resight.recipes.recipe import parse_recipe

GEM = {"kind": "gem", "p": 3.0}
KINDS = {
    "second-order": {"reduction": 4},
    "crn": {"context": [5, 7]},
    "delf": {"hidden": 8},
    "regional": {"levels": 2},
    "attention-gem": {"hidden": 8},
    "saliency": {"by": "spectral-residual"},
    "class-token": {"temperature": 0.5},
}


def text(**changes):
    stage = {"network": "resnet10t", "layer": "layer3"} | changes
    return tomli_w.dumps({"name": "x", "title": "", "source": "", "filter": "global", "global": stage})


def attended(kind, **changes):
    return parse_recipe(text(attention={"kind": kind}, **changes), "mine", None).global_


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_read_and_each_parameter_counts(kind):
    rest = {"pooling": "mac" if kind == "regional" else "gem", "layer": "tokens" if kind == "class-token" else "layer3"}
    default, plain = attended(kind, **rest), parse_recipe(text(**rest), "mine", None).global_
    other = parse_recipe(text(attention={"kind": kind} | KINDS[kind], **rest), "mine", None).global_
    assert default.attention.kind == kind
    assert len({stage.dump_parameters() for stage in (default, other, plain)}) == 3
    # What recipes without attention were fitted for is still what they are.
    assert "attention" not in plain.dump_parameters()


GRID = {"kind": "grid", "levels": 2}
PIXELS = {"kind": "dense", "on": "pixels"}
REFUSED = [
    ("second-order", {"scheme": PIXELS}, "regions of pixels lack: take them on the map"),
    ("crn", {"scheme": {"kind": "dog"}}, "regions of pixels lack"),
    ("saliency", {"scheme": PIXELS}, "regions of pixels lack"),
    ("regional", {"scheme": PIXELS, "pooling": "mac"}, "regions of pixels lack"),
    ("regional", {}, 'pools regions of its own, as R-MAC does: say pooling = "mac"'),
    ("regional", {"pooling": "mac", "scheme": GRID}, "without scheme and embedding"),
    ("regional", {"pooling": "mac", "embedding": {"kind": "vlad"}}, "without scheme and embedding"),
    ("attention-gem", {"embedding": {"kind": "vlad"}}, "was made for GeM, not vlad"),
    ("class-token", {}, 'layer3 is not of these: say layer = "tokens"'),
    ("class-token", {"layer": "tokens", "scheme": PIXELS}, "regions of pixels lack"),
    ("attention-gem", {"pooling": "crow"}, "was made for GeM, not crow"),
    ("second-order", {"pooling": "cam-crow"}, "cam-crow sees classes in the map that the network makes"),
]


@pytest.mark.parametrize(("kind", "rest", "said"), REFUSED)
def test_a_wrong_combination_is_refused_with_the_reason(kind, rest, said):
    with pytest.raises(RecipeError, match=f"^mine: global: attention {kind} .*{said}|^mine: global: .*{said}"):
        attended(kind, **rest)


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        ("second-order", {"embedding": {"kind": "vlad"}}),
        ("second-order", {"scheme": GRID, "pooling": "mac"}),
        ("crn", {"scheme": GRID}),
        ("crn", {"scheme": GRID, "embedding": {"kind": "vlad"}}),  # of vectors that are pooled under the mask
        ("delf", {"scheme": PIXELS, "pooling": "sum"}),
        ("attention-gem", {"scheme": {"kind": "mser"}}),
        ("saliency", {"pooling": "sba"}),
        ("class-token", {"layer": "tokens", "pooling": "average"}),
        ("crn", {"embedding": {"kind": "netvlad"}}),
        ("delf", {"embedding": {"kind": "bow"}}),
        ("saliency", {"embedding": {"kind": "fisher"}}),
    ],
)
def test_what_goes_together_is_read(kind, rest):
    assert attended(kind, **rest).attention.kind == kind


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "crnn"}, "global.attention: .*crn"),
        ({"kind": "crn", "filters": [[4, 8]]}, "global.attention.crn: filters need odd sides"),
        ({"kind": "crn", "context": [0, 13]}, "global.attention.crn: context needs rows"),
        ({"kind": "saliency", "weights": "w"}, "global.attention.saliency.weights"),
        ({"kind": "second-order", "reduction": 0}, "global.attention.second-order.reduction"),
    ],
)
def test_a_mistake_in_the_table_is_named(table, said):
    with pytest.raises(RecipeError, match=f"^mine: {said}"):
        parse_recipe(text(attention=table), "mine", None)


def test_a_further_branch_is_checked_and_does_not_take_over_the_first_ones():
    first, second = attended("crn", also=[{"layer": "layer4"}]).branches
    assert first.attention.kind == "crn" and second.attention is None
    with pytest.raises(RecipeError, match=r"also: .*attention regional pools regions of its own"):
        parse_recipe(text(also=[{"attention": {"kind": "regional"}}]), "mine", None)


def test_weights_are_placed_beside_the_recipe_and_may_move_but_not_change(tmp_path):
    def recipe(folder, **changes):
        table = {"kind": "crn", "weights": "crn.safetensors"} | changes
        also = [{"layer": "layer4", "attention": table}]
        return parse_recipe(text(attention=table, also=also), "mine", folder)

    here, there = recipe(tmp_path), recipe(tmp_path / "there")
    for branch in here.global_.branches:
        assert branch.attention.weights == str(tmp_path / "crn.safetensors")
        assert branch.files == (str(tmp_path / "crn.safetensors"),)
    assert here.fingerprint == there.fingerprint != recipe(tmp_path, weights_sha256="00").fingerprint
    assert here.global_.dump_parameters() == there.global_.dump_parameters()


def test_recipes_come_without_weights():
    assert load_recipe("solar").global_.attention.weights == load_recipe("crn").global_.attention.weights == ""
