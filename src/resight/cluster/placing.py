"""Which node holds which replica of a shard: apart where there are nodes enough, and evenly."""

from collections import Counter
from collections.abc import Mapping, Sequence

Replica = tuple[int, int]
"""A shard's number, and which of its replicas."""


def node_for(replica: Replica, placed: Mapping[Replica, str], nodes: Sequence[str]) -> str:
    """The best node for a replica, given where the others are: one without this shard, then that with the fewest."""
    others = {r: node for r, node in placed.items() if r != replica}
    holding = {node for (shard, _), node in others.items() if shard == replica[0]}
    held = Counter(others.values())
    return min(nodes, key=lambda node: (node in holding, held[node], node))


def to_move(placed: Mapping[Replica, str], nodes: Sequence[str]) -> Replica | None:
    """A replica that would lie better on another node, and whose shard another one answers for meanwhile, or None.

    Better is apart from the other replicas of its shard, or where a node holds two fewer. Moves come to an end.
    """
    held = Counter(placed.values())
    for replica, node in sorted(placed.items()):
        others = {n for r, n in placed.items() if r[0] == replica[0] and r != replica}
        best = node_for(replica, placed, nodes)
        if others and best not in others and (node in others or held[best] + 1 < held[node]):
            return replica
    return None
