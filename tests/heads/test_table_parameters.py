import pytest

from featx.errors import UnknownNameError, UsageError
from featx.heads import find_head, split_params


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
