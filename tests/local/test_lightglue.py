"""LightGlue with random weights: each block against loops typed from cvg/LightGlue's, and what must hold of all."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from resight.errors import QueryError, RecipeError  # noqa: E402
from resight.local.features import LocalFeatures  # noqa: E402
from resight.local.lightglue import (  # noqa: E402
    VARIANTS,
    Assignment,
    CrossBlock,
    Layer,
    LightGlue,
    PositionEncoding,
    SelfBlock,
    Variant,
    load_lightglue,
)

D, HEADS = 8, 2


def network(**options) -> LightGlue:
    torch.manual_seed(0)
    made = LightGlue(Variant(6), dimension=D, heads=HEADS, layers=3, **options).eval()
    for name, parameter in made.named_parameters():
        if "weight" in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.8)  # livelier than PyTorch's, so that the blocks' parts all show
    return made


def drawn(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def linear(layer, x) -> np.ndarray:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return np.array([sum(weight[:, d] * x[d] for d in range(len(x))) + bias])[0]


def updated(ffn, x, message) -> np.ndarray:
    hidden = linear(ffn[0], np.concatenate([x, message]))
    hidden = (hidden - hidden.mean()) / math.sqrt(hidden.var() + 1e-5)
    hidden = hidden * ffn[1].weight.detach().numpy() + ffn[1].bias.detach().numpy()
    hidden = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in hidden])
    return x + linear(ffn[3], hidden)


def attended(queries, keys, values) -> np.ndarray:
    """One head: softmax of scaled products."""
    out = []
    for q in queries:
        weight = np.array([math.exp(q @ k / math.sqrt(len(q))) for k in keys])
        out.append(sum(w * v for w, v in zip(weight / weight.sum(), values, strict=True)))
    return np.array(out)


def turned(vector, angles) -> np.ndarray:
    out = np.empty_like(vector)
    for p, angle in enumerate(angles):
        a, b = vector[2 * p : 2 * p + 2]
        out[2 * p] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * p + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out


def test_self_attention_is_rotary_attention_in_loops():
    torch.manual_seed(1)
    block, encoding = SelfBlock(D, HEADS), PositionEncoding(2, D // HEADS)
    x, at = drawn(5, D, 0), drawn(5, 2, 1)
    found = block(x, encoding(at)).detach().numpy()
    x64, angles = x.double().numpy(), at.double().numpy() @ encoding.Wr.weight.detach().double().numpy().T
    per = D // HEADS
    # Wqkv's outputs are by head, then entry, then q, k and v.
    qkv = np.array([linear(block.Wqkv, row) for row in x64]).reshape(5, HEADS, per, 3)
    contexts = []
    for head in range(HEADS):
        q = [turned(qkv[n, head, :, 0], angles[n]) for n in range(5)]
        k = [turned(qkv[n, head, :, 1], angles[n]) for n in range(5)]
        contexts.append(attended(q, k, qkv[:, head, :, 2]))
    joined = np.concatenate(contexts, axis=1)
    expected = [updated(block.ffn, row, linear(block.out_proj, c)) for row, c in zip(x64, joined, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cross_attention_is_attention_to_the_other_image_in_loops():
    torch.manual_seed(2)
    block = CrossBlock(D, HEADS)
    sides = [drawn(4, D, 0), drawn(6, D, 1)]
    found = block(*sides)
    per = D // HEADS
    rows = [side.double().numpy() for side in sides]
    for own, other in ((0, 1), (1, 0)):
        q = np.array([linear(block.to_qk, r) for r in rows[own]])
        k, v = (np.array([linear(layer, r) for r in rows[other]]) for layer in (block.to_qk, block.to_v))
        heads = [slice(h * per, (h + 1) * per) for h in range(HEADS)]
        joined = np.concatenate([attended(q[:, s], k[:, s], v[:, s]) for s in heads], axis=1)
        expected = [updated(block.ffn, r, linear(block.to_out, c)) for r, c in zip(rows[own], joined, strict=True)]
        np.testing.assert_allclose(found[own].detach().numpy(), expected, atol=1e-5)


def test_assignment_is_a_double_softmax_of_matchable_features():
    torch.manual_seed(3)
    block = Assignment(D)
    x, y = drawn(4, D, 0), drawn(5, D, 1)
    a, b = (np.array([linear(block.final_proj, r) for r in s.double().numpy()]) for s in (x, y))
    z, w = ([float(linear(block.matchability, r)[0]) for r in s.double().numpy()] for s in (x, y))
    s = a @ b.T / math.sqrt(D)
    found = block(x, y).exp().detach().numpy()
    for i in range(4):
        for j in range(5):
            softmaxes = math.exp(s[i, j]) ** 2 / np.exp(s[i]).sum() / np.exp(s[:, j]).sum()
            matchable = 1 / (1 + math.exp(-z[i])) / (1 + math.exp(-w[j]))
            assert found[i, j] == pytest.approx(softmaxes * matchable, rel=1e-4)
    assert (found.sum(axis=0) <= 1).all() and (found.sum(axis=1) <= 1).all()
    np.testing.assert_allclose(block.matchable(x).detach().numpy(), 1 / (1 + np.exp(-np.array(z))), rtol=1e-5)


def test_layers_run_one_after_another():
    made = network(depth_confidence=None, width_confidence=None)
    x, y, at_x, at_y = drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3)
    scores, rows_x, rows_y = made(x, y, at_x, at_y)
    one, two, e, f = made.input_proj(x), made.input_proj(y), made.posenc(at_x), made.posenc(at_y)
    for layer in made.transformers:
        assert isinstance(layer, Layer)
        one, two = layer.self_attn(one, e), layer.self_attn(two, f)
        one, two = layer.cross_attn(one, two)
    torch.testing.assert_close(scores, made.log_assignment[2](one, two))
    assert rows_x.tolist() == list(range(7)) and rows_y.tolist() == list(range(9))


@pytest.mark.parametrize("options", [{}, {"depth_confidence": None, "width_confidence": None}])
def test_the_order_of_features_does_not_matter(options):
    made = network(**options).double()
    x, y, at_x, at_y = (side.double() for side in (drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3)))
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    scores, rows, _ = made(x, y, at_x, at_y)
    shuffled, moved, _ = made(x[order], y, at_x[order], at_y)
    assert sorted(order[moved].tolist()) == rows.tolist()
    torch.testing.assert_close(shuffled, scores[[rows.tolist().index(r) for r in order[moved].tolist()]])
    swapped, _, _ = made(y, x, at_y, at_x)
    torch.testing.assert_close(swapped, scores.T)


def test_positions_matter_only_within_an_image_by_difference():
    made = network(depth_confidence=None, width_confidence=None).double()
    x, y, at_x, at_y = (side.double() for side in (drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3)))
    scores = made(x, y, at_x, at_y)[0]
    torch.testing.assert_close(made(x, y, at_x + torch.tensor([0.3, -1.0]), at_y)[0], scores)
    assert not torch.allclose(made(x, y, 2 * at_x, at_y)[0], scores, atol=1e-2)


def set_heads(made: LightGlue, confidence: float, matchability: float) -> None:
    """All features of this confidence and matchability, whatever they are."""
    for head in made.token_confidence:
        torch.nn.init.zeros_(head.token[0].weight)
        torch.nn.init.constant_(head.token[0].bias, math.log(confidence / (1 - confidence)))
    for assignment in made.log_assignment:
        torch.nn.init.zeros_(assignment.matchability.weight)
        torch.nn.init.constant_(assignment.matchability.bias, math.log(matchability / (1 - matchability)))


@pytest.mark.parametrize(
    ("confidence", "matchability", "layers_read"),
    # The thresholds after the first two of three layers are 0.9 and 0.8 + 0.1 exp(−4/3) = 0.826.
    [(0.95, 0.5, 1), (0.85, 0.5, 2), (0.5, 0.5, 3)],
)
def test_reading_stops_where_the_features_are_confident(confidence, matchability, layers_read):
    made = network()
    set_heads(made, confidence, matchability)
    seen = []
    for layer in made.transformers:
        layer.register_forward_hook(lambda *_: seen.append(1))
    made(drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3))
    assert len(seen) == layers_read


def test_confident_features_that_cannot_match_are_dropped():
    made = network(depth_confidence=None)
    set_heads(made, 0.95, 0.005)
    scores, rows_x, rows_y = made(drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3))
    assert scores.numel() == len(rows_x) == len(rows_y) == 0
    set_heads(made, 0.5, 0.005)  # not confident: they stay
    assert made(drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3))[0].shape == (7, 9)


def test_dropped_features_leave_the_others_rows():
    made = network(depth_confidence=None)
    set_heads(made, 0.95, 0.5)
    with torch.no_grad():  # matchable or not by the first entry of the state
        made.log_assignment[0].matchability.weight[0, 0] = 100.0
    arguments = drawn(7, 6, 0), drawn(9, 6, 1), drawn(7, 2, 2), drawn(9, 2, 3)
    states = [made.input_proj(side) for side in arguments[:2]]
    first = made.transformers[0](*states, *(made.posenc(at) for at in arguments[2:]))
    _, rows_x, rows_y = made(*arguments)
    for side, rows in zip(first, (rows_x, rows_y), strict=True):
        expected = torch.nonzero(torch.sigmoid(100 * side[:, 0]) > 0.01)[:, 0].tolist()
        assert rows.tolist() == expected and 0 < len(expected) < len(side)


def features(descriptors, seed: int, side: int = 100) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    n = len(descriptors)
    xy = rng.uniform(0, side, (n, 2)).astype(np.float32)
    size, angle = (rng.uniform(1, 6, n).astype(np.float32) for _ in range(2))
    return LocalFeatures(xy, size, angle, np.ones(n, np.float32), descriptors)


def test_matches_are_mutual_maxima_above_the_threshold():
    made = network()
    set_heads(made, 0.5, 0.9)
    x, y = features(drawn(12, 6, 0).numpy(), 0), features(drawn(15, 6, 1).numpy(), 1)
    i, j, probability = made.match(x, (100, 80), y, (100, 100), threshold=0.02)
    at_x = torch.from_numpy((x.xy - (50, 40)) / 50).float()
    at_y = torch.from_numpy((y.xy - (50, 50)) / 50).float()
    p = made(torch.from_numpy(x.descriptors), torch.from_numpy(y.descriptors), at_x, at_y)[0].exp().detach().numpy()
    expected = [
        (a, b) for a in range(12) for b in range(15) if p[a, b] == p[a].max() == p[:, b].max() and p[a, b] > 0.02
    ]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected and expected
    np.testing.assert_allclose(probability, [p[pair] for pair in expected], rtol=1e-4)
    assert len(made.match(x, (100, 80), y, (100, 100), threshold=1.0)[0]) == 0


def test_size_and_angle_are_positions_too_where_the_network_has_them():
    torch.manual_seed(0)
    made = LightGlue(Variant(6, oriented=True), dimension=D, heads=HEADS, layers=1).eval()
    x = features(drawn(5, 6, 0).numpy(), 0)
    _, at = made._inputs(x, (200, 100))
    expected = [
        ((p[0] - 100) / 100, (p[1] - 50) / 100, s * 1024 / 200, a)
        for p, s, a in zip(x.xy, x.size, x.angle, strict=True)
    ]
    np.testing.assert_allclose(at.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kept", [np.uint8, np.int8])
def test_descriptors_kept_as_integers_are_brought_to_length_one(kept):
    bounds = np.iinfo(kept)
    made, whole = network(), np.random.default_rng(0).integers(bounds.min, bounds.max, (4, 6)).astype(kept)
    found, _ = made._inputs(features(whole, 0), (9, 9))
    np.testing.assert_allclose(
        found.numpy(), whole / np.linalg.norm(whole.astype(float), axis=1, keepdims=True), rtol=1e-6
    )


def test_no_features_have_no_matches_and_others_descriptors_are_refused():
    made = network()
    nothing, some = features(np.empty((0, 6), np.float32), 0), features(drawn(3, 6, 0).numpy(), 0)
    for pair in ((nothing, some), (some, nothing)):
        assert [len(v) for v in made.match(pair[0], (9, 9), pair[1], (9, 9))] == [0, 0, 0]
    with pytest.raises(QueryError, match="6 entries, not 5"):
        made.match(some, (9, 9), features(np.ones((3, 5), np.float32), 0), (9, 9))


@pytest.mark.parametrize("old", [False, True])
def test_checkpoints_by_their_published_names(tmp_path, old):
    torch.manual_seed(0)
    made = LightGlue(VARIANTS["sift"])
    state = made.state_dict()
    # Numbers typed from cvg/LightGlue: nine layers of 4 heads of 64, SIFT's 128 entries projected to 256.
    assert state["input_proj.weight"].shape == (256, 128) and state["posenc.Wr.weight"].shape == (32, 4)
    assert state["transformers.8.self_attn.Wqkv.weight"].shape == (768, 256)
    assert state["transformers.0.cross_attn.to_qk.bias"].shape == (256,)
    assert state["transformers.0.cross_attn.ffn.3.weight"].shape == (256, 512)
    assert state["log_assignment.8.matchability.weight"].shape == (1, 256)
    assert (
        state["token_confidence.7.token.0.weight"].shape == (1, 256)
        and "token_confidence.8.token.0.weight" not in state
    )
    if old:
        parts = {name: name.split(".") for name in state}
        state = {
            f"{p[2]}.{p[1]}.{'.'.join(p[3:])}" if p[0] == "transformers" else name: state[name]
            for name, p in parts.items()
        }
        assert "self_attn.8.Wqkv.weight" in state
        path = tmp_path / "sift_lightglue.pth"
        torch.save(state, path)
    else:
        path = tmp_path / "sift_lightglue.safetensors"
        save_file({**state, "confidence_thresholds": torch.ones(9)}, path)
    loaded = load_lightglue(path, "sift")
    assert not loaded.training
    for name, tensor in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with pytest.raises(RecipeError, match=r"does not fit.*posenc"):
        load_lightglue(path, "aliked")


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="superpoint, disk, aliked, sift"):
        load_lightglue(tmp_path / "a.pth", "orb")
    with pytest.raises(RecipeError, match="no such weights file"):
        load_lightglue(tmp_path / "a.pth", "sift")
    state = LightGlue(VARIANTS["superpoint"]).state_dict()
    assert "input_proj.weight" not in state
    state.pop("transformers.3.self_attn.out_proj.bias")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(RecipeError, match=r"missing transformers\.3\.self_attn\.out_proj\.bias"):
        load_lightglue(tmp_path / "b.pth", "superpoint")
