"""The nearest keys of some queries, kept while the keys come in blocks."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Nearest:
    """The keys with the largest similarities to each query, exactly.

    A block of similarities is compared with the least one kept so far, which is many times faster than partitioning
    it: after a few blocks hardly any key passes.

    Args:
        n_queries: Number of queries.
        count: How many keys are kept for each; at most the number of keys.

    Attributes:
        similarities: float32 (n_queries, count), the largest first.
        positions: int (n_queries, count), the place of each among the keys.
    """

    def __init__(self, n_queries: int, count: int) -> None:
        self.similarities = np.full((n_queries, count), -np.inf, np.float32)
        self.positions = np.zeros((n_queries, count), np.intp)

    def add(self, similarities: Floats, start: int) -> None:
        """Add the similarities (n_queries, n_keys) of a block of keys, of which `start` is the first."""
        count = self.similarities.shape[1]
        if start == 0:
            kept = min(count, similarities.shape[1])
            least = -np.partition(-similarities, kept - 1, axis=1)[:, kept - 1 : kept]
            rows, places = np.nonzero(similarities >= least)  # all equal ones, of which the first are kept
        else:
            rows, places = np.nonzero(similarities > self.similarities[:, -1:])
        if len(rows):
            self._merge(rows, similarities[rows, places], places + start)

    def _merge(self, rows: NDArray[np.intp], values: Floats, places: NDArray[np.intp]) -> None:
        """Merge new similarities of some rows into the kept ones."""
        count = self.similarities.shape[1]
        touched, group = np.unique(rows, return_inverse=True)
        owners = np.concatenate([np.repeat(np.arange(len(touched)), count), group])
        everything = np.concatenate([self.similarities[touched].ravel(), values])
        where = np.concatenate([self.positions[touched].ravel(), places])
        order = np.lexsort((where, -everything, owners))
        starts = np.searchsorted(owners[order], np.arange(len(touched)))
        kept = order[starts[:, None] + np.arange(count)]
        self.similarities[touched], self.positions[touched] = everything[kept], where[kept]
