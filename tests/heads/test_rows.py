import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from featx.heads.rows import BLOCK_BYTES, FeatureRows, find_thread_pools


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32)


def test_all_rows_of_a_float32_matrix_are_not_copied(matrix):
    rows = FeatureRows.wrap(matrix)
    assert rows.shape == (500, 12)
    assert np.shares_memory(np.asarray(rows), matrix)
    assert all(np.shares_memory(block, matrix) for _, block in rows.iterate_blocks())


def test_rows_are_those_asked_for_in_that_order(matrix):
    some = np.array([7, 3, 499, 3])
    rows = FeatureRows(matrix, some)
    np.testing.assert_array_equal(np.asarray(rows), matrix[some])
    np.testing.assert_array_equal(rows[1:3], matrix[[3, 499]])
    np.testing.assert_array_equal(np.asarray(rows.take(np.array([True, False, True, False]))), matrix[[7, 499]])
    assert FeatureRows.wrap(rows) is rows


def test_half_precision_comes_back_as_float32(matrix):
    rows = FeatureRows.wrap(matrix.astype(np.float16))
    assert rows[:5].dtype == np.asarray(rows).dtype == np.float32


def test_blocks_cover_every_row_once_and_stay_small():
    wide = np.arange(3000 * 4096, dtype=np.float32).reshape(3000, 4096)
    rows = FeatureRows(wide, np.arange(2999, -1, -1))
    blocks = list(rows.iterate_blocks())
    assert len(blocks) > 1
    assert max(block.nbytes for _, block in blocks) <= BLOCK_BYTES
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), wide[::-1])
    assert [positions.start for positions, _ in blocks[1:]] == [positions.stop for positions, _ in blocks[:-1]]


@pytest.mark.parametrize("products", [1, 3])
def test_blocks_are_mapped_in_order_by_as_many_threads_as_products_have(products):
    """While they are, each product has one thread; afterwards, as many as before."""
    matrix = np.random.default_rng(0).standard_normal((10 * BLOCK_BYTES // 4 // 512, 512), np.float32)
    rows, threads, limits = FeatureRows(matrix), set(), set()

    def multiply(block, values):
        threads.add(threading.get_ident())
        limits.update(count_blas_threads())
        time.sleep(0.01)  # so that others get a block too
        return block.start, values @ values[:3].T

    with threadpool_limits(products, "blas"):
        found = list(rows.map_blocks(multiply))
        assert count_blas_threads() == {products}
    assert len(threads) == products
    assert limits == {1}
    assert [start for start, _ in found] == [block.start for block, _ in rows.iterate_blocks()]
    for (_, ours), (_, values) in zip(found, rows.iterate_blocks(), strict=True):
        np.testing.assert_allclose(ours, values @ values[:3].T, rtol=1e-5, atol=1e-4)


def test_an_error_in_a_block_ends_the_pass():
    rows = FeatureRows(np.zeros((10 * BLOCK_BYTES // 4 // 512, 512), np.float32))

    def fail(block, _):
        if block.start:
            msg = "a block failed"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="a block failed"), threadpool_limits(2, "blas"):
        list(rows.map_blocks(fail))


def count_blas_threads():
    return {pool["num_threads"] for pool in find_thread_pools().info() if pool["user_api"] == "blas"}
