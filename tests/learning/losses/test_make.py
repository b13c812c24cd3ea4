"""What all losses keep to, each made from its table."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.func import functional_call

from resight.errors import RecipeError
from resight.learning.losses import Loss, LossStage, make_loss

# Of each kind, whether it takes tuples and memory; and settings under which gradients are neither 0 nor steep.
KINDS = {
    "cross-entropy": (False, False, {"temperature": 0.5, "normalised": True}),
    "arcface": (False, False, {"scale": 4.0}),
    "cosface": (False, False, {"scale": 4.0}),
    "nonmetric": (True, True, {"hidden": (6, 4)}),
    "siamese": (True, True, {"margin": 1.5}),
    "double-margin": (True, True, {}),
    "quartet": (True, False, {"weight": 0.0}),
    "triplet": (True, True, {"margin": 0.8}),
    "joint": (True, True, {"margin": 0.8}),
    "quadruplet": (True, False, {}),
    "group-group": (False, False, {}),
    "listwise-ap": (False, True, {}),
    "smooth-ap": (False, True, {"temperature": 0.1}),
    "entropy-siamese": (True, True, {}),
    "solar": (True, False, {}),
}
STAGES = TypeAdapter(LossStage)


def made(kind, seed=0, **options) -> Loss:
    stage = STAGES.validate_python({"kind": kind, **KINDS[kind][2], **options})
    return make_loss(stage, dimensions=5, classes=4, seed=seed)


def test_every_kind_is_here():
    union = (
        STAGES.core_schema["choices"] if "choices" in STAGES.core_schema else STAGES.core_schema["schema"]["choices"]
    )
    assert set(union) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(draw, kind):
    x, labels = draw(seed=11, unit=False)
    loss = made(kind).double()
    names = [name for name, _ in loss.named_parameters()]
    generator = torch.Generator().manual_seed(1)
    noise = [0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in loss.parameters()]
    values = [(v.detach() + e).requires_grad_() for v, e in zip(loss.parameters(), noise, strict=True)]  # off ReLUs' 0
    x.requires_grad_(not loss.freezes_backbone)

    def of(x, *parameters):
        return functional_call(loss, dict(zip(names, parameters, strict=True)), (x, labels))

    assert torch.autograd.gradcheck(of, (x, *values))
    gradients = torch.autograd.grad(of(x, *values), [v for v in (x, *values) if v.requires_grad])
    assert all(g.abs().sum() > 1e-3 for g in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_batch_does_not_matter(draw, kind):
    x, labels = draw(seed=12)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    loss = made(kind).double()
    assert loss(x[order], labels[order]).item() == pytest.approx(loss(x, labels).item())


@pytest.mark.parametrize("kind", KINDS)
def test_all_pairs_or_triplets_are_those_that_labels_imply(draw, pairs_of, triplets_of, kind):
    x, labels = draw(seed=13)
    loss = made(kind).double()
    assert loss.takes_tuples == KINDS[kind][0]
    positives, negatives = pairs_of(labels)
    pairs = *torch.tensor(positives).T, *torch.tensor(negatives).T
    if not loss.takes_tuples:
        with pytest.raises(ValueError, match="takes no tuples"):
            loss(x, labels, pairs)
        return
    of_triplets = kind in ("triplet", "joint", "quadruplet", "solar")
    tuples = tuple(torch.tensor(triplets_of(labels)).T) if of_triplets else pairs
    assert loss(x, labels, tuples).item() == pytest.approx(loss(x, labels).item())
    with pytest.raises(ValueError, match="triplets"):
        loss(x, labels, tuples[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_a_part_of_one_big_batch(draw, kind):
    """Losses of chosen tuples are the same whether their positives and negatives lie in memory or in the batch."""
    x, labels = draw((3, 2, 4, 3), seed=14)
    loss = made(kind).double()
    memory = x[6:], labels[6:]
    assert loss.takes_memory == KINDS[kind][1]
    if not loss.takes_memory:
        with pytest.raises(ValueError, match="takes no memory"):
            loss(x[:6], labels[:6], memory=memory)
        return
    if not loss.takes_tuples or kind in ("joint", "entropy-siamese"):
        return  # tested beside their loops: of these, some is of the whole batch
    i, j = torch.cartesian_prod(torch.arange(6), torch.arange(6, len(x))).T
    same = labels[i] == labels[j]
    crossing = i[same], j[same], i[~same], j[~same]
    expected = loss(x, labels, crossing).item()
    assert loss(x[:6], labels[:6], memory=memory).item() == pytest.approx(expected)
    inside = i[same], j[same] - 6, i[~same], j[~same] - 6
    assert loss(x[:6], labels[:6], inside, memory).item() == pytest.approx(expected)


def test_losses_that_are_partly_of_the_batch_take_memory_for_the_rest(draw):
    x, labels = draw((3, 2, 4, 3), seed=15)
    memory = x[6:], labels[6:]
    joint = made("joint").double()
    expected = joint.triplet(x[:6], labels[:6], memory=memory) + joint.classifier(x[:6], labels[:6])
    assert joint(x[:6], labels[:6], memory=memory).item() == pytest.approx(expected.item())
    whole, plain = made("entropy-siamese"), made("entropy-siamese", weight=0)
    spread = whole(x[:6], labels[:6]) - plain(x[:6], labels[:6])  # of the batch alone
    cosine, same = x[:6] @ x[6:].T, labels[:6, None] == labels[None, 6:]
    pulled, pushed = (1 - cosine)[same].sum(), (cosine[~same] - 0.5).clamp(min=0).sum()
    found = whole(x[:6], labels[:6], memory=memory)
    assert found.item() == pytest.approx(((pulled + pushed) / 6 + spread).item())


def test_gradients_of_pieces_add_up_to_those_of_one_batch(draw):
    """Over a sum of pairs: those within halves and, by memory, those between."""
    x, labels = draw((3, 2, 4, 3), seed=16)
    loss = made("siamese", reduction="sum")
    whole = x.clone().requires_grad_()
    loss(whole, labels).backward()
    halves = [(x[:6].clone().requires_grad_(), labels[:6]), (x[6:].clone().requires_grad_(), labels[6:])]
    total = 0.0
    for (own, of), (other, of_other) in (halves, halves[::-1]):
        value = loss(own, of) + 2 * loss(own, of, memory=(other.detach(), of_other))
        value.backward()
        total += loss(own, of).item() + loss(own, of, memory=(other.detach(), of_other)).item()
    assert total == pytest.approx(loss(x, labels).item())
    torch.testing.assert_close(torch.cat([h.grad for h, _ in halves]), whole.grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_batches_with_nothing_to_learn_from(kind, n):
    """No rows, one, or several of classes of their own, far apart: finite, and with a graph to every parameter."""
    loss = made(kind)
    x = torch.eye(5)[:n].requires_grad_(not loss.freezes_backbone)
    value = loss(x, torch.arange(n))
    learned = [v for v in (x, *loss.parameters()) if v.requires_grad]
    gradients = torch.autograd.grad(value, learned, allow_unused=True)
    assert value.isfinite() and value.requires_grad and all(g is None or g.isfinite().all() for g in gradients)
    ranked = kind in (
        "siamese",
        "double-margin",
        "quartet",
        "triplet",
        "quadruplet",
        "listwise-ap",
        "smooth-ap",
        "solar",
    )
    if n == 1 and kind == "group-group":
        assert value.item() == pytest.approx(0, abs=1e-6)
    if (n < 2 and kind in ("nonmetric", "entropy-siamese")) or ranked:
        assert value == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_reproducible_and_leaves_torchs_generator_alone(kind):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = made(kind, 5), made(kind, 5), made(kind, 6)
    assert torch.equal(before, torch.get_rng_state())
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert "bias" in name or not torch.equal(a, c)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_lower_its_precision(draw, kind):
    x, labels = draw(seed=17)
    loss, x = made(kind), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(x, labels)
    assert found.dtype == torch.float32 and found.item() == loss(x, labels).item()


def test_shapes_that_do_not_fit(draw):
    x, labels = draw()
    loss = made("siamese")
    for bad in ((x[0], labels), (x, labels[1:]), (x, labels.int())):
        with pytest.raises(ValueError, match="B×D"):
            loss(*bad)
    for memory in ((x[:, 1:], labels), (x, labels[1:])):
        with pytest.raises(ValueError, match="memory must be"):
            loss(x, labels, memory=memory)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("siamese", {"margin": 0}),
        ("siamese", {"form": "other"}),
        ("siamese", {"margins": 1}),
        ("double-margin", {"near": 2.0}),
        ("listwise-ap", {"bins": 1}),
        ("listwise-ap", {"low": 1.0}),
        ("arcface", {"margin": 28.6}),
        ("entropy-siamese", {"margin": 1.0}),
        ("smooth-ap", {"temperature": 0}),
        ("group-group", {"threshold": 2}),
        ("contrastive", {}),
    ],
)
def test_tables_out_of_range(kind, options):
    with pytest.raises(ValidationError):
        STAGES.validate_python({"kind": kind, **options})


def test_a_classifier_needs_classes_and_a_similarity_dimensions():
    with pytest.raises(ValueError, match="classes"):
        make_loss(STAGES.validate_python({"kind": "arcface"}), dimensions=5, classes=0, seed=0)
    with pytest.raises(RecipeError, match="dimension"):
        make_loss(STAGES.validate_python({"kind": "nonmetric"}), dimensions=0, classes=0, seed=0)
