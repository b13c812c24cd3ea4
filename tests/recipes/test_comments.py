"""What recipes say of themselves in comments: commands that the command line takes, and the survey's figures."""

import re
import shlex
from collections import defaultdict
from functools import partial

import pytest
import typer.main

from resight.cli.main import app
from resight.evaluation.study_progress import read_published
from resight.recipes import load_recipe, recipe_names, recipe_text

WHOLE = typer.main.get_command(app)
SETS = ("Holidays", "Oxford5k", "Oxford105k", "Paris6k", "Paris106k")
# Those of the survey, and some later ones; what comes beside them is a combination of our own.
NAMES = """
    neural-codes neural-codes-finetuned r-mac crow cam-crow blcf blcf-saliency spoc mac gem multilayer-cnn deepindex mof
    multiscale-cnn cnn-aug-ss mop-cnn ccs oldfp ldd vlad-cnn fv-cnn patch-ckn fom selective-conv faemb sah sba
    heat-diffusion dmk-cnn rn-bof delf delg dolg how solar r-asmk nonmetric faster-rcnn siam-fv sift-cnn quartet-net
    netvlad deep-retrieval listwise-ap smooth-ap doap irt reranking-transformer mom gem-sfm sfm-cnn ime-cnn mdp-cnn
    gem-dsm egt gss rdp crn two-stream-attention ssdh deepbit dsth rbm-hash ae-hash gan-retrieval offline-diffusion
    dinov2 dinov3 siglip superglobal
"""
SYSTEMS = NAMES.split()
COMMANDS = [
    (name, line.removeprefix("#").strip())
    for name in recipe_names()
    for line in recipe_text(name).splitlines()
    if re.match(r"#\s+resight ", line)
]


def parsed(line):
    """The names of a command's verbs, and its arguments and options as the command line reads them."""
    words = shlex.split(line.partition(" > ")[0])[1:]
    words = [word for part in words for word in (("PHOTOS", "--into", "COLLECTION") if part == "…" else (part,))]
    command, verbs = WHOLE, []
    while words and words[0] in getattr(command, "commands", {}):
        verbs.append(words.pop(0))
        command = command.commands[verbs[-1]]
    return " ".join(verbs), command.make_context(verbs[-1], words).params


def test_commands_are_found():
    assert len(COMMANDS) > 100
    verbs = {parsed(line)[0] for _, line in COMMANDS}
    assert {"fit", "index", "train", "hash fit", "learn-rerank", "recipes show", "weights import"} <= verbs


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_a_command_is_one_that_there_is(name, line):
    verbs, given = parsed(line)
    own = {name, "my.toml", "FITTED", "FOLDER"}
    if verbs in ("fit", "train"):
        # Rendered pictures train the one network that is for them; those that re-rank start from gem-densenet169.
        assert given.get("procedural") or given["recipe"] in own | {"gem-densenet169"}
    if verbs == "index" and given["recipe"]:
        assert given["recipe"] in own


@pytest.mark.parametrize(("name", "line"), [(n, line) for n, line in COMMANDS if line.startswith("resight train ")])
def test_a_training_suits_the_recipe(name, line):
    """Settings as the line has them load, and their scheme takes the recipe."""
    pytest.importorskip("torch")
    from resight.learning.schemes import SCHEMES, scheme_of
    from resight.learning.schemes.embedding import whitening
    from resight.learning.settings import load_settings
    from resight.learning.unlabelled.settings import load_unlabelled_settings

    _, given = parsed(line)
    loss = None if given["loss"] is None else {"kind": given["loss"]}
    keys = ("epochs", "rate", "batch", "chunk", "side", "seed", "devices", "accelerator", "precision")
    load = partial(load_unlabelled_settings, mining=given["mine"]) if given["unlabelled"] else load_settings
    settings = load(given["settings"], given["changes"] or (), loss=loss, **{key: given[key] for key in keys})
    recipe = load_recipe(name)
    if given["unlabelled"]:
        assert settings.unlabelled.kind == given["mine"]
        assert whitening(recipe.global_, settings) == "pca"
    assert SCHEMES[scheme_of(recipe, settings)](recipe, settings)


@pytest.mark.parametrize("name", recipe_names())
def test_the_published_figures_are_those_of_the_surveys_tables(name):
    figures = defaultdict(dict)
    for m in read_published("survey"):
        if m.system == name:
            figures[m.source][m.set] = m.mean_average_precision
    expected = [
        f"# Published ({source}): {', '.join(f'{s} {100 * found[s]:.1f}' for s in SETS if s in found)} mAP."
        for source, found in figures.items()
    ]
    assert re.findall(r"^# Published \(.*$", recipe_text(name), re.MULTILINE) == expected


def test_every_system_of_the_surveys_tables_has_a_recipe():
    assert {m.system for m in read_published("survey")} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_lines_are_short(name):
    assert all(len(line) <= 120 or line.startswith(("title", "source")) for line in recipe_text(name).splitlines())


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_published_system_says_its_source_its_figure_and_what_differs(name):
    comments = recipe_text(name).partition("\nname = ")[0]
    assert re.search(
        r"^# Published( \(survey, Table [23]\))?: .*\d|^# Published.*: the survey's Tables", comments, re.M
    )
    assert "Different from the paper: " in " ".join(comments.replace("\n# ", " ").split())
    assert re.search(r"\b(19|20)\d\d\b", load_recipe(name).source)
