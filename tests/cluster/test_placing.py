"""Where replicas go: apart, evenly, and to rest."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from resight.cluster.placing import node_for, to_move


def placed_anew(shards, replicas, nodes):
    placed = {}
    for shard in range(shards):
        for replica in range(replicas):
            placed[shard, replica] = node_for((shard, replica), placed, nodes)
    return placed


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))
def test_replicas_are_apart_and_even_where_there_are_nodes(shards, replicas, count):
    nodes = [f"n{i}" for i in range(count)]
    placed = placed_anew(shards, replicas, nodes)
    for shard in range(shards):
        assert len({placed[shard, r] for r in range(replicas)}) == min(replicas, count)
    held = Counter(placed.values())
    if replicas <= count:
        assert max(held.values()) - min(held[node] for node in nodes) <= 1


@given(st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 2)), st.sampled_from("abcd"), max_size=18))
def test_moves_end_with_replicas_apart_and_even(placed):
    nodes = list("abcd")
    for _ in range(100):
        replica = to_move(placed, nodes)
        if replica is None:
            break
        assert sum(shard == replica[0] for shard, _ in placed) > 1  # another answers meanwhile
        placed = {**placed, replica: node_for(replica, placed, nodes)}
    assert to_move(placed, nodes) is None
    for shard in {shard for shard, _ in placed}:
        own = [node for (s, _), node in placed.items() if s == shard]
        assert len(set(own)) == len(own)


def test_a_new_node_gets_its_part():
    placed = placed_anew(4, 2, ["a", "b"])
    for _ in range(10):
        if (replica := to_move(placed, ["a", "b", "c"])) is None:
            break
        placed[replica] = node_for(replica, placed, ["a", "b", "c"])
    assert sorted(Counter(placed.values()).values()) == [2, 3, 3]


def test_the_only_replica_of_a_shard_stays():
    assert to_move({(0, 0): "a", (1, 0): "a", (2, 0): "a"}, ["a", "b"]) is None
