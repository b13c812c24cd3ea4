"""What a Reranking Transformer sees of a description: its local features as tokens, by the scale they were found at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from resight.describe.description import Description
from resight.errors import QueryError
from resight.search.rerank.transformer import Tokens

_FIELD = 291  # pixels that a feature of DELF or DELG describes of a picture at scale 1


def tokens_of(description: Description, features: int, max_side: int) -> Tokens:
    """The strongest `features` and the global descriptor. QueryError where the description lacks either.

    max_side: longest side of the picture at scale 1. DELF's features have the scale that their size tells, and with
    other features the same reckoning tells a network coarse from fine.
    """
    vector, local = description.global_descriptor, description.local
    if vector is None or local is None:
        raise QueryError("a Reranking Transformer needs a global descriptor and local features of every image")
    descriptors = local.descriptors[:features].astype(np.float32) / local.unit
    shrunk = min(1.0, max_side / max(description.size))
    return Tokens.of(vector, descriptors, local.size[:features] * shrunk / _FIELD, limit=features)


@dataclass(frozen=True, eq=False)
class StoredTokens(Mapping[int, Tokens]):
    """``tokens_of`` descriptions by image id, made when asked for."""

    descriptions: Mapping[int, Description]
    features: int
    max_side: int

    def __getitem__(self, image: int) -> Tokens:
        return tokens_of(self.descriptions[image], self.features, self.max_side)

    def __iter__(self) -> Iterator[int]:
        return iter(self.descriptions)

    def __len__(self) -> int:
        return len(self.descriptions)
