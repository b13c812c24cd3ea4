"""What of a recipe's [global] stage learns, as settings say it."""

from typing import Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage


class Learns(Stage):
    """layers: ``all`` of the network; ``head``, only what follows it; or a layer's plain name or a module's path, from
        which on it learns, such as ``layer4`` or ``denseblock4``.
    projection: dimensions of a linear layer on the descriptor, learned with the rest; 0 for none. Where the recipe
        whitens regions, it is of each region, as in Deep Retrieval.
    exponent: whether GeM's p learns.
    hash_bits: of a layer tanh(β(Wx + b)) on the descriptor, whose signs become the recipe's codes; 0 for none.
    hash_beta: β, the larger, the nearer to the sign.
    head_rate: rate of what follows the network, as a multiple of the network's.
    dropout: whether the network's dropout is at work in training; cirtorch and others leave it off.
    """

    layers: str = Field(default="all", min_length=1)
    projection: int = Field(default=0, ge=0)
    exponent: bool = False
    hash_bits: int = Field(default=0, ge=0, multiple_of=8)
    hash_beta: float = Field(default=1.0, gt=0)
    head_rate: float = Field(default=10.0, gt=0)
    dropout: bool = False

    @model_validator(mode="after")
    def _projection_has_two(self) -> Self:
        if self.projection == 1:
            raise ValueError("projection = 1 leaves a sign of a descriptor: give 2 dimensions at least, or 0 for none")
        return self
