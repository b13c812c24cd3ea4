"""`resight datasets` and `resight evaluate --dataset`, on miniatures of the published layouts and a local server."""

import http.server
import json
import pickle
import threading
import zipfile
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from resight.cli.main import app
from resight.evaluation.datasets import DATASETS, File, load_dataset


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def jpeg(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (64, 48)))


@pytest.fixture
def revisited(tmp_path):
    """roxford5k in small: five images; the query is image 1 again; 1 is hard, 2 is easy."""
    folder = tmp_path / "roxford5k"
    for number in range(5):
        jpeg(folder / "jpg" / f"hall_{number:06d}.jpg", number)
    jpeg(folder / "jpg/asked_000000.jpg", 1)
    gnd = [{"bbx": [0, 0, 64, 48], "easy": [2], "hard": [1], "junk": []}]
    images = [f"hall_{number:06d}" for number in range(5)]
    data = {"imlist": images, "qimlist": ["asked_000000"], "gnd": gnd}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(data, protocol=3))
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    from resight.networks.architectures import create_network

    folder = tmp_path_factory.mktemp("recipe")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(create_network("resnet10t").state_dict(), folder / "weights.safetensors")
    stage = {"network": "resnet10t", "layer": "layer1", "max_side": 64, "whiten": "none", "dimensions": 64}
    stage["weights"] = "weights.safetensors"
    table = {"name": "tiny", "title": "", "source": "", "filter": "global", "global": stage}
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    return folder


def test_list_names_every_set_with_its_size_and_source():
    result = run("datasets", "list")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(DATASETS)
    (row,) = (line for line in lines if line.startswith("rparis6k "))
    for said in (
        "6,322",
        "70",
        "medium, hard, easy",
        "Radenović et al., CVPR 2018",
        "http://cmp.felk.cvut.cz",
        "Flickr",
    ):
        assert said in row


def test_list_as_json():
    rows = {row["name"]: row for row in json.loads(run("datasets", "list", "--json").stdout)}
    assert rows["gldv2"]["images"] == 761_757 and rows["gldv2"]["protocols"] == ["private", "public"]
    assert "FTP only" in rows["instre"]["by_hand"][0]


def test_check_counts_and_says_what_is_wrong(revisited):
    result = run("datasets", "check", "roxford5k", revisited)
    assert result.exit_code == 1
    medium = next(line for line in result.stdout.splitlines() if line.startswith("medium "))
    assert medium.split()[1:4] == ["5", "1", "2"] and "not whole: 5 of 4,993 images, 1 of 70 queries" in medium
    one = run("datasets", "check", "roxford5k", revisited, "--protocol", "easy").stdout.splitlines()
    assert len(one) == 2 and one[1].split()[:4] == ["easy", "5", "1", "1"]
    (revisited / "jpg/hall_000003.jpg").unlink()
    found = json.loads(run("datasets", "check", "roxford5k", revisited, "--json").stdout)["protocols"]
    assert {each["images"] for each in found} == {0}
    assert all("1 of the 5 images that gnd_roxford5k.pkl names are missing: hall_000003" in p["problem"] for p in found)


def test_check_of_a_whole_set_is_silent_success(tmp_path, monkeypatch):
    """Four images stand for UKBench, whose published counts are made theirs."""
    for number in range(4):
        jpeg(tmp_path / f"ukbench{number:05d}.jpg", number)

    def load(folder, protocol, partial):
        return DATASETS["ukbench"].load(folder, protocol, True)

    monkeypatch.setitem(DATASETS, "four", replace(DATASETS["ukbench"], name="four", load=load))
    result = run("datasets", "check", "four", tmp_path, "--decode")
    assert (result.exit_code, result.stdout.splitlines()[1].split()) == (0, ["n-s", "4", "4", "12", "–"])
    (tmp_path / "ukbench00002.jpg").write_text("<html>")
    result = run("datasets", "check", "four", tmp_path, "--decode")
    assert result.exit_code == 1 and result.stdout.splitlines()[-1].startswith("ukbench00002.jpg: ")


@pytest.mark.parametrize("command", [("check", "oxford", "."), ("get", "oxford", "--into", ".")])
def test_an_unknown_set_is_refused_with_the_choice(command):
    result = run("datasets", *command)
    assert result.exit_code == 2 and "no data set is called 'oxford'; choose ukbench" in result.stderr


@pytest.fixture
def server(tmp_path):
    (tmp_path / "site").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = partial(Handler, directory=str(tmp_path / "site"))
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def test_get_fetches_unpacks_and_says_what_is_left(server, tmp_path, monkeypatch):
    site, address = server
    with zipfile.ZipFile(site / "ukbench.zip", "w") as zipped:
        for number in range(4):
            jpeg(tmp_path / f"{number}.jpg", number)
            zipped.write(tmp_path / f"{number}.jpg", f"full/ukbench{number:05d}.jpg")
    small = replace(DATASETS["ukbench"], files=(File(f"{address}/ukbench.zip", "", unpack=True),))
    monkeypatch.setitem(DATASETS, "ukbench", small)
    result = run("datasets", "get", "ukbench", "--into", tmp_path / "into", "--quiet")
    assert (result.exit_code, result.stdout) == (0, f"{address}/ukbench.zip\n"), result.stderr
    assert "1 of 1 files have no published checksum" in result.stderr and "licence: cite the paper" in result.stderr
    assert len(load_dataset("ukbench", tmp_path / "into", partial=True).queries) == 4
    again = run("datasets", "get", "ukbench", "--into", tmp_path / "into", "--quiet")
    assert (again.exit_code, again.stdout) == (0, "")
    monkeypatch.setitem(DATASETS, "ukbench", replace(small, by_hand=("write to the authors",)))
    left = run("datasets", "get", "ukbench", "--into", tmp_path / "into", "--quiet")
    assert left.exit_code == 1 and "by hand: write to the authors" in left.stderr


def test_what_is_only_by_hand_is_said(tmp_path):
    result = run("datasets", "get", "instre", "--into", tmp_path / "instre")
    assert result.exit_code == 1 and "by hand: instre.tar.gz of ftp://" in result.stderr


def evaluated(revisited, recipe, *more):
    return run("evaluate", revisited, "--dataset", "roxford5k", "--recipe", recipe, "--quiet", *more)


def test_evaluate_takes_the_sets_protocol(revisited, recipe):
    """The query is the hard image again, so that it comes first; where it is junk, the rest is ranked."""
    hard = evaluated(revisited, recipe, "--protocol", "hard", "--partial", "--json")
    assert hard.exit_code == 0, hard.stderr
    report = json.loads(hard.stdout)
    assert report["protocol"]["name"] == "roxford5k (hard)"
    assert "hard positive, junk and easy removed; queries cropped to their boxes" in report["protocol"]["text"]
    assert "NOT THE WHOLE SET: 5 of 4,993 images" in report["protocol"]["text"]
    assert report["protocol"]["boxed"] == 1 and report["figures"]["mean_average_precision"] == 1.0
    easy = json.loads(evaluated(revisited, recipe, "--protocol", "easy", "--partial", "--json").stdout)
    assert [each["verdict"] for each in easy["rows"][0]["results"]].count("junk") == 1
    assert easy["rows"][0]["positives"] == 1 and easy["rows"][0]["results"][0]["verdict"] == "junk"
    table = evaluated(revisited, recipe, "--protocol", "medium-uncropped", "--partial").stdout
    assert "NOT CROPPED to their boxes" in table and "average precision  trapezoidal" in table


def test_evaluate_takes_the_sets_average_precision(tmp_path, recipe):
    folder = tmp_path / "ilias"
    for name, seed in (("query/Q000_00", 0), ("pos/P000_00", 0), ("pos/P000_01", 1)):
        jpeg(folder / "ilias_core/bold_bimp_000" / f"{name}.jpg", seed)
    result = run("evaluate", folder, "--dataset", "ilias", "--partial", "--recipe", recipe, "--quiet")
    assert "truncated-1000, within the first 1000" in result.stdout, result.stderr
    other = run(
        "evaluate", folder, "--dataset", "ilias", "--partial", "--recipe", recipe, "--quiet", "--ap", "rectangular"
    )
    assert "average precision  rectangular\n" in other.stdout


def test_evaluate_refuses_what_is_not_whole_and_a_protocol_without_a_set(revisited, recipe):
    result = evaluated(revisited, recipe)
    assert result.exit_code == 2 and "is not whole: 5 of 4,993 images" in result.stderr
    result = run("evaluate", revisited, "--protocol", "hard", "--recipe", recipe)
    assert result.exit_code == 2 and "give --dataset NAME" in result.stderr


def test_oxfords_query_counts_in_a_real_run(tmp_path, recipe):
    """Its whole image is in the database: of three positives the query itself is one, and comes first."""
    folder = tmp_path / "oxford5k"
    for number in range(5):
        jpeg(folder / "jpg" / f"hall_{number:06d}.jpg", number)
    (folder / "gt").mkdir()
    (folder / "gt/hall_1_query.txt").write_text("oxc1_hall_000000 0 0 64 48")
    for kind, names in (("good", "hall_000000\nhall_000002\n"), ("ok", "hall_000003\n"), ("junk", "hall_000004\n")):
        (folder / f"gt/hall_1_{kind}.txt").write_text(names)
    result = run("evaluate", folder, "--dataset", "oxford5k", "--partial", "--recipe", recipe, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    (row,) = report["rows"]
    assert (row["positives"], row["first_positive"], row["retrieved"]) == (3, 1, 3)
    assert row["results"][0]["path"] == row["query"] and row["results"][0]["verdict"] == "positive"
    assert len(row["results"]) == 5 and report["protocol"]["leave_one_out"] is False
