"""What learns to say whether two photos show one thing: a transformer over tokens, or a network on vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.describe.description import Description
from resight.learning.losses.nonmetric import nonmetric
from resight.recipes.rerank_stages import TransformerStage
from resight.search.rerank.nonmetric import SimilarityNetwork, similarity
from resight.search.rerank.tokens import tokens_of
from resight.search.rerank.transformer import Batch, RerankingTransformer, TransformerReranker

Pairs = NDArray[np.int64]
"""P×3: two places of photos, and 1 where these show one thing, 0 where not. The first is the query."""


class Learner(Protocol):
    """A network that compares photos by their descriptions."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    def losses(self, described: Sequence[Description], pairs: Pairs) -> Tensor:
        """P×2: the loss of each pair, and whether the network is right about it, 1 or 0."""
        ...

    def scores(
        self, query: Description, described: Sequence[Description], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(N,) of a match of the query with each of these places."""
        ...

    def save(self, path: Path, fitted_on: str) -> str:
        """Write the artefact that the recipe's stage names; its fingerprint."""
        ...


class TransformerLearner:
    """A Reranking Transformer by binary cross-entropy (Tan et al., ICCV 2021, §3.3).

    max_side: of the pictures that features are of at scale 1.
    """

    def __init__(self, module: RerankingTransformer, stage: TransformerStage, max_side: int) -> None:
        self.module, self.stage, self.max_side = module, stage, max_side

    @property
    def device(self) -> torch.device:
        return self.module.device

    def losses(self, described: Sequence[Description], pairs: Pairs) -> Tensor:
        """As the protocol has it; a logit above 0 says that two show one thing."""
        queries, gallery = (
            Batch.of([tokens_of(described[p], self.stage.features, self.max_side) for p in side], self.device)
            for side in (pairs[:, 0].tolist(), pairs[:, 1].tolist())
        )
        match = torch.tensor(pairs[:, 2], device=self.device)
        logits = self.module(queries, gallery).float()
        losses = F.binary_cross_entropy_with_logits(logits, match.float(), reduction="none")
        return torch.stack([losses, ((logits > 0) == match.bool()).float()], dim=1)

    def scores(
        self, query: Description, described: Sequence[Description], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        tokens = {p: tokens_of(described[p], self.stage.features, self.max_side) for p in places.tolist()}
        asked = tokens_of(query, self.stage.features, self.max_side)
        return TransformerReranker(self.module, tokens, None).logits(asked, places)

    def save(self, path: Path, fitted_on: str) -> str:
        self.module.fitted_on = fitted_on
        return self.module.save(path)


class NonMetricLearner:
    """A non-metric similarity by regression (survey Eq. 12), on the descriptors as they are."""

    def __init__(self, module: SimilarityNetwork, margin: float) -> None:
        self.module, self.margin = module, margin

    @property
    def device(self) -> torch.device:
        return self.module.device

    def losses(self, described: Sequence[Description], pairs: Pairs) -> Tensor:
        """As the protocol has it; right is what lies on the match's side of the pair's cosine."""
        x, y = (torch.tensor(_vectors(described, side), device=self.device) for side in (pairs[:, 0], pairs[:, 1]))
        match = torch.tensor(pairs[:, 2], device=self.device)
        cosine = F.cosine_similarity(x, y)
        found = self.module(x, y).float()
        right = (found > cosine) == match.bool()
        return torch.stack([nonmetric(found, cosine, match, self.margin), right.float()], dim=1)

    def scores(
        self, query: Description, described: Sequence[Description], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        asked = _vectors([query], np.zeros(1, np.int64))
        return np.asarray(similarity(self.module, asked, _vectors(described, places))[0])

    def save(self, path: Path, fitted_on: str) -> str:
        self.module.fitted_on = fitted_on
        return self.module.save(path)


def _vectors(described: Sequence[Description], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """n×D of some of them."""
    found = [described[place].global_descriptor for place in places.tolist()]
    return np.stack([vector for vector in found if vector is not None])
