"""Whether to fine-tune, in plain words, for each outcome of the paired test."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featx.comparing.report import describe_gains
from featx.comparison_results import FINE_TUNED, START, ComparisonRow
from featx.evaluation import evaluate
from featx.evaluation.paired import compare_pair
from featx.specs import HeadSpec

N = 150
TIME = "in 2.1 min in all, against 3.0 s of fitting (the store does not record the time of embedding)"


def evaluate_few():
    return evaluate(np.full((4, 2), 0.5), np.arange(4) % 2, ("a", "b"), resamples=10)


def make_frozen(store="photos", title="logreg", seconds=3.0, embedding=None):
    test = evaluate_few()
    return ComparisonRow(store, HeadSpec(title), "", 4, test=test, fit_seconds=seconds, embed_seconds=embedding)


def make_tuned(only_tuned, only_frozen, groups=None, p_value=None, store="photos", **options):
    """A run that alone was right on some items, while the frozen head alone was right on others."""
    tuned, frozen = np.ones(N, bool), np.ones(N, bool)
    frozen[:only_tuned] = False
    tuned[only_tuned : only_tuned + only_frozen] = False
    pair = compare_pair(tuned, frozen, groups=groups)
    return ComparisonRow(
        store,
        HeadSpec("network"),
        "",
        None,
        test=evaluate_few(),
        **{"fit_seconds": 125.0, "embed_seconds": 9.5, **options},
        kind=FINE_TUNED,
        name="finetune last:23",
        run=Path("run"),
        gain=pair,
        gain_p_value=pair.p_value if p_value is None else p_value,
    )


@pytest.mark.parametrize(
    ("tuned", "expected"),
    [
        (make_tuned(12, 0), f"fine-tuning (last:23) gains 8.0 points (4.6 to 13.5) over logreg, {TIME}"),
        (make_tuned(0, 12), f"fine-tuning (last:23) scores 8.0 points (4.6 to 13.5) less than logreg, {TIME}"),
        (
            make_tuned(3, 2),
            (
                "no difference shown on 150 test images: fine-tuning (last:23) scores +0.7 points (-3.0 to +4.6) "
                f"against logreg, {TIME}"
            ),
        ),
        (
            make_tuned(0, 0),
            (
                "no difference shown on 150 test images: fine-tuning (last:23) scores +0.0 points (-2.5 to +2.5) "
                f"against logreg, {TIME}"
            ),
        ),
        (
            make_tuned(3, 2, groups=[str(item // 5) for item in range(N)]),
            "no difference shown on 150 test images in 30 groups: fine-tuning (last:23) scores +0.7 points ",
        ),
        (
            make_tuned(12, 0, p_value=0.06),
            (
                "no difference shown on 150 test images: fine-tuning (last:23) scores +8.0 points "
                f"(+4.6 to +13.5) against logreg, p 0.06 among all differences of the table, {TIME}"
            ),
        ),
    ],
)
def test_each_outcome(tuned, expected):
    (sentence,) = describe_gains([make_frozen(), tuned], "test")
    assert sentence.startswith(expected)


@pytest.mark.parametrize(
    ("seconds", "frozen", "expected"),
    [
        (125.0, (0.1, 3.0), "in 40 times the time (2.1 min, embedding included, against 3.1 s)"),
        (125.0, (5.0, 15.0), "in 6.2 times the time (2.1 min, embedding included, against 20.0 s)"),
        (9.0, (5.0, 7.0), "in 0.8 times the time (9.0 s, embedding included, against 12.0 s)"),
        (9.0, (0.0, 0.0), "in 9,000 times the time (9.0 s, embedding included, against 0.00 s)"),
    ],
)
def test_the_times_of_both_are_of_everything(seconds, frozen, expected):
    head = make_frozen(seconds=frozen[0], embedding=frozen[1])
    (sentence,) = describe_gains([head, make_tuned(12, 0, fit_seconds=seconds)], "test")
    assert sentence == f"fine-tuning (last:23) gains 8.0 points (4.6 to 13.5) over logreg, {expected}"


def test_a_run_that_does_not_record_the_time_of_embedding():
    (sentence,) = describe_gains([make_frozen(embedding=4.0), make_tuned(12, 0, embed_seconds=None)], "test")
    assert sentence.endswith("against 3.0 s of fitting (the run does not record the time of embedding)")


def test_names_in_a_gain():
    """The first frozen head of the order, stores where there are several, and another backbone."""
    heads = [make_frozen(title="svm"), make_frozen("scans", "knn")]
    sentences = describe_gains([make_tuned(12, 0, store="big?alpha=2"), make_tuned(0, 12), *heads], "val")
    assert sentences[0].startswith(
        "fine-tuning (last:23 of big?alpha=2) gains 8.0 points (4.6 to 13.5) over svm on photos, "
    )
    assert sentences[1].startswith("fine-tuning (last:23) scores 8.0 points (4.6 to 13.5) less than svm on photos, ")
    assert "150 val images" in describe_gains([make_tuned(1, 1), *heads], "val")[0]
    unknown = describe_gains([make_tuned(12, 0), make_frozen(seconds=None)], "test")
    assert unknown[0].endswith("over logreg, time not recorded")


def test_no_gain_without_both_kinds():
    assert describe_gains([make_frozen()], "test") == ()
    assert describe_gains([make_tuned(1, 0)], "test") == ()


NO_GAIN = "so it kept the start: its numbers are those of the frozen network with that head"


@pytest.mark.parametrize(
    ("changes", "frozen", "plan", "images", "spent"),
    [
        ({}, [make_frozen()], "last:23", "the validation images", "2.1 min were spent and "),
        ({"fit_seconds": 8.0}, [], "last:23", "the validation images", "8.0 s were spent and "),
        (
            {"validation_accuracy": None, "fit_seconds": None, "store": "mobilenet"},
            [make_frozen()],
            *("last:23 of mobilenet", "its training images", ""),
        ),
    ],
)
def test_a_start_that_was_kept_gains_nothing(changes, frozen, plan, images, spent):
    """Also if the test favours the first head: fine-tuning did not train it."""
    changes = {"validation_accuracy": 0.9, "name": "finetune last:23 (start)"} | changes
    start = replace(make_tuned(12, 0), kind=START, **changes)
    (sentence,) = describe_gains([*frozen, start], "test")
    first = f"fine-tuning ({plan}) did not improve on its first head on {images}"
    assert sentence == f"{first}, {NO_GAIN}; {spent}nothing was trained"
