"""Connected components by union-find, and the rows that stay for others in a graph of links."""

from __future__ import annotations

import numba as nb
import numpy as np

from pipelines.kernels.characters import Ints


def connected(num_nodes: int, left: Ints, right: Ints) -> Ints:
    """The component of each node 0 .. num_nodes - 1: the lowest node in it. Shape (num_nodes,)."""
    return _connected(num_nodes, left, right)


def representatives(num_nodes: int, later: Ints, earlier: Ints) -> Ints:
    """For each node the one that stays for it, itself if it stays. Shape (num_nodes,).

    Nodes are taken in their order: one stays unless it has a link to an earlier one that stays,
    and then the earliest such stays for it. So whatever goes has a link of its own to what stays.
    """
    order = np.argsort(earlier, kind="stable")
    begins = np.searchsorted(earlier[order], np.arange(num_nodes + 1))
    return _representatives(num_nodes, later[order], begins)


@nb.njit(cache=True, nogil=True)
def _representatives(num_nodes: int, later: Ints, begins: Ints) -> Ints:
    stays_for = np.arange(num_nodes)
    for node in range(num_nodes):
        if stays_for[node] != node:
            continue
        for link in range(begins[node], begins[node + 1]):
            if stays_for[later[link]] == later[link]:
                stays_for[later[link]] = node
    return stays_for


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
