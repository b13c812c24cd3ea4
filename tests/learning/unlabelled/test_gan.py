"""The game of retrieving and judging, against its definition, and on vectors where what matters is planted."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.learning.unlabelled.gan import AdversarialLoss, gan_pools  # noqa: E402
from resight.learning.unlabelled.stages import GanStage  # noqa: E402


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture
def game():
    """Descriptors of ten photos, by the network and by what it was; two queries with three and two negatives."""
    rng = np.random.default_rng(4)
    x, original = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 10, 5)))
    return x, original, {7: (2, [0, 5, 9]), 1: (3, [4, 6])}


def value(x, original, queries, w, middle, temperature):
    """V, photo by photo."""
    total, original = 0.0, original - original.mean(axis=0)
    for q, (p, negatives) in queries.items():
        able = [p, *negatives]
        powers = np.exp([x[q] @ x[c] / temperature for c in able])
        judged = [sigmoid(10 * (cosine(w @ original[q], w @ original[c]) - middle)) for c in able]
        total += np.log(judged[0]) + sum(g * np.log(1 - d) for g, d in zip(powers / powers.sum(), judged, strict=True))
    return total / len(queries)


def test_each_player_follows_its_own_gradient_of_the_value(game):
    """Finite differences of V: downwards for the network, upwards for the judge; the picture as it was has none."""
    x, original, queries = game
    loss = AdversarialLoss(5, 3, 0.2, seed=1).double()
    w, middle = loss.judge.detach().numpy().copy(), 0.5
    rows = [(q, p, n) for q, (p, negatives) in queries.items() for n in negatives]
    tuples = tuple(torch.tensor(column) for column in zip(*rows, strict=True))
    given, before = torch.tensor(x, requires_grad=True), torch.tensor(original, requires_grad=True)
    loss(given, torch.arange(10), tuples, None, before).backward()

    def slope(change):
        step = 1e-6
        up, down = (value(*change(s)) for s in (step, -step))
        return (up - down) / (2 * step)

    def moved(array, at, s):
        array = array.copy()
        array[at] += s
        return array

    for at in np.ndindex(x.shape):
        wanted = slope(lambda s, at=at: (moved(x, at, s), original, queries, w, middle, 0.2))
        assert given.grad[at].item() == pytest.approx(wanted, abs=1e-7)
    for at in np.ndindex(w.shape):
        wanted = slope(lambda s, at=at: (x, original, queries, moved(w, at, s), middle, 0.2))
        assert loss.judge.grad[at].item() == pytest.approx(-wanted, abs=1e-6)
    wanted = slope(lambda s: (x, original, queries, w, middle + s, 0.2))
    assert loss.middle.grad.item() == pytest.approx(-wanted, abs=1e-6)


def test_figures_are_what_the_judge_says(game):
    x, original, _ = game
    loss = AdversarialLoss(5, 3, 0.2).double()
    w = loss.judge.detach().numpy()
    tuples = tuple(map(torch.tensor, ([7, 7, 7], [2, 2, 2], [0, 5, 9])))
    before, original = torch.tensor(original), original - original.mean(axis=0)
    found = loss(torch.tensor(x), torch.arange(10), tuples, None, before)
    true = sigmoid(10 * (cosine(w @ original[7], w @ original[2]) - 0.5))
    assert found.item() == pytest.approx(-np.log(true)) and loss.figures["judged true"] == pytest.approx(true)
    powers = np.exp([x[7] @ x[c] / 0.2 for c in (2, 0, 5, 9)])
    judged = [sigmoid(10 * (cosine(w @ original[7], w @ original[c]) - 0.5)) for c in (2, 0, 5, 9)]
    assert loss.figures["judged retrieved"] == pytest.approx(powers @ judged / powers.sum())
    with pytest.raises(ValueError, match="as it was"):
        loss(torch.tensor(x), torch.arange(10), tuples)
    with pytest.raises(ValueError, match="triplets"):
        loss(torch.tensor(x), torch.arange(10), None, None, before)


def test_true_neighbours_are_reciprocal_and_stay(rings):
    x, _ = rings(arcs=3, each=12)
    stage = GanStage(kind="gan", graph=4, k=10)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1)
    pools = gan_pools(x, stage)
    for n, positives, negatives in zip(pools.anchors.tolist(), pools.positives, pools.negatives, strict=True):
        true = [int(p) for p in near[n, :4] if n in near[p, :4]]
        assert positives.tolist() == true and negatives.tolist() == [int(m) for m in near[n, :10] if m not in true]
    moved = np.roll(x, 1, axis=1)[::-1].copy()
    later = gan_pools(moved, stage, pools)
    for n, positives, negatives in zip(later.anchors.tolist(), later.positives, later.negatives, strict=True):
        assert positives.tolist() == pools.positives[pools.anchors.tolist().index(n)].tolist()
        order = np.argsort(-np.where(np.arange(36) == n, -2, moved @ moved[n]))[:10]
        assert set(negatives.tolist()) == set(order.tolist()) - set(positives.tolist())


def test_the_judge_leads(game):
    x, original, _ = game
    loss = AdversarialLoss(5, 0, 0.2).double()
    loss.leads = True
    given = torch.tensor(x, requires_grad=True)
    tuples = tuple(map(torch.tensor, ([7, 7, 7], [2, 2, 2], [0, 5, 9])))
    before = torch.tensor(original)
    loss(given, torch.arange(10), tuples, None, before).backward()
    assert not given.grad.any() and loss.judge.grad.any()
    # It begins by the cosines of what it is given.
    expected = 10 * ((before[:5] * before[5:]).sum(1) - 0.5)
    torch.testing.assert_close(loss.judged(before[:5], before[5:]), expected)


def test_the_game_teaches_what_stays_the_same_from_view_to_view():
    """Things differ in four of sixteen directions; in the others each view of a photo is another. Held out: things."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 5)
    signal = 1.2 * rng.normal(size=(60, 4))[labels]

    def view():
        x = np.concatenate([signal, 0.75 * rng.normal(size=(300, 12))], axis=1)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def precision(y, own):
        cosines = y @ y.T
        np.fill_diagonal(cosines, -2)
        return np.mean(own[np.argsort(-cosines, axis=1)[:, :4]] == own[:, None])

    plain, held = view(), slice(200, 300)
    pools = gan_pools(plain[:200], GanStage(kind="gan", graph=4, k=15))
    network = torch.nn.Linear(16, 16, bias=False)
    torch.nn.init.eye_(network.weight)
    loss = AdversarialLoss(16, 0, 0.1)
    groups = [{"params": network.parameters()}, {"params": loss.parameters(), "lr": 0.015}]
    optimiser = torch.optim.Adam(groups, 0.003)
    before = precision(plain[held], labels[held])
    for step in range(150):
        loss.leads = step < 30
        rows = [
            (q, p, n)
            for q, own, others in zip(pools.anchors.tolist(), pools.positives, pools.negatives, strict=True)
            for p in [rng.choice(own)]
            for n in others.tolist()
        ]
        tuples = tuple(torch.from_numpy(column.copy()) for column in np.array(rows).T)
        given = torch.from_numpy(view()[:200])
        optimiser.zero_grad()
        made = torch.nn.functional.normalize(network(given))
        loss(made, torch.arange(200), tuples, None, given).backward()
        optimiser.step()
    with torch.no_grad():
        learned = torch.nn.functional.normalize(network(torch.from_numpy(plain[held]))).numpy()
    assert before < 0.5 and precision(learned, labels[held]) > before + 0.2  # 0.46, 0.77
