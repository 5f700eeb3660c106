import subprocess
import sys

import pytest

from featx.errors import UnknownNameError, UsageError
from featx.heads import find_head, split_params
from featx.registry import HEADS


@pytest.mark.parametrize("name", HEADS)
def test_every_row_fits_its_estimator(name):
    head = find_head(name)
    assert head.name == name
    assert head.description
    known = head.estimator().get_params()
    assert set(head.params) | set(head.settings) | set(head.grid) <= set(known)
    assert set(head.grid) <= set(head.params)
    assert head.seeded == ("random_state" in known and name not in {"logreg", "ridge", "svm", "dummy"})
    for parameter, values in head.grid.items():
        for value in values:
            assert head.build({parameter: value}).get_params()[parameter] == value


def test_an_unknown_head_names_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean logreg"):
        find_head("logregg")


def test_heads_need_no_deep_learning_framework():
    code = """
import sys
sys.modules.update(dict.fromkeys(["tensorflow", "keras"]))  # importing None raises
import numpy, featx.heads as heads
from featx.specs import HeadSpec
X, y = numpy.eye(12, 3, dtype="float32"), numpy.arange(12) % 2
heads.fit_head(heads.find_head("ridge"), X, y, HeadSpec("ridge"), numpy.arange(12) // 2 % 3)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=500)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("keras", {}),
        ("KERAS:bn", {"batch_norm": True, "dropout": 0.5}),
        ("keras:1024", {"hidden": "1024", "dropout": 0.2}),
        ("keras:512-256", {"hidden": "512-256", "dropout": 0.3}),
    ],
)
def test_variants_of_a_head_are_heads(name, settings):
    head = find_head(name)
    assert head.name == name.lower()
    defaults = find_head("keras").estimator().get_params()
    built = head.build({}, 7, "l2").get_params()
    assert built == {**defaults, **settings, "random_state": 7, "scaling": "l2"}
    assert head.build({"dropout": "0.4"}).dropout == 0.4


@pytest.mark.parametrize("name", ["keras:", "keras:abc", "keras:0", "keras:512-", "keras:99999999"])
def test_a_wrong_variant_is_refused_with_the_right_spelling(name):
    with pytest.raises(UsageError, match=rf"called '{name}'; write keras, keras:bn, or .* keras:1024, keras:512-512"):
        find_head(name)


def test_other_heads_have_no_variants():
    with pytest.raises(UnknownNameError, match=r"no classifier is called 'logreg:3'; did you mean logreg\?"):
        find_head("logreg:3")


# Parameters


def test_texts_and_values_are_read_alike():
    assert find_head("logreg").check_params({"C": "1e-2", "class_weight": "balanced", "max_iter": "50"}) == {
        "C": 0.01,
        "class_weight": "balanced",
        "max_iter": 50,
    }
    mlp = find_head("mlp")
    for sizes in ("64,32", [64, 32], (64, 32)):  # JSON gives back a list
        assert mlp.check_params({"hidden_layer_sizes": sizes}) == {"hidden_layer_sizes": (64, 32)}
    assert mlp.check_params({"hidden_layer_sizes": 64}) == {"hidden_layer_sizes": (64,)}
    assert find_head("svm").check_params({"gamma": "scale"}) == {"gamma": "scale"}
    assert find_head("svm").check_params({"gamma": "0.5", "class_weight": "none"}) == {
        "gamma": 0.5,
        "class_weight": None,
    }


@pytest.mark.parametrize(
    ("head", "name", "value", "words"),
    [
        ("logreg", "C", "much", "logreg: C='much' is not a number above 0"),
        ("logreg", "C", "-1", "a number above 0"),
        ("logreg", "C", "inf", "a number above 0"),
        ("logreg", "C", "nan", "a number above 0"),
        ("logreg", "C", True, "a number above 0"),
        ("logreg", "C", None, "a number above 0"),
        ("logreg", "class_weight", "heavy", "one of balanced, none"),
        ("knn", "n_neighbors", "2.5", "a whole number of at least 1"),
        ("knn", "n_neighbors", "0", "a whole number of at least 1"),
        ("lda", "shrinkage", "1.5", "a number above 0, up to 1"),
        ("svm", "gamma", "wide", "scale or a number above 0"),
        ("mlp", "hidden_layer_sizes", "64,few", "whole numbers of at least 1, separated by commas"),
        ("centroid", "C", "1", "centroid has no parameters"),
    ],
)
def test_a_value_that_does_not_fit_is_named(head, name, value, words):
    with pytest.raises(UsageError, match=words):
        find_head(head).check_params({name: value})


def test_an_unknown_parameter_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"no parameter of logreg is called 'c'.*C, class_weight, max_iter, tol"):
        find_head("logreg").build({"c": 1})


def test_texts_are_split_at_the_first_equals_sign():
    assert split_params(["C=1", " alpha = a=b "]) == {"C": "1", "alpha": "a=b"}
    for wrong in ("C", "C=", "=1", ""):
        with pytest.raises(UsageError, match="write name=value"):
            split_params([wrong])
    with pytest.raises(UsageError, match="C is given twice"):
        split_params(["C=1", "C=2"])
