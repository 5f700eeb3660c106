"""Arguments of a wrong type: the error says what to pass."""

import numpy as np
import pandas as pd
import pytest
from reporters import Recorder

import featx
from featx import CompareOptions, EmbedOptions, FineTuneOptions, FitOptions, SplitOptions
from featx.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (FitOptions, {"cv": "5"}, "cv is '5', a str; pass a whole number"),
        (FitOptions, {"cv": 2.5}, "cv is 2.5, a float; pass a whole number"),
        (FitOptions, {"test_size": "0.2"}, "test_size is '0.2', a str; pass a number"),
        (FitOptions, {"group": None}, "group is None, a NoneType; pass text"),
        (FitOptions, {"curve": "yes"}, "curve is 'yes', a str; pass True or False"),
        (FitOptions, {"folder": 3}, "folder is 3, a int; pass a path"),
        (FitOptions, {"reporter": print}, "pass a featx.Reporter"),
        (EmbedOptions, {"batch_size": "32"}, "batch_size is '32', a str; pass a whole number"),
        (EmbedOptions, {"workers": True}, "workers is True, a bool; pass a whole number"),
        (EmbedOptions, {"max_bad": "5%"}, "max_bad is '5%', a str; pass a number"),
        (SplitOptions, {"val_size": None}, "val_size is None, a NoneType; pass a number"),
        (CompareOptions, {"jobs": "all"}, "jobs is 'all', a str; pass a whole number"),
        (FineTuneOptions, {"fresh": 1}, "fresh is 1, a int; pass True or False"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(kind, values, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        kind(**values)


def test_numbers_of_numpy_and_none_where_it_is_the_default_are_fine():
    assert FitOptions(cv=np.int64(5), test_size=np.float32(0.5), seed=np.int32(1)).cv == 5
    assert EmbedOptions(batch_size=None, max_bad=0).workers is None
    assert FitOptions(folder=None).folder is None


def test_options_that_are_none_say_what_to_pass(store, digits):
    calls = (
        (lambda: featx.fit(store, options={"cv": 5}), "options is a dict; pass options=featx.FitOptions"),
        (lambda: featx.embed(digits, "colour", options=FitOptions()), "options is a FitOptions; pass .*EmbedOptions"),
        (lambda: featx.compare(store, options=5), "options is a int; pass options=featx.CompareOptions"),
        (lambda: featx.finetune(digits, "colour", options={}), "options is a dict; pass options=featx.FineTuneOptions"),
    )
    for call, message in calls:
        with pytest.raises(UsageError, match=message):
            call()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pd.DataFrame({"path": []}), "the source is a DataFrame; pass featx.Manifest.from_frame"),
        (["a.png", "b.png"], "the source is a list; pass the path"),
        (None, "the source is a NoneType; pass the path"),
    ],
)
def test_a_source_that_is_no_path_says_what_to_pass(source, message):
    with pytest.raises(UsageError, match=message):
        featx.embed(source, "colour")
    with pytest.raises(UsageError, match=message):
        featx.read_source(source)


def test_results_are_shown_in_one_line(store, digits):
    run = featx.fit(store, "centroid", options=FitOptions(folder=None))
    comparison = featx.compare(store, "centroid,ridge", options=CompareOptions(folder=None, jobs=1))
    shown = [repr(run), repr(comparison), repr(featx.read_source(digits))]
    assert shown[0].startswith("<Run centroid: trained on ")
    assert shown[1].startswith("<Comparison of 2 rows, 0 failed; best ")
    assert shown[2] == f"<Manifest {str(digits)!r}: 400 items, 10 classes>"
    assert all("\n" not in line and len(line) < 300 for line in shown)


def test_cross_validation_says_which_fold_it_fits(store):
    recorder = Recorder()
    featx.fit(store, "ridge", options=FitOptions(folder=None, cv=3, reporter=recorder))
    assert recorder.phases == ["fitting", "fold 1 of 3", "fold 2 of 3", "fold 3 of 3", "fitting to all items"]
    assert recorder.counts[-1][0] == recorder.counts[-1][1]
    assert sorted(recorder.counts) == recorder.counts
