"""What is trainable trains: gradients by finite differences, and short runs that must find where the object is."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.func import functional_call  # noqa: E402

from resight.pooling.attention_gem import AttentionGeM  # noqa: E402
from resight.pooling.crn import ContextualReweighting, reweight  # noqa: E402
from resight.pooling.delf_attention import DelfAttention, attention_pool  # noqa: E402
from resight.pooling.gem import GeM  # noqa: E402
from resight.pooling.multiscale_attention import RegionalAttention  # noqa: E402
from resight.pooling.rmac import RMac  # noqa: E402
from resight.pooling.saliency import SaliencyGeM, feature_saliency  # noqa: E402
from resight.pooling.second_order import SecondOrderAttention  # noqa: E402
from resight.pooling.tokens import TokenPooling  # noqa: E402

CLASSES, CHANNELS, SIDE, OBJECT = 16, 12, 8, 3


class Crn(nn.Module):
    def __init__(self, channels, **options):
        super().__init__()
        self.mask = ContextualReweighting(channels, **options)

    def forward(self, x):
        return reweight(x, self.mask(x)).mean(dim=(2, 3))


class Delf(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.mask = DelfAttention(channels, hidden)

    def forward(self, x):
        return attention_pool(x, self.mask(x)) / (x.shape[2] * x.shape[3])


class Solar(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.block = SecondOrderAttention(channels, 2)
        self.gem = GeM(3.0, channels)

    def forward(self, x):
        return self.gem(self.block(x))


class Salient(nn.Module):
    def __init__(self):
        super().__init__()
        self.gem = SaliencyGeM()

    def forward(self, x):
        return self.gem(x, feature_saliency(x))


class Tokens(nn.Module):
    """With a class token of the patches' mean, for want of a transformer; brought back to C."""

    def __init__(self, channels, name):
        super().__init__()
        self.pooling = TokenPooling(name)
        self.out = nn.Linear(2 * channels if name == "cls-gem" else channels, channels)

    def forward(self, x):
        return self.out(self.pooling(x, x.mean(dim=(2, 3))))


POOLINGS = {
    "gem": lambda c: GeM(3.0, c),
    "solar": Solar,
    "crn": lambda c: Crn(c, filters=((3, 4), (5, 4), (7, 2))),
    "delf": lambda c: Delf(c, 16),
    "regions": lambda c: RegionalAttention(c, 16, levels=4),
    "agem": lambda c: AttentionGeM(c, 16),
    "saliency": lambda c: Salient(),
    "r-mac": lambda c: RMac(2, whiten=nn.Linear(c, c)),
    "token attention": lambda c: Tokens(c, "attention"),
    "cls-gem": lambda c: Tokens(c, "cls-gem"),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_agree_with_finite_differences(name):
    torch.manual_seed(1)
    pooling = POOLINGS[name](3).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))  # away from where it starts, at zeros
    learned = {key: value for key, value in pooling.named_parameters() if value.requires_grad}
    names, values = list(learned), [value.detach().clone().requires_grad_() for value in learned.values()]
    x = (torch.rand(2, 3, 4, 3, dtype=torch.float64) + 0.1).requires_grad_()
    pooling.requires_grad_(False)

    def run(x, *parameters):
        return functional_call(pooling, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


def pictures(seed):
    """(128×C×8×8 maps, labels, 128×8×8 where the object is): one of 16 textures, 3×3 cells somewhere on clutter.

    A texture is three features of its own on the diagonals; clutter is as long and has other channels. All are shifted
    to be positive, as after a ReLU.
    """
    textures = torch.rand(CLASSES, CHANNELS // 2, 3, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(8)
    maps = 0.05 * torch.rand(len(labels), CHANNELS, SIDE, SIDE, generator=generator)
    maps[:, CHANNELS // 2 :] += torch.rand(len(labels), CHANNELS // 2, SIDE, SIDE, generator=generator)
    maps[:, : CHANNELS // 2] += 0.5 * torch.rand(len(labels), CHANNELS // 2, 1, 1, generator=generator)
    where = torch.zeros(len(labels), SIDE, SIDE, dtype=torch.bool)
    diagonal = (torch.arange(OBJECT)[:, None] + torch.arange(OBJECT)) % 3
    for image, at, label in zip(maps, where, labels, strict=True):
        y, x = torch.randint(0, SIDE - OBJECT + 1, (2,), generator=generator).tolist()
        image[:, y : y + OBJECT, x : x + OBJECT] *= 0.2
        image[: CHANNELS // 2, y : y + OBJECT, x : x + OBJECT] += textures[label][:, diagonal]
        at[y : y + OBJECT, x : x + OBJECT] = True
    return maps, labels, where


def train(pooling, maps, labels, steps=40):
    """The losses of a linear classifier on the pooled vectors."""
    model = nn.Sequential(pooling, nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, CLASSES))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(maps), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", POOLINGS)
def test_training_lowers_the_loss_and_attention_finds_the_object(name):
    """Taught labels only, a mask comes to be larger on the object than beside it, also in pictures not seen before."""
    torch.manual_seed(0)
    maps, labels, _ = pictures(seed=0)
    pooling = POOLINGS[name](CHANNELS)
    learned = {key: value for key, value in pooling.named_parameters() if value.requires_grad}
    before = {key: value.detach().clone() for key, value in learned.items()}
    losses = train(pooling, maps, labels)
    # One temperature, and a class token that has not seen the object, leave less to learn.
    assert losses[-1] < (0.7 if name == "token attention" else 0.5) * losses[0]
    assert all((value != before[key]).any() for key, value in learned.items())
    if not hasattr(pooling, "mask"):
        return
    unseen, _, where = pictures(seed=1)
    with torch.no_grad():
        mask = pooling.eval().mask(unseen)[:, 0]
    on = torch.stack([m[at].mean() for m, at in zip(mask, where, strict=True)])
    beside = torch.stack([m[~at].mean() for m, at in zip(mask, where, strict=True)])
    assert (on > beside).float().mean() > 0.9
