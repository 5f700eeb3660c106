"""What a scout says about its table."""

from pathlib import Path

import numpy as np

from featx import HeadSpec
from featx.evaluation import compare_pair
from featx.scouting.report import describe_scout
from featx.scouting.results import ScoutResult, ScoutRow, choose_row

RIGHT = np.arange(200) % 10 > 0
OTHER = RIGHT ^ (np.arange(200) % 40 == 1)


def make_row(name, rate, **values):
    about = {"layer": "top", "pooling": "avg", "flags": (), "store": Path("store.h5"), "dim": 4, "seconds": 1.0}
    about |= {"bytes_per_item": 16} | values
    return ScoutRow(backbone=name, name=name, images_per_second=rate, **about)


def describe(*rows, n_train=200):
    choice = choose_row(rows, is_sample=n_train > 200)
    return describe_scout(ScoutResult(rows, choice, "", HeadSpec("lda"), 5, 200, n_train, None, (), 1.0, ()))


BEST = make_row("slow", 10, verdict="best", accuracy=0.9, bytes_per_item=8)
TIE = make_row("fast", 100, verdict="tie", paired=compare_pair(OTHER, RIGHT))
WORSE = make_row("bad", 1000, verdict="worse", paired=compare_pair(~RIGHT, RIGHT))


def test_the_cheapest_that_is_not_shown_to_be_worse():
    assert describe(BEST, TIE, WORSE) == [
        "embed fast: the cheapest of the 2 that these 200 images do not show to be worse than the most accurate, slow",
        "by these images, it may be up to 5.7 points worse",
        "of these, slow has the fewest bytes an item",
        "accuracy is that of lda on 5 folds; the 200 images are all training images, and the test was not used",
    ]


def test_the_most_accurate_on_a_sample():
    first, *rest = describe(BEST, TIE, WORSE, n_train=900)
    assert first == (
        "embed slow: the most accurate on this sample, which does not show that 1 other set is worse; the cheapest of "
        "them is fast"
    )
    assert rest == [
        "accuracy is that of lda on 5 folds; a sample of 200 images of 900 training images, and the test was not used",
    ]


def test_the_best_alone():
    assert describe(BEST, WORSE)[0] == "embed slow: these 200 images show that all others are worse"
    assert describe(BEST) == [
        "embed slow",
        "accuracy is that of lda on 5 folds; the 200 images are all training images, and the test was not used",
    ]
    failed = make_row("odd", 10, error="its features are all equal")
    assert describe(BEST, failed)[0] == "embed slow"
    assert describe(BEST, failed)[-1] == "failed: odd: its features are all equal"


def test_the_best_that_is_also_the_cheapest():
    quick = make_row("quick", 1000, verdict="best", accuracy=0.9)
    assert describe(quick, TIE)[0] == (
        "embed quick: the most accurate and the cheapest of the 2 that these 200 images do not show to be worse than "
        "the best"
    )
