"""Settings: how relations among photos without labels are mined, one table a method (survey §5.2)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from resight.learning.mining.stages import Form
from resight.recipes.stage import Stage


class _Mining(Stage):
    """every: epochs from one mining to the next, each by the network as it then is; 0 mines once, before any step."""

    every: int = Field(default=0, ge=0)


class PoolsStage(_Mining):
    """Methods that find positives and negatives of anchors.

    queries: anchors an epoch, drawn; all where there are no more. negatives: of each. draw: of an anchor's pools at
        random, or the "hardest", which are the first ones, while its positive is drawn in either case.
    tuples_per_batch: anchors a batch. form: of its rows.
    """

    queries: int = Field(default=2000, ge=1)
    negatives: int = Field(default=5, ge=1)
    draw: Literal["random", "hardest"] = "random"
    tuples_per_batch: int = Field(default=5, ge=1)
    form: Form = "triplets"


class _GraphStage(PoolsStage):
    """graph: neighbours of a photo in the graph. gamma: power of cosines that weigh its edges."""

    graph: int = Field(default=30, ge=1)
    gamma: float = Field(default=3.0, gt=0)


class MomStage(_GraphStage):
    """Mining on manifolds (Iscen et al., CVPR 2018): the difference of neighbours on the manifold and in space.

    anchors: how many, the modes of the graph that a random walk visits most; 0 for all modes. k: neighbours compared.
    alpha: of the diffusion.
    """

    kind: Literal["mom"]
    anchors: int = Field(default=1000, ge=0)
    k: int = Field(default=50, ge=1)
    alpha: float = Field(default=0.99, ge=0, lt=1)


class AffinityStage(_GraphStage):
    """Positives are the nearest by an affinity of the graph, negatives those near in space but far by it.

    kind: "diffusion" (Zhao et al., BMVC 2018, mine by it); "rdp", regularised diffusion (Bai et al., TPAMI 2019); or
        "geodesic", the length of the shortest way.
    anchors: photos that are compared, drawn by the seed; 0 for all, whose time grows with the square of the photos.
    positives: nearest by the affinity. near: photos nearest by it that are no negatives. k: nearest in space, of which
        the others are.
    """

    kind: Literal["diffusion", "rdp", "geodesic"]
    anchors: int = Field(default=1000, ge=0)
    positives: int = Field(default=5, ge=1)
    near: int = Field(default=50, ge=1)
    k: int = Field(default=100, ge=1)
    alpha: float = Field(default=0.99, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.positives > self.near:
            raise ValueError(f"positives must be at most near, not {self.positives} and {self.near}")
        return self


class KmeansStage(_Mining):
    """Deep clustering (Caron et al., ECCV 2018): clusters are classes until they are made anew.

    clusters: how many. iterations: of k-means.
    """

    kind: Literal["kmeans"]
    every: int = Field(default=1, ge=0)
    clusters: int = Field(ge=2)
    iterations: int = Field(default=20, ge=1)


class DbscanStage(_Mining):
    """Classes are dense regions (DBSCAN: Ester et al., KDD 1996); what lies in none is left out.

    distance: Euclidean, of neighbours. least: of them, the photo itself among them, that make a photo a core.
    """

    kind: Literal["dbscan"]
    every: int = Field(default=1, ge=0)
    distance: float = Field(default=0.6, gt=0, lt=2)
    least: int = Field(default=3, ge=2)


class NeighbourMeanStage(_Mining):
    """Each photo learns the mean of its k nearest ones (Tzelepi & Tefas, Neurocomputing 2018); it is its own loss."""

    kind: Literal["knn-mean"]
    k: int = Field(default=5, ge=1)


class ColmapStage(PoolsStage):
    """Pairs that see the same points of COLMAP models (SfM-GeM: Radenović et al., TPAMI 2019, §4.2).

    model: folder of one, or of several in sub-folders; photos are found by the models' names under ``images``, or,
        where that is "", under the folder that is learned from.
    points: shared ones, at least. overlap: share of the anchor's points, at least. scale: change of a point's size,
        at most. angle: between the rays to a point, in degrees, at most; 0 for any.
    k: photos nearest in space, of which those of other models and parts are negatives, one of each.
    """

    kind: Literal["colmap"]
    every: int = Field(default=1, ge=0)
    draw: Literal["random", "hardest"] = "hardest"
    model: str
    images: str = ""
    points: int = Field(default=15, ge=1)
    overlap: float = Field(default=0.2, ge=0, le=1)
    scale: float = Field(default=1.5, ge=1)
    angle: float = Field(default=0.0, ge=0, le=180)
    k: int = Field(default=200, ge=1)


class VerifiedStage(PoolsStage):
    """Pairs whose local features agree on a homography, RootSIFT's (SIFT as the only teacher, without SfM).

    candidates: photos nearest by descriptor that each is compared with. inliers: that verify a pair. features: of a
        photo at most. max_side: in pixels, of the pictures that are matched. kept: photos whose features are in memory.
    k: photos nearest in space, of which those without a way of pairs to the anchor are negatives, one of each part.
    """

    kind: Literal["verified"]
    draw: Literal["random", "hardest"] = "hardest"
    candidates: int = Field(default=20, ge=1)
    inliers: int = Field(default=20, ge=4)
    features: int = Field(default=1000, ge=16)
    max_side: int = Field(default=640, ge=32)
    kept: int = Field(default=2000, ge=2)
    k: int = Field(default=200, ge=1)


UnlabelledStage = Annotated[
    MomStage | AffinityStage | KmeansStage | DbscanStage | NeighbourMeanStage | ColmapStage | VerifiedStage,
    Field(discriminator="kind"),
]
KINDS = ("mom", "diffusion", "rdp", "geodesic", "kmeans", "dbscan", "knn-mean", "colmap", "verified")
