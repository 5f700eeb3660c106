import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.audit import near_copies
from featx.audit.near_copies import find_pairs
from featx.errors import DataError, UsageError
from featx.heads.rows import FeatureRows


def make_features(n: int, dim: int, seed: int) -> np.ndarray:
    """Make rows with a few strong directions, as networks give them, of which some are nearly the same."""
    generator = np.random.default_rng(seed)
    strong = generator.normal(size=(n, 5)) @ generator.normal(size=(5, dim))
    rows = np.maximum(strong + generator.normal(size=(n, dim)) + 0.5, 0).astype(np.float32)
    copies = n // 4
    rows[n - copies :] = (
        rows[:copies] * generator.uniform(0.5, 2, (copies, 1))
        + generator.normal(size=(copies, dim)) * np.geomspace(1e-4, 1, max(copies, 1))[:copies, None]
    )
    return rows


def compare_all(rows: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    exact = rows.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > 0)
    cosines = unit @ unit.T
    return {
        (i, j): cosines[i, j] for i in range(len(rows)) for j in range(i + 1, len(rows)) if cosines[i, j] >= threshold
    }


@given(
    n=st.integers(1, 70),
    dim=st.integers(1, 90),
    seed=st.integers(0, 2**31),
    threshold=st.floats(0.3, 0.999),
    half=st.booleans(),
    zeros=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_pairs_are_those_of_all_cosines(n, dim, seed, threshold, half, zeros):
    rows = make_features(n, dim, seed).astype(np.float16 if half else np.float32)
    rows[:zeros] = 0
    wanted = compare_all(rows, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_copies, "_BLOCK", 16)
        found = find_pairs(FeatureRows(rows), threshold)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == sorted(pairs)
    close = {pair for pair, cosine in compare_all(rows, threshold - 1e-9).items() if abs(cosine - threshold) < 1e-9}
    assert set(pairs) ^ set(wanted) <= close  # a cosine that equals the threshold may fall on either side
    assert np.allclose(found.cosines, [wanted.get(pair, threshold) for pair in pairs], atol=1e-9)


def test_few_pairs_are_computed_in_full():
    rows = make_features(4000, 400, seed=1)
    found = find_pairs(FeatureRows(rows), 0.97)
    assert 200 < len(found) <= found.n_screened < 40_000  # of 8 million


def test_copies_without_end_are_an_error_that_says_what_to_change(monkeypatch):
    monkeypatch.setattr(near_copies, "MOST_PAIRS", 1000)
    with pytest.raises(DataError, match=r"more than 1,000 pairs of the 100 items .* threshold closer to 1"):
        find_pairs(FeatureRows(np.ones((100, 8), np.float32)), 0.95)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_must_be_a_cosine(threshold):
    with pytest.raises(UsageError, match="cosine above 0 and at most 1"):
        find_pairs(FeatureRows(np.ones((2, 2), np.float32)), threshold)


def test_progress_ends_at_all_rows():
    seen = []
    find_pairs(FeatureRows(make_features(50, 8, 0)), 0.9, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, 50)
