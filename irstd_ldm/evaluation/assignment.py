"""One-to-one assignment where only some pairs are allowed."""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BLOCK_PAIRS = 128  # so many allowed pairs at least are assigned at a time
MAX_BLOCK_PAIRS = 2**25  # a dense matrix of 256 MB


def assign(
    shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, cost: np.ndarray, outside_cost: float
) -> list[tuple[int, int]]:
    """As many of the allowed pairs as possible, each row and column once, and among such choices the cheapest.

    Time and memory are those of the allowed pairs, as long as these do not join thousands of rows and of columns.

    Args:
        shape: Numbers of rows and columns.
        rows, columns, cost: (K,), the allowed pairs, each once, and what they cost.
        outside_cost: Costs more than all pairs of a choice together.

    Returns:
        The chosen pairs (row, column), by increasing row.

    Raises:
        ValueError: More than `MAX_BLOCK_PAIRS` pairs depend on one another.
    """
    chosen = []
    for block in _blocks(shape, rows, columns):
        own_rows, row = np.unique(rows[block], return_inverse=True)
        own_columns, column = np.unique(columns[block], return_inverse=True)
        if len(own_rows) * len(own_columns) > MAX_BLOCK_PAIRS:
            raise ValueError(
                f"{len(own_rows)} and {len(own_columns)} components lie so near one another that they cannot be "
                f"assigned; allowed are {MAX_BLOCK_PAIRS} pairs"
            )
        dense = np.full((len(own_rows), len(own_columns)), outside_cost)
        dense[row, column] = cost[block]
        allowed = np.zeros(dense.shape, dtype=bool)
        allowed[row, column] = True
        for one, other in zip(*linear_sum_assignment(dense), strict=True):
            if allowed[one, other]:
                chosen.append((int(own_rows[one]), int(own_columns[other])))
    return sorted(chosen)


def _blocks(shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """The indices of the pairs (K',) of independent parts, small ones together: no two share a row or a column."""
    graph = coo_matrix((np.ones(len(rows)), (rows, shape[0] + columns)), shape=(sum(shape), sum(shape)))
    part = connected_components(graph, directed=False)[1][rows]  # (K,)
    order = np.argsort(part, kind="stable")
    starts = np.append(np.flatnonzero(np.diff(part[order], prepend=-1)), len(order))
    start = 0
    for end in starts.tolist():
        if end - start >= BLOCK_PAIRS or end == len(order) > start:
            yield order[start:end]
            start = end
