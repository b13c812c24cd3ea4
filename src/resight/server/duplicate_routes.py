"""/v1/duplicates: clusters of near-duplicates, and what people decide about them. A job finds them."""

from typing import Annotated

from fastapi import APIRouter, Query

from resight.search.duplicates import OVERLAP, Cluster
from resight.server import schemas
from resight.server.problems import Refused
from resight.server.service import Service
from resight.server.values import image_facts, known

_MOST = 500  # images that one decision is about: it is kept for each pair

Overlap = Annotated[float, Query(ge=0.5, le=1)]


def routes(service: Service) -> APIRouter:
    """Of one service."""
    router, live = APIRouter(prefix="/v1/duplicates"), service.live

    def shown(cluster: Cluster) -> schemas.ClusterFacts:
        each = zip(cluster.images, cluster.overlap, cluster.inliers, strict=True)
        images = [
            schemas.DuplicateFacts(**image_facts(entry).model_dump(), overlap=overlap, inliers=inliers)
            for image, overlap, inliers in each
            if (entry := known(live, image)) is not None
        ]
        return schemas.ClusterFacts(cluster=_name(cluster), images=images, decision=cluster.decision)

    @router.get("")
    def duplicates(
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        overlap: Overlap = OVERLAP,
    ) -> schemas.Clusters:
        """From place `after`, which begins at 0. overlap: from which on two pictures are a pair."""
        found = live.duplicates(overlap=overlap)
        page = [shown(cluster) for cluster in found[after : after + limit]]
        following = after + limit if len(found) > after + limit else None
        return schemas.Clusters(clusters=page, next=following, total=len(found), uncompared=live.uncompared())

    @router.put("/decision", status_code=204)
    def decide_of(asked: schemas.DecisionRequest) -> None:
        """About each pair of some images, in a cluster or not."""
        if not asked.images:
            raise Refused(422, "request", "images: say which images the decision is about")
        decide(asked.images, asked)

    @router.put("/{cluster}/decision", status_code=204)
    def decide_cluster(cluster: str, asked: schemas.DecisionRequest, overlap: Overlap = OVERLAP) -> None:
        """About each pair of a cluster's images, or of some of them; 409 where it is no longer what it was."""
        found = next((one for one in live.duplicates(overlap=overlap) if _name(one) == cluster), None)
        if found is None or not set(asked.images or ()) <= set(found.images):
            raise Refused(409, "changed", "the clusters have changed meanwhile; look at them again")
        decide(list(asked.images or found.images), asked)

    def decide(images: list[int], asked: schemas.DecisionRequest) -> None:
        if len(images) > _MOST:
            raise Refused(422, "request", f"a decision is about at most {_MOST} images")
        service.jobs.decide(images, asked.decision)

    return router


def _name(cluster: Cluster) -> str:
    """One image may be in a cluster of each kind."""
    return f"{'x' if cluster.decision == 'different' else 'd'}{cluster.images[0]}"
