"""What indexing on a cluster refuses before it joins one."""

import sys
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from resight.cli.main import app
from resight.cluster.engine import connect
from resight.cluster.files import Files
from resight.cluster.indexing import index
from resight.cluster.manifest import FILE, Learned, Manifest, publish
from resight.errors import CollectionError
from resight.recipes import load_recipe

pytest.importorskip("fsspec")

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def place(tmp_path, recipe):
    """A collection in three shards, as far as its manifest says."""
    manifest = Manifest(1, recipe, "f00d", "catalogues/c", Learned(), ("a", "b", "c"), (0, 0, 0), 64)
    publish(Files(tmp_path / "c"), manifest)
    return tmp_path / "c"


def test_an_ordinary_collection(indexed):
    with pytest.raises(CollectionError, match="is a collection of one machine; choose another name"):
        index(indexed, [], cluster=NOWHERE)
    assert not (indexed / FILE).exists()


def test_another_number_of_shards_or_recipe(place, recipe):
    with pytest.raises(CollectionError, match="has 3 shards, which stays so"):
        index(place, [], cluster=NOWHERE, shards=4)
    with pytest.raises(CollectionError, match="was made with recipe rootsift-asmk, and rootsift-bow as named differs"):
        index(place, [], cluster=NOWHERE, recipe=load_recipe("rootsift-bow"))


def test_what_looks_at_all_images(tmp_path):
    with pytest.raises(CollectionError, match=r"recipe gem-dsm has \[\[rerank\]\], which looks at all images together"):
        index(tmp_path / "c", [], cluster=NOWHERE, recipe=load_recipe("gem-dsm"))


@pytest.mark.parametrize("address", [NOWHERE, "nonsense"])
def test_where_no_cluster_is(address):
    pytest.importorskip("ray")
    with pytest.raises(
        CollectionError, match=rf"no Ray cluster answers at {address} \(.+\); start one with `ray start"
    ):
        connect(address)


@pytest.mark.parametrize("name", ["ray", "fsspec"])
def test_what_is_not_installed(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CollectionError, match=rf"needs {name}: pip install 'resight\[cluster\]'"):
        index(tmp_path / "c", [], cluster=NOWHERE)


def resight(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    return result.stderr


def test_the_command_line_says_what_goes_with_what(tmp_path, photos, indexed):
    facts = tmp_path / "facts.csv"
    facts.write_text("path,year\nmoon.png,1969\n")
    into = ("--into", tmp_path / "c")
    assert "--shards is of a collection on a cluster" in resight("index", photos, *into, "--shards", 3)
    said = resight("index", photos, *into, "--cluster", NOWHERE, "--metadata", facts)
    assert "--metadata is not done with --cluster" in said
    assert "is a collection of one machine" in resight("index", photos, "--into", indexed, "--cluster", NOWHERE)
    # Without Ray that is what the user hears first.
    said = f"no Ray cluster answers at {NOWHERE}" if find_spec("ray") else "needs ray: pip install 'resight[cluster]'"
    assert said in resight("index", photos, *into, "--cluster", NOWHERE)
    assert said in resight("search", tmp_path / "c", "q.png", "--cluster", NOWHERE)
    assert said in resight("serve", tmp_path / "c", "--cluster", NOWHERE)
    assert not (tmp_path / "c").exists()
