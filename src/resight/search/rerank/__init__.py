"""Re-ranking: a Ranking becomes a better one, by the vectors of its images and how these lie among each other."""

from resight.search.rerank.diffusion import Diffusion
from resight.search.rerank.egt import ExploreExploit
from resight.search.rerank.expansion import QueryExpansion, VerifiedExpansion, augmented
from resight.search.rerank.ime import ManifoldLayer
from resight.search.rerank.offline import OfflineDiffusion
from resight.search.rerank.rdp import RegularisedDiffusion
from resight.search.rerank.reciprocal import KReciprocal
from resight.search.rerank.regional import RegionalDiffusion
from resight.search.rerank.reranker import Database, Reranker, compose, initial_ranking
from resight.search.rerank.superglobal import SuperGlobal

__all__ = [
    "Database",
    "Diffusion",
    "ExploreExploit",
    "KReciprocal",
    "ManifoldLayer",
    "OfflineDiffusion",
    "QueryExpansion",
    "RegionalDiffusion",
    "RegularisedDiffusion",
    "Reranker",
    "SuperGlobal",
    "VerifiedExpansion",
    "augmented",
    "compose",
    "initial_ranking",
]
