"""The Reranking Transformer against naive attention in double precision, its published layout, and a short training."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import functional_call  # noqa: E402

from resight.errors import QueryError, RecipeError  # noqa: E402
from resight.search.ranking import Ranking  # noqa: E402
from resight.search.rerank.transformer import (  # noqa: E402
    SCALES,
    Batch,
    Pair,
    RerankingTransformer,
    Tokens,
    TransformerReranker,
    fit,
    train_step,
)

# Shapes in the authors' checkpoints, of their ``model.RRT`` for DELG: 2048 global and 128 local dimensions, 6 layers.
PUBLISHED = {
    "remap.weight": (128, 2048),
    "remap.bias": (128,),
    "scale_encoder.weight": (7, 128),
    "seg_encoder.weight": (6, 128),
    "classifier.weight": (1, 128),
    "classifier.bias": (1,),
} | {
    f"encoder.layers.{layer}.{name}": shape
    for layer in range(6)
    for name, shape in {
        "self_attn.in_proj_weight": (384, 128),
        "self_attn.in_proj_bias": (384,),
        "self_attn.out_proj.weight": (128, 128),
        "self_attn.out_proj.bias": (128,),
        "linear1.weight": (1024, 128),
        "linear1.bias": (1024,),
        "linear2.weight": (128, 1024),
        "linear2.bias": (128,),
        "norm1.weight": (128,),
        "norm1.bias": (128,),
        "norm2.weight": (128,),
        "norm2.bias": (128,),
    }.items()
}


def tokens_of(n, seed, g=5, d=8):
    rng = np.random.default_rng(seed)
    draw = rng.normal(size=g), rng.normal(size=(n, d))
    return Tokens(*(v.astype(np.float32) for v in draw), rng.integers(0, 7, n))


def small(**options):
    """A model all of whose parameters, also biases, are drawn."""
    model = RerankingTransformer(5, 8, **{"heads": 2, "layers": 2, "feedforward": 12, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def of_length_one(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def naive_logit(model, query, gallery):
    """One pair, token by token and head by head, from the definition of a post-norm transformer encoder."""
    p = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
    segment = p["seg_encoder.weight"]

    def side(image, local, whole):
        vector = of_length_one(p["remap.weight"] @ image.vector.astype(float) + p["remap.bias"])
        descriptors = of_length_one(image.descriptors.astype(float)) + p["scale_encoder.weight"][image.scales]
        return [vector + segment[whole], *(descriptors + segment[local])]

    def norm(x, name):
        spread = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return (x - x.mean(axis=1, keepdims=True)) / spread * p[name + ".weight"] + p[name + ".bias"]

    x = np.array([segment[2], *side(query, 0, 4), segment[3], *side(gallery, 1, 5)])
    n, d = x.shape
    size = d // model.heads
    for i in range(len(model.encoder.layers)):
        at = f"encoder.layers.{i}."
        q, k, v = np.split(x @ p[at + "self_attn.in_proj_weight"].T + p[at + "self_attn.in_proj_bias"], 3, axis=1)
        seen = np.zeros((n, d))
        for part in (slice(h * size, (h + 1) * size) for h in range(model.heads)):
            for row in range(n):
                weights = np.exp([q[row, part] @ k[other, part] / np.sqrt(size) for other in range(n)])
                seen[row, part] = sum(w * v[other, part] for other, w in enumerate(weights)) / weights.sum()
        x = norm(x + seen @ p[at + "self_attn.out_proj.weight"].T + p[at + "self_attn.out_proj.bias"], at + "norm1")
        hidden = np.maximum(0, x @ p[at + "linear1.weight"].T + p[at + "linear1.bias"])
        x = norm(x + hidden @ p[at + "linear2.weight"].T + p[at + "linear2.bias"], at + "norm2")
    return float(p["classifier.weight"][0] @ x[0] + p["classifier.bias"][0])


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_those_of_naive_attention(training):
    """Of pairs of several lengths in one batch, in training and in torch's faster path without it."""
    model = small().train(training)
    queries, gallery = (
        [tokens_of(n, s) for n, s in pairs] for pairs in ([(3, 1), (6, 2), (0, 3)], [(5, 4), (2, 5), (4, 6)])
    )
    with torch.inference_mode(not training):
        logits = model(Batch.of(queries), Batch.of(gallery)).detach().numpy()
    expected = [naive_logit(model, q, g) for q, g in zip(queries, gallery, strict=True)]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_the_order_of_local_descriptors_does_not_matter_but_whose_they_are_does():
    model = small().eval()
    query, gallery = tokens_of(7, 1), tokens_of(5, 2)

    def shuffled(t, seed):
        order = np.random.default_rng(seed).permutation(len(t.scales))
        return Tokens(t.vector, t.descriptors[order], t.scales[order])

    def logit(query, gallery):
        return TransformerReranker(model, {0: gallery}).logits(query, np.array([0]))[0]

    expected = logit(query, gallery)
    for seed in range(3):
        assert logit(shuffled(query, seed), shuffled(gallery, seed + 9)) == pytest.approx(expected, abs=1e-5)
    assert abs(logit(gallery, query) - expected) > 1e-3
    rescaled = Tokens(query.vector, 3 * query.descriptors, query.scales)
    assert logit(rescaled, gallery) == pytest.approx(expected, abs=1e-5)
    other_scales = Tokens(query.vector, query.descriptors, (query.scales + 1) % 7)
    assert abs(logit(other_scales, gallery) - expected) > 1e-3


def test_gradients_agree_with_finite_differences():
    model = small(layers=1).double()
    names = [name for name, _ in model.named_parameters()]
    values = [value.detach().clone().requires_grad_() for value in model.parameters()]
    query, gallery = (Batch.of([tokens_of(3, s), tokens_of(2, s + 1)]) for s in (1, 3))
    query, gallery = (
        b._replace(vectors=b.vectors.double(), descriptors=b.descriptors.double()) for b in (query, gallery)
    )
    model.requires_grad_(False)

    def logits(descriptors, *parameters):
        pair = query._replace(descriptors=descriptors), gallery
        return functional_call(model, dict(zip(names, parameters, strict=True)), pair)

    # Padding is all zeros, where a unit vector has no derivative: only the features themselves are varied.
    shown = (~query.padding)[:, :, None]
    given = query.descriptors.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, *p: logits(torch.where(shown, x, 0), *p), (given, *values), fast_mode=True
    )


def test_scales_are_the_nearest_published_ones():
    found = Tokens.of(np.ones(2), np.ones((9, 3)), [*SCALES, 0.1, 1.19], limit=9).scales
    assert found.tolist() == [*range(7), 0, 3]
    assert Tokens.of(np.ones(2), np.ones((9, 3)), np.full(9, 1 / 1.41421354)).scales.tolist() == [1] * 9
    assert len(Tokens.of(np.ones(2), np.ones((9, 3)), np.ones(9), limit=4).descriptors) == 4


def published_state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict((name, 0.05 * torch.randn(shape, generator=generator)) for name, shape in PUBLISHED.items())


def test_the_published_layout_is_read_whole(tmp_path):
    state, path = published_state(), tmp_path / "r50_gldv2.pt"
    parameter = torch.nn.Parameter(torch.zeros(2))
    optim = torch.optim.AdamW([parameter])
    (parameter.sum() ** 2).backward()
    optim.step()
    torch.save({"state": OrderedDict((f"module.{k}", v) for k, v in state.items()), "optim": optim.state_dict()}, path)
    model = RerankingTransformer.from_published(path)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == PUBLISHED
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.heads == 4 and not model.training and "r50_gldv2.pt" in model.fitted_on
    query, gallery = (tokens_of(4, s, g=2048, d=128) for s in (1, 2))
    found = TransformerReranker(model, {0: gallery}).logits(query, np.array([0]))[0]
    assert found == pytest.approx(naive_logit(model, query, gallery), abs=1e-5)


def test_the_default_sizes_are_the_published_ones():
    assert {name: tuple(tensor.shape) for name, tensor in RerankingTransformer().state_dict().items()} == PUBLISHED


def test_other_parameters_are_refused(tmp_path):
    def refused(says, **changes):
        state = published_state() | changes
        torch.save({"state": {k: v for k, v in state.items() if v is not None}}, tmp_path / "w.pt")
        with pytest.raises(RecipeError, match=says):
            RerankingTransformer.from_published(tmp_path / "w.pt")

    refused("missing classifier.bias", **{"classifier.bias": None})
    refused("unexpected pos_encoder.row_embed.weight", **{"pos_encoder.row_embed.weight": torch.zeros(64, 64)})
    refused("misshapen seg_encoder.weight", **{"seg_encoder.weight": torch.zeros(4, 128)})
    refused(r"missing encoder\.layers\.6\..* and 6 more", **{"encoder.layers.6.linear1.weight": torch.zeros(1024, 128)})
    refused("remap.weight", **{"remap.weight": None})
    torch.save({"state": published_state()}, tmp_path / "w.pt")
    for heads in (0, 3):
        with pytest.raises(RecipeError, match=f"of {heads} heads"):
            RerankingTransformer.from_published(tmp_path / "w.pt", heads=heads)


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(RecipeError, match="no such weights"):
        RerankingTransformer.from_published(tmp_path / "absent.pt")
    for content in (published_state(), [1], {"state": {"a": 1}}, {"state": {"a": np.random.default_rng}}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(RecipeError, match=r"w\.pt"):
            RerankingTransformer.from_published(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(RecipeError, match="not a readable"):
        RerankingTransformer.from_published(tmp_path / "w.pt")


def test_saving_and_loading(tmp_path):
    model = small(heads=4, fitted_on="pairs")
    assert model.save(tmp_path / "rrt.safetensors") == model.save(tmp_path / "again.safetensors")
    loaded = RerankingTransformer.load(tmp_path / "rrt.safetensors")
    assert (loaded.heads, loaded.fitted_on, len(loaded.encoder.layers)) == (4, "pairs", 2)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def pictures(n, seed):
    """n pairs of pictures of three things, half of them matches: of each thing a few noisy parts, and some clutter."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    parts, wholes = fixed.normal(size=(3, 4, 16)), fixed.normal(size=(3, 8))

    def picture(thing):
        seen = parts[thing][rng.permutation(4)[:3]] + 0.2 * rng.normal(size=(3, 16))
        descriptors = rng.permutation(np.vstack([seen, rng.normal(size=(1, 16))]))
        vector = wholes[thing] + 0.5 * rng.normal(size=8)
        return Tokens(vector.astype(np.float32), descriptors.astype(np.float32), rng.integers(0, 7, 4))

    drawn = [(*rng.choice(3, 2, replace=False), i % 2 == 0) for i in range(n)]
    return [Pair(picture(a), picture(a if match else b), match) for a, b, match in drawn]


def test_training_lowers_the_loss_and_orders_pictures_not_seen_before():
    torch.manual_seed(5)
    model = RerankingTransformer(8, 16, heads=2, layers=2, feedforward=64, seed=0)
    before, told = torch.random.get_rng_state(), []
    options = {"epochs": 4, "batch": 32, "learning_rate": 3e-3}
    losses = fit(model, pictures(1200, 0), fitted_on="three things", on_epoch=lambda *e: told.append(e), **options)
    assert losses[-1] < 0.7 * losses[0] and losses[0] == pytest.approx(np.log(2), abs=0.15)
    assert told == list(enumerate(losses)) and model.fitted_on == "three things" and not model.training
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's random numbers are left alone
    held, match = pictures(200, 1), np.arange(200) % 2 == 0
    with torch.no_grad():
        logits = model(Batch.of([p.query for p in held]), Batch.of([p.gallery for p in held])).numpy()
    assert np.mean(logits[match][:, None] > logits[~match]) > 0.85


def test_a_step_is_on_the_binary_cross_entropy():
    model, pairs = small(), [Pair(tokens_of(3, i), tokens_of(2, i + 9), i == 1) for i in range(3)]
    logits = [naive_logit(model, p.query, p.gallery) for p in pairs]
    expected = np.mean([np.log1p(np.exp(-z if p.match else z)) for z, p in zip(logits, pairs, strict=True)])
    weight = model.remap.weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), 1.0)
    assert train_step(model, optimiser, pairs, max_norm=0.01) == pytest.approx(expected, abs=1e-5)
    moved = torch.linalg.vector_norm(model.remap.weight - weight)
    assert 0 < moved <= 0.01


def test_a_seed_decides():
    def trained(seed, **options):
        model = small(dropout=0.1, seed=seed)
        fit(
            model,
            [Pair(tokens_of(2, i), tokens_of(2, i + 9), i == 1) for i in range(5)],
            fitted_on="x",
            epochs=2,
            batch=2,
            seed=seed,
        )
        return model.classifier.weight.detach().numpy()

    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_reranking_the_first_results():
    model, query = small(), tokens_of(4, 1)
    gallery = {i: tokens_of(i % 4, 50 + i) for i in range(21)}
    ids = np.array([20, 7, 2, 5, 0, 3, 9])
    ranking = Ranking(ids, np.linspace(9, 8, 7, dtype=np.float32), (None,) * 7, 0.5, calibrated=True)
    new = TransformerReranker(model, gallery, depth=5, batch=2).rerank(query, ranking)
    logits = {int(i): naive_logit(model, query, gallery[int(i)]) for i in ids[:5]}
    assert new.ids.tolist() == [*sorted(logits, key=lambda i: -logits[i]), 3, 9]
    np.testing.assert_allclose(new.scores[:5], sorted(logits.values(), reverse=True), atol=1e-5)
    torch.nn.init.zeros_(model.classifier.weight)  # all alike
    assert TransformerReranker(model, gallery, batch=2).rerank(query, ranking).ids.tolist() == sorted(ids.tolist())
    with pytest.raises(QueryError, match="image 21"):
        TransformerReranker(model, gallery).logits(query, np.array([3, 21]))


def test_what_does_not_fit():
    for wrong in ({"heads": 3}, {"layers": 0}, {"feedforward": 0}, {"dropout": 1.0}):
        with pytest.raises(RecipeError):
            small(**wrong)
    with pytest.raises(RecipeError, match="pairs"):
        fit(small(), [], fitted_on="x")
    good = tokens_of(3, 1)
    for wrong in (
        {"vector": good.vector[None]},
        {"scales": good.scales[1:]},
        {"scales": good.scales + 7},
        {"descriptors": good.descriptors * np.nan},
    ):
        with pytest.raises(QueryError):
            replace(good, **wrong)
    with pytest.raises(QueryError, match="above 0"):
        Tokens.of(good.vector, good.descriptors, [1.0, 0.0, 2.0])
    with pytest.raises(QueryError, match="one length"):
        Batch.of([good, tokens_of(3, 1, d=16)])
    for other in (tokens_of(3, 1, g=6), tokens_of(3, 1, d=16), tokens_of(0, 1, d=16)):
        with pytest.raises(QueryError, match="of 5 and 8 entries"):
            TransformerReranker(small(), {0: other}).logits(good, np.array([0]))
    with pytest.raises(RecipeError, match="depth"):
        TransformerReranker(small(), {}, depth=0)
    with pytest.raises(RecipeError, match="batch"):
        TransformerReranker(small(), {}, batch=0)
