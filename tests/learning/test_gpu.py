"""Training on a CUDA device: as on the CPU up to rounding, and in 16 bits."""

import numpy as np
import pytest
import torch
from small_task import train

from resight.learning.checkpoint import load_checkpoint
from resight.learning.log import read_log
from resight.learning.trainer import LAST

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
PLAIN = {"warm_up": 0, "schedule": "constant"}


def losses(folder):
    return [float(row["loss"]) for row in read_log(folder / "log.csv") if row["part"] == "train"]


def test_32_bits_begin_as_on_the_cpu(tmp_path):
    """Dropout draws other numbers on a GPU; without it the loss of the first step is the same."""
    train(tmp_path / "gpu", accelerator="cuda", **PLAIN)
    train(tmp_path / "cpu", accelerator="cpu", **PLAIN)
    gpu, cpu = (read_log(tmp_path / name / "log.csv") for name in ("gpu", "cpu"))
    assert float(gpu[0]["separation"]) == pytest.approx(float(cpu[0]["separation"]), rel=1e-4)
    assert np.mean(losses(tmp_path / "gpu")[-4:]) == pytest.approx(np.mean(losses(tmp_path / "cpu")[-4:]), rel=0.3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_16_bits_learn(tmp_path, precision):
    _, outcome = train(tmp_path, accelerator="cuda", precision=precision, **PLAIN)
    assert outcome.best > float(read_log(tmp_path / "log.csv")[0]["separation"]) + 0.02
    scaler = load_checkpoint(tmp_path / LAST).scaler
    assert bool(scaler) == (precision == "16-mixed")


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_run_goes_on(tmp_path, precision):
    """Interrupted by its own patience, so to say: the first epochs of a run, and then all of it."""
    given = {"accelerator": "cuda", "precision": precision, **PLAIN}
    whole, outcome = train(tmp_path / "whole", **given)
    with pytest.raises(Exception, match="the loss is nan"):
        train(tmp_path / "broken", spoil=10, **given)
    again, resumed = train(tmp_path / "broken", resume=True, **given)
    assert resumed.steps == outcome.steps
    for name in whole:
        np.testing.assert_allclose(again[name], whole[name], atol=1e-3)
