"""The loop: it learns, stops where it should, and goes on from where it was to the same weights, bit for bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_task import SmallTask, settings, train
from torch import nn

from resight.errors import RecipeError
from resight.learning.checkpoint import load_checkpoint, load_module
from resight.learning.launch import check_devices, launch
from resight.learning.log import read_log
from resight.learning.optimisation import make_optimiser, rate_at, set_rate
from resight.learning.trainer import BEST, LAST, run

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder with a run of four epochs, its weights and its outcome."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *train(folder)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_it_learns_logs_and_keeps_the_best(unbroken):
    folder, weights, outcome = unbroken
    rows = read_log(folder / "log.csv")
    validation = [float(row["separation"]) for row in rows if row["part"] == "validation"]
    assert outcome.epochs == 4 and outcome.steps == 16 and not outcome.stopped
    assert len(validation) == 5 and max(validation[1:]) == outcome.best > validation[0] + 0.02
    assert validation.index(outcome.best) == outcome.best_epoch
    best = load_module(folder / BEST)
    assert same({name: tensor.numpy() for name, tensor in best.items()}, weights)
    trained = [row for row in rows if row["part"] == "train"]
    assert [int(row["step"]) for row in trained] == list(range(1, 17))
    assert all(float(row["loss"]) > 0 and float(row["gradient"]) > 0 for row in trained)
    assert not any("separation" in row for row in trained)
    assert any(file.name.startswith("events") for file in (folder / "events").iterdir())


def test_steps_are_those_of_torchs_own_optimiser_and_scheduler(unbroken):
    """The same by a plain loop, with torch's LambdaLR for cosine and warm-up."""
    task = SmallTask()
    made = torch.optim.AdamW([dict(group, lr=0.01 * group.get("lr", 1)) for group in task.groups()], weight_decay=1e-4)
    factor = lambda step: 0.5 * (1 + np.cos(np.pi * step / 16)) * min(1, (step + 1) / 3)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(made, factor)
    for epoch in range(4):
        for batch in task.batches(epoch):
            made.zero_grad()
            task.backward(batch, epoch, schedule.last_epoch, lambda loss: loss.backward())
            made.step()
            schedule.step()
    last = load_checkpoint(unbroken[0] / LAST)
    for name, tensor in task.module.state_dict().items():
        torch.testing.assert_close(last.module[name], tensor, atol=1e-6, rtol=1e-5)


def events(folder: Path) -> dict[str, float]:
    """TensorBoard's file, whose records are of a length, its checksum, the event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found |= {f"{value.tag} {event.step}": value.simple_value for value in event.summary.value}
            at += 16 + length
    return found


def test_tensorboard_has_the_same_figures(unbroken):
    found = events(unbroken[0] / "events")
    for row in read_log(unbroken[0] / "log.csv"):
        figure = "loss" if row["part"] == "train" else "separation"
        assert found[f"{row['part']}/{figure} {row['step']}"] == pytest.approx(float(row[figure]), rel=1e-6)


def start(folder, slow=0.1, *, resume=False):
    path = os.pathsep.join([str(HELPERS), str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(HELPERS / "small_task.py"), str(folder), str(slow), *(["resume"] if resume else [])],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(folder, rows, process):
    """Return once the log has so many rows."""
    for _ in range(600):
        if len(read_log(folder / "log.csv")) >= rows:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    pytest.fail("it does not train")


@pytest.mark.parametrize("rows", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 6, 13))])
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(unbroken, tmp_path, rows):
    folder, weights, outcome = unbroken
    process = start(tmp_path)
    wait_for(tmp_path, rows, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / LAST).position.step < 16
    again, resumed = train(tmp_path, resume=True)
    assert same(again, weights) and resumed == outcome
    a, b = load_checkpoint(folder / LAST), load_checkpoint(tmp_path / LAST)
    assert all(torch.equal(a.module[name], b.module[name]) for name in a.module)
    assert all(torch.equal(a.optimiser[n][key], b.optimiser[n][key]) for n in a.optimiser for key in a.optimiser[n])
    assert (tmp_path / "log.csv").read_bytes() == (folder / "log.csv").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_leaves_a_checkpoint_of_its_step(unbroken, tmp_path, number):
    process = start(tmp_path)
    wait_for(tmp_path, 6, process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    position = load_checkpoint(tmp_path / LAST).position
    assert 4 <= position.step < 16 and position.rows == len(read_log(tmp_path / "log.csv"))
    again, _ = train(tmp_path, resume=True)
    assert same(again, unbroken[1])


def test_a_run_that_is_done_is_done(unbroken, tmp_path):
    folder, weights, outcome = unbroken
    before = (folder / "log.csv").read_bytes()
    again, resumed = train(folder, resume=True)
    assert same(again, weights) and resumed == outcome and (folder / "log.csv").read_bytes() == before


def test_other_settings_do_not_go_on(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(RecipeError, match=r"begun with rate = 0.01, not 0.02"):
        train(tmp_path, epochs=1, rate=0.02, resume=True)


@pytest.mark.parametrize("spoil", [0, 6])
def test_a_loss_that_is_no_number_stops_it_and_keeps_what_was_before(tmp_path, spoil):
    with pytest.raises(
        RecipeError, match=f"epoch {1 + spoil // 4}, step {spoil + 1}: the loss is nan.*lower rate.*0.001"
    ):
        train(tmp_path, spoil=spoil)
    kept = load_checkpoint(tmp_path / LAST)
    assert kept.position.step == spoil - spoil % 3 if spoil else kept.position.step == 0
    assert all(tensor.isfinite().all() for tensor in kept.module.values())


def test_a_gradient_that_is_no_number_stops_it(tmp_path):
    class Root(SmallTask):
        def backward(self, batch, epoch, step, propagate):
            propagate((self.module[0].weight * 0).square().sum().sqrt())  # 0, of slope 0/0
            return {"loss": 0.0}

    with pytest.raises(RecipeError, match="step 1: the gradient is nan"):
        launch(settings(), lambda fabric: run(Root(), settings(), tmp_path, fabric, identity={}))


def test_patience_stops_it_and_the_best_is_what_is_left(tmp_path):
    class Worse(SmallTask):
        def __init__(self):
            super().__init__()
            self.figures = iter([0.0, 0.2, 0.5, 0.4, 0.5, 0.9])

        def validate(self):
            return {"figure": next(self.figures), "other": 9.0}

    task = Worse()
    outcome = launch(
        settings(epochs=9, patience=2),
        lambda fabric: run(task, settings(epochs=9, patience=2), tmp_path, fabric, identity={}),
    )
    assert outcome.stopped and outcome.epochs == 4 and outcome.best == 0.5
    assert outcome.best_epoch == 4  # of equals the later, which has learned more
    assert read_log(tmp_path / "log.csv")[-1]["other"] == "9.0"


def test_without_validation_the_last_weights_are_left(tmp_path):
    class Blind(SmallTask):
        def validate(self):
            return {}

    task = Blind()
    outcome = launch(settings(), lambda fabric: run(task, settings(), tmp_path, fabric, identity={}))
    assert outcome.best is None and not (tmp_path / BEST).exists()
    last = load_checkpoint(tmp_path / LAST).module
    assert all(torch.equal(last[name], tensor) for name, tensor in task.module.state_dict().items())


def test_an_epoch_without_batches_is_an_error(tmp_path):
    class Empty(SmallTask):
        def batches(self, epoch):
            return []

    with pytest.raises(RecipeError, match="epoch 1 has no batch"):
        launch(settings(), lambda fabric: run(Empty(), settings(), tmp_path, fabric, identity={}))


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be made"):
        train(tmp_path / "file" / "run")


def test_clipping_bounds_the_step(tmp_path):
    """Plain gradient descent moves by rate times the clipped gradient, and no more."""
    plain = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warm_up": 0}
    task = SmallTask()
    before = [p.detach().clone() for p in task.module.parameters()]
    chosen = settings(clip=1e-3, epochs=1, rate=1.0, **plain)

    class OneBatch(SmallTask):
        def batches(self, epoch):
            return super().batches(epoch)[:1]

        def groups(self):
            return [{"params": list(self.module.parameters())}]

    task = OneBatch()
    launch(chosen, lambda fabric: run(task, chosen, tmp_path, fabric, identity={}))
    moved = torch.cat([(a - b).flatten() for a, b in zip(task.module.parameters(), before, strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(1e-3, rel=1e-3)
    assert float(read_log(tmp_path / "log.csv")[1]["gradient"]) > 2e-3


def test_bf16_learns_too(tmp_path):
    _, outcome = train(tmp_path, precision="bf16-mixed")
    first = float(read_log(tmp_path / "log.csv")[0]["separation"])
    assert outcome.best > first + 0.02


@pytest.mark.slow
def test_two_processes_learn_what_one_does(unbroken, tmp_path):
    weights, outcome = train(tmp_path, devices=2)
    assert outcome.steps == 16
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor, unbroken[1][name], atol=2e-5)
    one, two = (read_log(folder / "log.csv") for folder in (unbroken[0], tmp_path))
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "gradient", "separation"):
            assert name not in a or float(a[name]) == pytest.approx(float(b[name]), rel=1e-3)


def test_rates():
    chosen = settings(schedule="exponential", decay=0.5, warm_up=0)
    assert [rate_at(chosen, epoch, 9, 0.3) for epoch in range(3)] == [0.01, 0.005, 0.0025]
    chosen = settings(schedule="cosine", warm_up=4)
    assert rate_at(chosen, 0, 0, 0) == pytest.approx(0.0025)
    assert rate_at(chosen, 2, 100, 0.5) == pytest.approx(0.005)
    assert rate_at(chosen, 3, 100, 1.0) == pytest.approx(0)
    assert rate_at(settings(schedule="constant", warm_up=0), 3, 100, 0.9) == 0.01
    net = nn.Linear(2, 2)
    for name in ("adamw", "adam", "sgd"):
        made = make_optimiser(settings(optimiser=name), [{"params": [net.weight]}, {"params": [net.bias], "lr": 10.0}])
        set_rate(made, 0.5)
        assert [group["lr"] for group in made.param_groups] == [0.5, 5.0]
    with pytest.raises(ValueError, match="no parameter learns"):
        make_optimiser(settings(), [{"params": [net.weight.detach()]}])


def test_devices_that_are_not_there_are_refused():
    for changes in ({"accelerator": "cuda"}, {"accelerator": "mps"}, {"precision": "16-mixed"}):
        if "accelerator" in changes and getattr(torch, changes["accelerator"]).is_available():
            continue
        with pytest.raises(RecipeError, match="GPU"):
            check_devices(settings(**changes))


def test_the_log_is_a_table(unbroken):
    with (unbroken[0] / "log.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0][:3] == ["epoch", "step", "part"] and {len(row) for row in table} == {len(table[0])}


@pytest.mark.slow
def test_an_error_of_several_processes_is_said_as_of_one(tmp_path):
    with pytest.raises(RecipeError, match="step 7: the loss is nan"):
        train(tmp_path, spoil=6, devices=2)
