"""Connected components by union-find."""

from __future__ import annotations

import numba as nb
import numpy as np

from pipelines.kernels.words import Ints


def connected(num_nodes: int, left: Ints, right: Ints) -> Ints:
    """The component of each node 0 .. num_nodes - 1: the lowest node in it. Shape (num_nodes,)."""
    return _connected(num_nodes, left, right)


@nb.njit(cache=True, inline="always")
def _root(parent: Ints, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]  # path halving
        node = parent[node]
    return node


@nb.njit(cache=True, nogil=True)
def _connected(num_nodes: int, left: Ints, right: Ints) -> Ints:
    parent = np.arange(num_nodes)
    for edge in range(len(left)):
        left_root, other = _root(parent, left[edge]), _root(parent, right[edge])
        if left_root < other:
            parent[other] = left_root
        elif other < left_root:
            parent[left_root] = other
    for node in range(num_nodes):
        parent[node] = _root(parent, node)
    return parent
