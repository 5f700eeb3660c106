"""Features larger than memory: the same heads, the same numbers."""

import json

import numpy as np
import pytest
from pictures import write_digits
from reporters import Recorder

import featx
from featx import options as limits
from featx.errors import UsageError
from featx.files import reserve_file
from featx.fitting import choice
from featx.fitting.memory import MemoryPlan, measure_available
from featx.heads import find_head, persistence, ridge, rows
from featx.heads.rows import FeatureRows, TrainingRows
from featx.heads.tuning import tune_and_fit
from featx.options import EmbedOptions, FitOptions, read_memory
from featx.specs import HeadSpec

SIDE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """120 digits of four classes in the order of their classes, in half precision."""
    folder = tmp_path_factory.mktemp("halves")
    source = write_digits(folder / "digits", per_class=30, classes=4)
    return featx.embed(source, "colour", image=SIDE, dtype="float16", folder=folder / "f", options=EmbedOptions()).store


@pytest.fixture
def any_memory(monkeypatch):
    """Let a fit have less memory than its code takes, so that 120 digits are streamed."""
    monkeypatch.setattr(limits, "LEAST_MEMORY", 1)


def fit(store, head, memory=None, **options):
    return featx.fit(store, head, options=FitOptions(folder=None, memory=memory, **options))


@pytest.mark.usefixtures("any_memory")
@pytest.mark.parametrize("head", ["ridge", "lda", "centroid", "logreg", "knn"])
@pytest.mark.parametrize("options", [{}, {"group": r"digit-(\d{3})"}, {"cv": 2}], ids=["plain", "groups", "cv"])
def test_a_streamed_fit_gives_the_numbers_of_one_in_memory(halves, head, options, monkeypatch):
    before = fit(halves, head, **options)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)  # blocks of 64 items, the last of which lacks classes
    monkeypatch.setattr(ridge, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "_BLOCKS_MAPPED", 1)
    after = fit(halves, head, memory=1, **options)
    assert after.head == before.head
    assert [(one.params, one.scaling) for one in after.candidates] == [
        (one.params, one.scaling) for one in before.candidates
    ]
    for one, other in zip(after.candidates, before.candidates, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.011)  # one item near a border
        assert one.log_loss == pytest.approx(other.log_loss, abs=2e-3)
    assert after.tested["predicted"].tolist() == before.tested["predicted"].tolist()
    for name in (name for name in before.tested if name.startswith("probability_")):
        np.testing.assert_allclose(after.tested[name], before.tested[name], atol=2e-3)


@pytest.mark.parametrize(("head", "passes"), [("ridge", 4), ("lda", 3), ("centroid", 3)])
def test_heads_from_sums_are_tuned_and_fitted_in_a_few_passes(head, passes, monkeypatch):
    y = np.arange(600) % 3
    X = (np.random.default_rng(0).standard_normal((600, 5)) + y[:, None]).astype(np.float32)
    read, take = [], FeatureRows.__getitem__

    def count(rows, key):
        found = take(rows, key)
        read.append(len(found))
        return found

    monkeypatch.setattr(FeatureRows, "__getitem__", count)
    training = TrainingRows(FeatureRows(X), y, np.arange(600) // 3 % 3, np.arange(600))
    tune_and_fit(find_head(head), training, HeadSpec(head, scaling="none"))
    assert sum(read) // 600 == passes  # and some hundred items, near which the mean is


@pytest.mark.usefixtures("any_memory")
def test_what_was_decided_is_said_once_and_recorded(halves, tmp_path):
    reporter = Recorder()
    run = featx.fit(halves, "ridge", options=FitOptions(folder=tmp_path, memory=20_000, reporter=reporter))
    [line] = reporter.lines
    assert "memory of 20.0 kB: streamed from their file" in line
    record = json.loads((run.bundle / "bundle.json").read_text())["record"]["memory"]
    n_bytes = 4 * halves.features.size
    assert record == {"features_bytes": n_bytes, "streamed": True, "memory_bytes": 20_000}
    assert not MemoryPlan.make(halves, FitOptions(memory=2 * n_bytes)).streamed
    assert MemoryPlan.make(halves, FitOptions()).describe() == ""


@pytest.mark.usefixtures("any_memory")
@pytest.mark.parametrize("head", ["random-forest", "svm", "mlp"])
def test_a_head_that_needs_everything_in_memory_is_refused_before_anything_is_read(halves, head, monkeypatch):
    monkeypatch.setattr(featx.fitting.fitting, "refuse_damage", lambda _: pytest.fail("it was read"))
    words = rf"^{head} needs all features in memory: they take .* Choose one of logreg, ridge, knn, lda, centroid, "
    with pytest.raises(UsageError, match=words):
        fit(halves, head, memory=10_000)


@pytest.mark.usefixtures("any_memory")
def test_best_leaves_out_what_does_not_fit(halves):
    run = fit(halves, "best", memory=10_000)
    assert {one.name for one in run.heads} == {"centroid", "lda", "ridge", "logreg"}
    assert any(note.startswith("naive-bayes, mlp, random-forest were left out") for note in run.notes)
    assert any(note.startswith("knn was left out, since it compares each item") for note in run.notes)


@pytest.mark.usefixtures("any_memory")
def test_neighbours_that_exceed_the_memory_are_written_and_mapped_by_blocks(halves, tmp_path, monkeypatch):
    params = {"n_neighbors": 3}
    before = featx.fit(halves, "knn", params=params, options=FitOptions(folder=tmp_path / "memory"))
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(persistence, "_MOST_READ", 0)
    options = FitOptions(folder=tmp_path / "streamed", memory=1, reporter=Recorder())
    after = featx.fit(halves, "knn", params=params, options=options)
    heads = [featx.Bundle.open(run.bundle).load_head()[-1] for run in (before, after)]
    kept, mapped = [getattr(head, "classifier_", head).keys_ for head in heads]
    assert isinstance(mapped, np.memmap)
    assert mapped.flags.aligned
    np.testing.assert_array_equal(mapped, kept)
    assert (heads[0].predict_proba(halves.features[:50]) == heads[1].predict_proba(halves.features[:50])).all()


def test_a_long_search_is_announced(monkeypatch):
    plan = (find_head("knn"), HeadSpec("knn"))
    monkeypatch.setattr(choice, "estimate_seconds", lambda n_queries, n_keys, dim: n_queries * n_keys * dim * 2e-11)
    assert choice.describe_search([plan], 30_000, 1280) == ""
    words = "knn compares 1,000,000 items with each other, which takes about 14.2 h; the time of ridge"
    assert choice.describe_search([plan], 1_000_000, 1280).startswith(words)
    assert choice.describe_search([plan, (find_head("lda"), HeadSpec("lda"))], 1_000_000, 1280) == ""


@pytest.mark.usefixtures("any_memory")
def test_joined_stores_that_exceed_the_memory_are_refused(halves, tmp_path):
    other = featx.embed(halves.source, "colour", image={"height": 8, "width": 8}, folder=tmp_path).store
    with pytest.raises(UsageError, match="the features of 2 stores are joined in memory: they take"):
        fit([halves, other], "lda", memory=10_000)


def test_bytes_are_read_with_and_without_units():
    assert [read_memory(text) for text in ("1.5GiB", "300 MB", "800000kB", "250000000", "3 T")] == [
        3 * 2**29, 300_000_000, 800_000_000, 250_000_000, 3 * 10**12]  # fmt: skip
    for text in ("", "much", "1.2.3GB", "0", "-5MB"):
        with pytest.raises(UsageError, match=r"^--memory '.*' is not a number of bytes"):
            read_memory(text)


def test_less_memory_than_the_code_takes_is_refused():
    with pytest.raises(UsageError, match=r"^memory is 0 bytes, but the code of a fit alone takes 250 MB"):
        FitOptions(memory=0)


def test_the_memory_of_this_machine_is_known():
    assert measure_available() > 10**8


def test_scores_in_a_file_are_an_array():
    scores = reserve_file((3, 4), np.float32)
    scores[...] = 2
    assert scores[1:].sum() == 16
