import numpy as np
import pytest

from featx.heads.rows import BLOCK_BYTES, FeatureRows


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
