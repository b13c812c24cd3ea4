"""How places of a feature map are weighed before they are pooled, as a recipe says it (survey §4.2.3).

What is learned comes as a file of weights, in the layout of the module's ``state_dict``, for as many channels as the
layer has. Every kind takes a map and gives one, so that schemes and poolings follow as they would without it.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage


class _Learned(Stage):
    """weights: path of a file, relative to the recipe's folder. weights_sha256: of it, checked where it is given.

    prefix: what names in the file begin with, such as ``features.soa5.`` in SOLAR's checkpoints; others are left aside.
    """

    weights: str = ""
    weights_sha256: str = ""
    prefix: str = ""


class SecondOrder(_Learned):
    """SOLAR's block: each position re-written by those like it, C / `reduction` channels inside (Ng et al. 2020)."""

    kind: Literal["second-order"]
    reduction: int = Field(default=2, ge=1)


class Contextual(_Learned):
    """CRN: positions times a mask, by filters of (side, number) over `context` rows and columns (Kim et al. 2017)."""

    kind: Literal["crn"]
    filters: tuple[tuple[int, int], ...] = ((3, 32), (5, 32), (7, 20))
    context: tuple[int, int] = (13, 13)

    @model_validator(mode="after")
    def _filters_exist(self) -> Self:
        if not self.filters or any(side % 2 == 0 or side < 1 or number < 1 for side, number in self.filters):
            raise ValueError("filters need odd sides, and numbers above 0")
        if min(self.context) < 1:
            raise ValueError("context needs rows and columns")
        return self


class Delf(_Learned):
    """DELF's score times the ℓ2-normalised feature: summed, the vector that trains the scorer (Noh et al. 2017, Eq. 1).

    normalise: whether the scorer has batch normalisation, as in DELG's code.
    """

    kind: Literal["delf"]
    hidden: int = Field(default=512, ge=1)
    normalise: bool = True


class MultiAtrous(_Learned):
    """DOLG's local branch: a pyramid of 3×3 convolutions of `rates`, `inner` channels each, then scores (Yang et al.).

    It gives maps of `dimensions` channels, whose positions are averaged there. (ICCV 2021, §3.2.)
    """

    kind: Literal["multi-atrous"]
    dimensions: int = Field(default=1024, ge=1)
    inner: int = Field(default=512, ge=1)
    rates: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(6, 12, 18), min_length=1)


class Regional(_Learned):
    """R-MAC with learned weights of its regions, `levels` levels of its grid (Kim & Yoon 2018).

    It pools by itself, to a map of one position, which pooling ``mac`` leaves as it is; so that is what goes with it.
    """

    kind: Literal["regional"]
    hidden: int = Field(default=64, ge=1)
    levels: int = Field(default=5, ge=1, le=8)
    variant: Literal["paper", "cirtorch"] = "paper"


class AttentionGem(_Learned):
    """AGeM: positions times 1 + a mask, then GeM (Gu et al. 2018), whose p the recipe's pooling says."""

    kind: Literal["attention-gem"]
    hidden: int = Field(default=64, ge=1)


class Saliency(Stage):
    """Positions times a saliency that is not learned, scaled to a mean of 1 (after Mohedano et al. 2018).

    by: ``norms`` of the features, the ``spectral-residual`` of the picture (Hou & Zhang 2007), SPoC's prior for the
        ``centre`` (Babenko & Lempitsky 2015), or CroW's ``sums`` of activations (Kalantidis et al. 2016).
    """

    kind: Literal["saliency"]
    by: Literal["norms", "spectral-residual", "centre", "sums"] = "norms"


class ClassToken(Stage):
    """Patch tokens times how like the class token they are, by a softmax of cosine / `temperature`, to a mean of 1."""

    kind: Literal["class-token"]
    temperature: float = Field(default=0.1, gt=0)


# One weight, 0 or more, a position: it scales the feature there, and leaves it in its place.
MASKS = (Contextual, Delf, AttentionGem, Saliency, ClassToken)
_ANY_CHANNELS = ("average", "mac", "sum", "spoc")
_LOCAL = (Delf, AttentionGem)  # which see no more of a picture than the position, or its neighbours

Attention = Annotated[
    SecondOrder | Contextual | Delf | MultiAtrous | Regional | AttentionGem | Saliency | ClassToken,
    Field(discriminator="kind"),
]


def obstacle(attention: Attention, *, layer: str, pooling: str, embedding: str | None, whole: bool, crops: bool) -> str:
    """Why what follows cannot follow the attention, and what to change; "" where it can.

    layer: the branch's. pooling, embedding: their kinds. whole: whether there is no scheme. crops: whether regions of
        pixels are fed.
    """
    name = f"attention {attention.kind}"
    if crops and not isinstance(attention, _LOCAL):
        return f"{name} weighs places against the rest of a picture, which regions of pixels lack: take them on the map"
    if isinstance(attention, Regional) and (pooling != "mac" or embedding is not None or not whole):
        return f'{name} pools regions of its own, as R-MAC does: say pooling = "mac", without scheme and embedding'
    if isinstance(attention, ClassToken) and layer != "tokens":
        return f'{name} compares patch tokens with the class token, and {layer} is not of these: say layer = "tokens"'
    follows = embedding if embedding is not None and whole else pooling
    if isinstance(attention, AttentionGem) and follows != "gem":
        return f'{name} was made for GeM, not {follows}: say pooling = {{ kind = "gem", p = … }}'
    if isinstance(attention, MultiAtrous) and (pooling not in _ANY_CHANNELS or embedding is not None):
        return (
            f"{name} makes channels of its own, of which nothing is known: leave the embedding out, and pool them by "
            f"one of {', '.join(_ANY_CHANNELS)}"
        )
    if pooling == "cam-crow":
        return f"pooling cam-crow sees classes in the map that the network makes, not in another: leave {name} out"
    return ""
