"""`resight rankings`, `score` and `compare` on a small set of real pictures, one after the other."""

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from resight.cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of four textures in three noisy views each."""
    folder = tmp_path_factory.mktemp("photos") / "set"
    rng = np.random.default_rng(0)
    for name in ("bark", "brick", "moss", "sand"):
        texture = cv2.resize(rng.integers(0, 255, (16, 20, 3), np.uint8), (160, 128), interpolation=cv2.INTER_CUBIC)
        (folder / name).mkdir(parents=True)
        for view in range(3):
            noisy = texture + rng.normal(0, 10 + 25 * view, texture.shape)
            cv2.imwrite(str(folder / name / f"view {view}.png"), np.clip(noisy, 0, 255).astype(np.uint8))
    return folder


def resight(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_ours_goes_out_and_comes_back_and_is_no_different(folder, tmp_path):
    evaluated = resight("evaluate", folder, "--recipe", "rootsift-bow", "--json", "-q", "--workers", 1)
    assert evaluated.exit_code == 0, evaluated.stderr
    (tmp_path / "a.json").write_text(evaluated.stdout)
    into, qrels = tmp_path / "ours.run", tmp_path / "qrels"
    options = ("--recipe", "rootsift-bow", "--into", into, "--qrels", qrels, "-q", "--workers", 1)
    written = resight("rankings", folder, *options)
    assert (written.exit_code, written.stdout) == (0, f"{into}\n"), written.stderr
    assert len(qrels.read_text().splitlines()) == 24  # twelve queries, two answers each
    scored = resight("score", folder, into, "--json")
    assert scored.exit_code == 0 and scored.stderr == ""
    (tmp_path / "b.json").write_text(scored.stdout)
    ours, theirs = json.loads(evaluated.stdout), json.loads(scored.stdout)
    assert theirs["figures"]["mean_average_precision"] == ours["figures"]["mean_average_precision"]
    compared = resight("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert compared.exit_code == 0 and "0 better, 0 worse, 12 equal" in compared.stdout
    shape = json.loads(resight("compare", tmp_path / "a.json", tmp_path / "b.json", "--json").stdout)
    assert not any(d["differs"] for d in shape["others"][0]["differences"])


def test_a_worse_result_is_told_from_chance(folder, tmp_path):
    rng = np.random.default_rng(1)
    np.save(
        tmp_path / "good.npy",
        np.array([[q, *(i for i in range(12) if i // 3 == q // 3 and i != q)] for q in range(12)]).T,
    )
    np.save(tmp_path / "drawn.npy", np.stack([rng.permutation(12) for _ in range(12)], axis=1))
    for name in ("good", "drawn"):
        scored = resight("score", folder, tmp_path / f"{name}.npy", "--json")
        (tmp_path / f"{name}.json").write_text(scored.stdout)
    found = resight("compare", tmp_path / "good.json", tmp_path / "drawn.json", "--changes", 2)
    assert found.exit_code == 0, found.stderr
    line = next(line for line in found.stdout.splitlines() if line.startswith("mAP"))
    assert line.split()[1] == "12" and line.split()[2] == "100.00" and line.endswith("*")
    assert "drawn.npy against good.npy" in found.stdout
    assert len([line for line in found.stdout.splitlines() if line.endswith(".png")]) == 2


def test_judged_by_others_judgements(folder, tmp_path):
    np.save(tmp_path / "r.npy", np.tile(np.arange(12)[:, None], 12))
    (tmp_path / "qrels").write_text("bark/view%200.png 0 bark/view%201.png 1\n")
    scored = resight("score", folder, tmp_path / "r.npy", "--qrels", tmp_path / "qrels", "--json")
    shape = json.loads(scored.stdout)
    assert shape["figures"]["queries"] == 1 and shape["figures"]["mean_average_precision"] == 1
    plain = resight("score", folder, tmp_path / "r.npy").stdout
    assert plain.startswith(" ") and "mAP" in plain and "r.npy" in plain


def test_what_is_refused(folder, tmp_path):
    (tmp_path / "r.run").write_text("bark/view%200.png Q0 nowhere.png 1 1 t\n")
    for arguments, message in (
        (("score", folder, tmp_path / "r.run"), "r.run, line 1: set has no database image nowhere.png"),
        (("score", folder, tmp_path / "r.xml"), "its suffix does not tell its form"),
        (("score", folder, tmp_path / "none.npy"), "none.npy: cannot be read"),
        (("rankings", folder, "--into", tmp_path / "x", "--format", "xml"), "no form of rankings is called 'xml'"),
        (("compare", tmp_path / "r.run", tmp_path / "r.run"), "is no JSON"),
    ):
        result = resight(*arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
