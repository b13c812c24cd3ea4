"""Anchors, their assignment, losses and proposals against loops written from Ren et al.; a planted task is learned."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.regions.map_rpn import MapRpn, make_anchors  # noqa: E402


def iou(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(high, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def encoded(box, anchor):
    """Ren et al., Eq. 2: (x − x_a)/w_a, (y − y_a)/h_a, log(w/w_a), log(h/h_a) of centres and sides."""
    (w, h), (wa, ha) = ((b[2] - b[0], b[3] - b[1]) for b in (box, anchor))
    return [
        ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / wa,
        ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / ha,
        math.log(w / wa),
        math.log(h / ha),
    ]


def decoded(move, anchor):
    wa, ha = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (anchor[0] + anchor[2]) / 2 + move[0] * wa, (anchor[1] + anchor[3]) / 2 + move[1] * ha
    w, h = wa * math.exp(move[2]), ha * math.exp(move[3])
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def labelled(anchors, boxes):
    """1, 0 or −1 of each anchor, and the box it is for: by the definition, one pair at a time."""
    overlaps = [[iou(a, b) for b in boxes] for a in anchors]
    nearest = [max(range(len(boxes)), key=row.__getitem__) for row in overlaps]
    labels = [1 if max(row) >= 0.7 else 0 if max(row) < 0.3 else -1 for row in overlaps]
    for b in range(len(boxes)):
        best = max(row[b] for row in overlaps)
        for a, row in enumerate(overlaps):
            if row[b] == best:
                labels[a] = 1
    return labels, nearest


def decided(anchors, boxes):
    """Whether rounding decides nothing: no overlap is at a threshold, and one anchor is the best of each box."""
    overlaps = np.array([[iou(a, b) for b in boxes] for a in anchors])
    near = np.sort(np.concatenate([np.abs(overlaps - limit).ravel() for limit in (0.3, 0.7)]))[0]
    ordered = np.sort(overlaps, axis=0)
    return min(near, (ordered[-1] - ordered[-2]).min()) > 1e-5


@pytest.fixture(scope="module")
def model():
    """A network whose logits and moves have opinions."""
    network = MapRpn(6, hidden=8, sizes=(0.25, 0.5), ratios=(0.5, 1.0, 2.0), seed=3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def a_map(seed, rows=5, columns=7, channels=6):
    return torch.randn(1, channels, rows, columns, generator=torch.Generator().manual_seed(seed))


def test_anchors_by_hand():
    found = make_anchors((2, 1), (200, 100), sizes=(0.1, 0.4), ratios=(1.0, 4.0))
    # √area 20 and 80 pixels; of ratio 4 half as wide and twice as high; centres (50, 50) and (150, 50)
    first = [[40, 40, 60, 60], [45, 30, 55, 70], [10, 10, 90, 90], [30, -30, 70, 130]]
    np.testing.assert_allclose(found.numpy(), [*first, *np.add(first, [100, 0, 100, 0])], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_losses_are_those_of_a_loop_over_anchors_and_boxes(model, seed, count):
    rng = np.random.default_rng(seed)
    corner = rng.uniform((0, 0), (70, 50), (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(15, 70, (count, 2))], axis=1).astype(np.float32)
    x, picture = a_map(seed), (140, 100)
    anchors = model.anchors(x, picture).double().tolist()
    labels, nearest = labelled(anchors, boxes.astype(float).tolist())
    assume(decided(anchors, boxes.astype(float).tolist()))
    with torch.no_grad():
        logits, moves = (part.double().tolist() for part in model(x))
        found = model.losses(x, picture, torch.from_numpy(boxes), seed)
    chosen = [a for a, label in enumerate(labels) if label >= 0]
    positive = [a for a in chosen if labels[a] == 1]
    assert len(chosen) <= 256 and len(positive) <= 128  # so that all are drawn
    cross = [math.log1p(math.exp(-logits[a] if labels[a] else logits[a])) for a in chosen]
    smooth = 0.0
    for a in positive:
        for m, t in zip(moves[a], encoded(boxes[nearest[a]].tolist(), anchors[a]), strict=True):
            d = abs(m - t)
            smooth += 0.5 * d * d * 9 if d < 1 / 9 else d - 1 / 18
    assert found["objectness"].item() == pytest.approx(sum(cross) / len(cross), rel=1e-4)
    assert found["box"].item() == pytest.approx(smooth / len(chosen), rel=1e-4)


def test_what_is_drawn_follows_from_the_seed_and_leaves_torchs_generator_alone(model):
    x, boxes = a_map(0, 12, 16), torch.tensor([[20.0, 10, 90, 80]])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (model.losses(x, (140, 100), boxes, seed)["objectness"].item() for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_proposals_are_decoded_suppressed_and_cut_as_by_a_loop(model):
    x, picture, top, overlap = a_map(4), (140, 100), 9, 0.6
    with torch.no_grad():
        logits, moves = (part.double().tolist() for part in model(x))
    anchors = model.anchors(x, picture).double().tolist()
    boxes = []
    for move, anchor in zip(moves, anchors, strict=True):
        x1, y1, x2, y2 = decoded(move, anchor)
        boxes.append([max(x1, 0), max(y1, 0), min(x2, 140), min(y2, 100)])
    kept = []
    for a in sorted(range(len(logits)), key=lambda a: -logits[a])[: 10 * top]:
        if len(kept) < top and all(iou(boxes[a], boxes[k]) <= overlap for k in kept):
            kept.append(a)
    found, scores = model.propose(x, picture, top=top, overlap=overlap)
    assert found.dtype == scores.dtype == np.float32 and len(kept) == top
    np.testing.assert_allclose(found, [boxes[k] for k in kept], atol=1e-3)
    np.testing.assert_allclose(scores, [1 / (1 + math.exp(-logits[k])) for k in kept], rtol=1e-4)


def test_layers_are_read_in_the_order_of_anchors(model):
    """One position of the map is raised: the anchors whose logits change most are centred near it."""
    x = torch.zeros(1, 6, 9, 9)
    with torch.no_grad():
        plain = model(x)[0]
        x[0, :, 6, 2] = 5
        changed = (model(x)[0] - plain).abs().reshape(9, 9, 6).amax(dim=2)
    rows, columns = np.nonzero(changed.numpy() > 1e-6)
    assert set(rows) <= {5, 6, 7} and set(columns) <= {1, 2, 3} and len(rows) > 0


def test_a_bright_square_is_learned():
    rng = np.random.default_rng(0)

    def example():
        side = int(rng.integers(4, 8))
        left, top = rng.integers(0, 16 - side, 2)
        x = torch.from_numpy(rng.normal(0, 0.2, (1, 3, 16, 16)).astype(np.float32))
        x[0, :, top : top + side, left : left + side] += 1
        pool = torch.nn.functional.avg_pool2d  # a trunk's field of view, as the 3×3 convolution sees little
        x = torch.cat([pool(x, k, 1, k // 2) for k in (1, 3, 5, 7, 9)], dim=1) - 0.5
        return x, torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32) * 8

    network = MapRpn(15, hidden=24, sizes=(0.25, 0.33, 0.42), ratios=(1.0,), seed=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(300):
        x, boxes = example()
        optimiser.zero_grad()
        sum(network.losses(x, (128, 128), boxes, step).values()).backward()
        optimiser.step()
    overlaps = []
    for _ in range(20):
        x, boxes = example()
        found, _ = network.propose(x, (128, 128), top=1, overlap=0.7)
        overlaps.append(iou(found[0].tolist(), boxes[0].tolist()))
    assert np.mean(np.array(overlaps) > 0.5) >= 0.9, overlaps


def test_a_saved_network_is_the_same(model, tmp_path):
    path = tmp_path / "proposals.safetensors"
    fingerprint = model.save(path)
    loaded = MapRpn.load(path)
    assert loaded.fingerprint == fingerprint == model.fingerprint
    for one, other in zip(model(a_map(9)), loaded(a_map(9)), strict=True):
        assert torch.equal(one, other)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_seeds_decide_the_first_weights():
    one, same, other = (MapRpn(4, seed=seed).fingerprint for seed in (1, 1, 2))
    assert one == same != other


def test_what_does_not_fit_is_named(model, tmp_path):
    with pytest.raises(RecipeError, match="sizes and ratios above 0"):
        MapRpn(4, sizes=(0.0,))
    with pytest.raises(RecipeError, match="sizes and ratios above 0"):
        MapRpn(4, ratios=())
    with pytest.raises(ValueError, match="the map must be 1×6×h×w"):
        model(torch.zeros(1, 5, 4, 4))
    with pytest.raises(RecipeError, match="no such file"):
        MapRpn.load(tmp_path / "none.safetensors")
