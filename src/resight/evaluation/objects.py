"""Which object each photo of a labelled set shows."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from resight.evaluation.labelled import LabelledSet


def objects(labelled: LabelledSet) -> dict[str, str]:
    """Path in the set → name of the object, of the photos of which it is known.

    As the set's groups say; without any, by its answers: photos that answer a query show what the query does, and so
    does whatever is linked to them by further queries. An object is then called by its first photo.
    """
    if labelled.groups:
        return dict(labelled.groups)
    links = [(query.path, path) for query in labelled.queries for path in sorted(query.positives)]
    paths = sorted({path for link in links for path in link})
    place = {path: number for number, path in enumerate(paths)}
    rows, columns = np.array([[place[a], place[b]] for a, b in links]).T
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(paths), len(paths)))
    _, part = connected_components(graph, directed=False)
    _, first = np.unique(part, return_index=True)
    return {path: paths[first[number]] for path, number in zip(paths, part.tolist(), strict=True)}
