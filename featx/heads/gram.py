"""Products of features with themselves: the Gram matrix, a block of items at a time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats

#: Positions of items and their features -> what is multiplied, in new or old memory, float32 (n_block, dim).
Prepare = Callable[[slice, Floats], Floats]


def accumulate_gram(
    X: FeatureRows, prepare: Prepare, targets: Floats | None = None
) -> tuple[Floats, NDArray[np.float64]]:
    """Sum x x^T and x t^T over all items in one pass.

    Args:
        X: (n_items, dim).
        prepare: What is done to each block, such as to take the mean away.
        targets: float32 (n_items, n_outputs); None for none.

    Returns:
        float32 (dim, dim), of which only the lower triangle is filled, in Fortran's order;
        and float64 (dim, n_outputs).
    """
    dim = X.shape[1]
    gram = np.zeros((dim, dim), np.float32, order="F")
    product = np.zeros((dim, 0 if targets is None else targets.shape[1]), np.float32, order="F")
    for rows, block in X.iterate_blocks():
        # The transpose of a C-ordered block is what Fortran wants: half the work of a full product, no copy.
        # Both products are SciPy's: NumPy has threads of its own, which would still be spinning (2.2 times slower).
        prepared = prepare(rows, block).T
        gram = blas.ssyrk(1.0, prepared, beta=1.0, c=gram, overwrite_c=True, lower=True)
        if targets is not None:
            product = blas.sgemm(1.0, prepared, targets[rows].T, beta=1.0, c=product, overwrite_c=True, trans_b=True)
    return gram, product.astype(np.float64)
