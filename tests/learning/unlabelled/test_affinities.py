"""Affinities of the graph against dense linear algebra and Floyd–Warshall."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from resight.learning.unlabelled.affinities import diffusion_rows, edge_lengths, first, geodesic_rows, rdp_rows
from resight.learning.unlabelled.anchors import modes, stationary
from resight.search.rerank.neighbours import knn_graph, mutual_graph


@pytest.fixture
def edges(rings):
    return mutual_graph(rings(arcs=3, each=12)[0], 5, 3.0)


def dense_transitions(w):
    degree = w.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return scale[:, None] * w * scale


NODES = np.array([3, 20, 35])


def test_diffusion_is_the_inverse(edges):
    inverse = np.linalg.inv(np.eye(36) - 0.9 * dense_transitions(edges.toarray()))
    rows = diffusion_rows(edges, NODES, 0.9, tolerance=1e-12)
    np.testing.assert_allclose(rows, inverse[NODES], atol=1e-9)


def test_regularised_diffusion_is_the_limit_of_its_iteration(edges):
    s = dense_transitions(edges.toarray() + np.eye(36))
    limit = np.eye(36)
    for _ in range(400):
        limit = 0.8 * s @ limit @ s.T + 0.2 * np.eye(36)
    np.testing.assert_allclose(rdp_rows(edges, NODES, 0.8, tolerance=1e-12), limit[NODES], atol=1e-9)


def test_shortest_ways_are_those_of_floyd_and_warshall(rings):
    cosines = knn_graph(rings(arcs=3, each=12)[0], 4)
    d = np.full((36, 36), np.inf)
    np.fill_diagonal(d, 0)
    for i, j in zip(*cosines.nonzero(), strict=True):
        d[i, j] = d[j, i] = np.sqrt(2 - 2 * cosines[i, j])
    for via in range(36):
        d = np.minimum(d, d[:, via, None] + d[via])
    np.testing.assert_allclose(geodesic_rows(edge_lengths(cosines), NODES), -d[NODES], atol=1e-9)


def test_copies_are_as_near_as_can_be():
    x = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    (row,) = geodesic_rows(edge_lengths(knn_graph(x, 1)), np.array([0]))
    assert row[1] == pytest.approx(0, abs=1e-5) and np.isfinite(row[1])


@given(arrays(np.float64, st.integers(1, 12), elements=st.integers(-2, 3).map(float)), st.integers(1, 12), st.data())
def test_the_first_are_those_of_a_sort(row, count, data):
    but = data.draw(st.integers(0, len(row) - 1))
    expected = [n for n in sorted(range(len(row)), key=lambda n: (-row[n], n)) if row[n] > 0 and n != but][:count]
    assert first(row, count, floor=0.0, but=but).tolist() == expected


def test_a_walk_is_where_power_iteration_puts_it(rings):
    w = mutual_graph(rings(arcs=1, each=30)[0], 14, 3.0)
    assert connected_components(w)[0] == 1
    walk = w.toarray() / w.toarray().sum(axis=1, keepdims=True)
    share = np.full(30, 1 / 30)
    for _ in range(20_000):
        share = 0.5 * share + 0.5 * share @ walk  # lazy, so that it settles on any graph
    np.testing.assert_allclose(stationary(w), share, atol=1e-9)


def test_modes_are_visited_more_than_their_neighbours(edges):
    visits, w = stationary(edges), edges.toarray()
    expected = [
        n
        for n in sorted(range(36), key=lambda n: (-visits[n], n))
        if w[n].any() and all((-visits[n], n) < (-visits[m], m) for m in np.flatnonzero(w[n]))
    ]
    assert modes(edges, visits).tolist() == expected and 2 < len(expected) < 20


def test_nothing_linked_has_no_modes():
    empty = csr_array((4, 4))
    assert stationary(empty).tolist() == [0] * 4 and len(modes(empty, stationary(empty))) == 0
