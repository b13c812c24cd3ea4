"""The library's values from what a service says of them, the other way of ``resight.server.values``."""

from typing import Any

import numpy as np

from resight.search.collection import Entry
from resight.search.duplicates import Cluster
from resight.search.ranking import Evidence, Ranking


def entry_of(found: Any) -> Entry:
    """Of ``ImageFacts``."""
    return Entry(found["id"], f"{found['folder']}/{found['name']}", (found["width"], found["height"]))


def cluster_of(found: Any) -> Cluster:
    """Of ``ClusterFacts``."""
    images = found["images"]
    return Cluster(
        tuple(one["id"] for one in images),
        found["decision"],
        tuple(one["overlap"] for one in images),
        tuple(one["inliers"] for one in images),
    )


def ranking_of(found: Any) -> Ranking:
    """Of a ``Search`` that is done, with its evidence in full."""
    results = found["results"]
    return Ranking(
        ids=np.array([one["image"] for one in results], np.int64),
        scores=np.array([one["score"] for one in results], np.float32),
        evidence=tuple(None if one["full"] is None else _evidence(one["full"]) for one in results),
        threshold=-np.inf if found["threshold"] is None else found["threshold"],
        calibrated=found["calibrated"],
        place=found["filter_rank"],
    )


def _evidence(full: Any) -> Evidence:
    return Evidence(
        inliers=full["inliers"],
        matches=full["matches"],
        homography=None if full["homography"] is None else np.array(full["homography"], np.float64),
        outline=None if full["outline"] is None else np.array(full["outline"], np.float32),
        box=None if full["box"] is None else tuple(full["box"]),
        query_xy=np.array(full["query_xy"], np.float32).reshape(-1, 2),
        result_xy=np.array(full["result_xy"], np.float32).reshape(-1, 2),
        others=tuple(map(_evidence, full.get("others", ()))),
        example=full["example"],
        agreement=full["agreement"],
    )
