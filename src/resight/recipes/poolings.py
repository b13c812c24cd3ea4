"""How a feature map becomes one vector, as a recipe says it: a name, or a table with the method's parameters."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from resight.recipes.stage import Stage

_Exponent = Annotated[float, Field(gt=0)]


class Gem(Stage):
    """Generalised mean. p: one exponent for all channels, or a list of one for each."""

    kind: Literal["gem"] = "gem"
    p: _Exponent | tuple[_Exponent, ...] = 3.0


class Plain(Stage):
    """What has no parameters: maximum, mean, sum, sum under SPoC's centring prior, Gram-weighted channels."""

    kind: Literal["mac", "average", "sum", "spoc", "gram"]


class Crow(Stage):
    """Cross-dimensional weighting, with the exponents of its spatial weights."""

    kind: Literal["crow"]
    a: float = Field(default=2.0, ge=1)
    b: float = Field(default=2.0, gt=0)


class Heat(Stage):
    """Heat diffusion."""

    kind: Literal["heat"]
    threshold: float = Field(default=0.1, ge=0)
    ground: float = Field(default=0.1, gt=0)


class Parts(Stage):
    """Part-based weighting (SBA/PWA) by the `parts` channels that vary most over the photos of `resight fit`."""

    kind: Literal["sba"]
    parts: int = Field(default=25, ge=1)
    alpha: float = Field(default=2.0, ge=1)
    beta: float = Field(default=2.0, gt=0)


class CamCrow(Stage):
    """CroW under class activation maps, one region a class: the `top` classes of the image, or the list `classes`.

    Needs a network whose classifier is in the weights.
    """

    kind: Literal["cam-crow"]
    top: int = Field(default=64, ge=1)
    classes: tuple[Annotated[int, Field(ge=0)], ...] = ()


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Pooling = Annotated[
    Annotated[Gem | Plain | Crow | Heat | Parts | CamCrow, Field(discriminator="kind")], BeforeValidator(_named)
]
