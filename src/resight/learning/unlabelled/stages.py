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


def _usual(most: int, times: float, photos: int) -> int:
    """A number of neighbours: what is published for large collections, or so many times √N where that is less."""
    return max(1, min(most, int(times * photos**0.5)))


class _GraphStage(PoolsStage):
    """graph: neighbours of a photo in the graph; 0 for 30, or √N of N < 900 photos. gamma: power of cosines that weigh
    its edges.
    """

    graph: int = Field(default=0, ge=0)
    gamma: float = Field(default=3.0, gt=0)

    def neighbours(self, photos: int) -> int:
        """``graph`` of so many photos."""
        return self.graph or _usual(30, 1, photos)


class MomStage(_GraphStage):
    """Mining on manifolds (Iscen et al., CVPR 2018): the difference of neighbours on the manifold and in space.

    anchors: how many, the modes of the graph that a random walk visits most; 0 for all modes.
    k: neighbours compared, of which a thing should have more photos than that; 0 for 50, or √N/2 of N < 10,000 photos.
    alpha: of the diffusion.
    """

    kind: Literal["mom"]
    anchors: int = Field(default=1000, ge=0)
    k: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.99, ge=0, lt=1)

    def compared(self, photos: int) -> int:
        """``k`` of so many photos."""
        return self.k or _usual(50, 0.5, photos)


class _ReachStage(PoolsStage):
    """positives: nearest by what teaches. near: photos nearest by it that are no negatives; 0 for 50, or 2√N of N < 625
    photos. k: nearest by descriptor, of which the others are; 0 for 100, or 4√N.
    """

    positives: int = Field(default=5, ge=1)
    near: int = Field(default=0, ge=0)
    k: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.positives > (self.near or 50):
            raise ValueError(f"positives must be at most near, not {self.positives} and {self.near or 50}")
        return self

    def reach(self, photos: int) -> tuple[int, int]:
        """``near`` and ``k`` of so many photos."""
        return self.near or max(self.positives, _usual(50, 2, photos)), self.k or _usual(100, 4, photos)


class AffinityStage(_GraphStage, _ReachStage):
    """Positives are the nearest by an affinity of the graph, negatives those near in space but far by it.

    kind: "diffusion" (Zhao et al., BMVC 2018, mine by it); "rdp", regularised diffusion (Bai et al., TPAMI 2019); or
        "geodesic", the length of the shortest way.
    anchors: photos that are compared, drawn by the seed; 0 for all, whose time grows with the square of the photos.
    """

    kind: Literal["diffusion", "rdp", "geodesic"]
    anchors: int = Field(default=1000, ge=0)
    alpha: float = Field(default=0.99, ge=0, lt=1)


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

    distance: Euclidean, of neighbours; 0 for the median of the photos' distances to their nearest one, which is the
        descriptors' own measure of near. least: of them, the photo itself among them, that make a photo a core.
    """

    kind: Literal["dbscan"]
    every: int = Field(default=1, ge=0)
    distance: float = Field(default=0.0, ge=0, lt=2)
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
        photo at most. max_side: in pixels, of the pictures that are matched.
    k: photos nearest in space, of which those without a way of pairs to the anchor are negatives, one of each part.
    """

    kind: Literal["verified"]
    draw: Literal["random", "hardest"] = "hardest"
    candidates: int = Field(default=20, ge=1)
    inliers: int = Field(default=20, ge=4)
    features: int = Field(default=1000, ge=16)
    max_side: int = Field(default=640, ge=32)
    k: int = Field(default=200, ge=1)


class SiftStage(_ReachStage):
    """SIFT-CNN (Lv et al., TIP 2018): neighbours by SIFT's visual words teach what the network does not see.

    Unlike "verified", SIFT looks through all photos by itself, nothing is verified, and the network is held to what it
    was. reciprocal: whether positives have to be each other's.
    fidelity: weight of the distance from the network as it was, beside the loss.
    words: of the codebook; 0 for as many as the features allow. features: of a photo at most. max_side: in pixels.
    """

    kind: Literal["sift"]
    draw: Literal["random", "hardest"] = "hardest"
    reciprocal: bool = True
    fidelity: float = Field(default=1.0, ge=0)
    words: int = Field(default=0, ge=0)
    features: int = Field(default=1000, ge=16)
    max_side: int = Field(default=640, ge=32)


class GanStage(PoolsStage):
    """Adversarial (Bai et al., TMM 2021): the network retrieves, and a judge tells what it retrieves from neighbours.

    graph: neighbours of a photo in the graph of the network as it was, whose reciprocal ones are the judge's examples;
    0 for 10, or √N/2 of N < 400 photos.
    k: photos nearest now, which are retrieved from; 0 for 50, or 4√N of N < 157 photos. negatives: of those, drawn for
    each query.
    temperature: of the retrieval's softmax over cosines. judge: entries of the judge's descriptors, 0 for as many as
    the network's. lead: steps at the beginning in which only the judge learns.
    """

    kind: Literal["gan"]
    every: int = Field(default=1, ge=0)
    negatives: int = Field(default=15, ge=1)
    graph: int = Field(default=0, ge=0)
    k: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    judge: int = Field(default=0, ge=0)
    lead: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.form != "triplets":
            raise ValueError(f'what is retrieved is given by form = "triplets", not {self.form!r}')
        return self

    def reach(self, photos: int) -> tuple[int, int]:
        """``graph`` and ``k`` of so many photos."""
        return self.graph or _usual(10, 0.5, photos), self.k or _usual(50, 4, photos)


class AutoencoderStage(Stage):
    """A decoder, dropped afterwards, makes the photo again from the descriptor of an altered view (``augment``).

    side: of the picture that is made, in pixels, 4 doubled some times. channels: of the decoder's first map; each
    doubling has half as many.
    """

    kind: Literal["autoencoder"]
    side: Literal[8, 16, 32, 64, 128] = 32
    channels: int = Field(default=128, ge=8)


class GssStage(Stage):
    """Guided similarity separation (Liu et al., NeurIPS 2019) trains the recipe's table [[rerank]] gss.

    neighbours, layers, decay: as of ``GssModel``. percentile: of the similarities before training, which is β.
    pairs_of: photos whose pairs an epoch is of, drawn where there are more.
    """

    kind: Literal["gss"]
    neighbours: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1)
    decay: float = Field(default=0.3, gt=0)
    percentile: float = Field(default=98.0, ge=0, le=100)
    pairs_of: int = Field(default=8192, ge=2)


MiningStage = (
    MomStage
    | AffinityStage
    | KmeansStage
    | DbscanStage
    | NeighbourMeanStage
    | ColmapStage
    | VerifiedStage
    | SiftStage
    | GanStage
)
"""Methods that mine relations; the others learn from photos, or descriptors, as they are."""

UnlabelledStage = Annotated[MiningStage | AutoencoderStage | GssStage, Field(discriminator="kind")]
KINDS = (
    *("mom", "diffusion", "rdp", "geodesic", "kmeans", "dbscan", "knn-mean", "colmap", "verified"),
    *("sift", "gan", "autoencoder", "gss"),
)
