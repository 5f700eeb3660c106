import pytest

from featx.comparing.comparison import choose_heads
from featx.errors import UnknownNameError, UsageError
from featx.specs import HeadSpec


def test_sets_of_heads_and_heads_named_twice():
    specs, notes = choose_heads(["linear", "RIDGE,svm", HeadSpec("ridge", {"alpha": "1"})], 3, {}, None)
    assert [spec.name for spec in specs] == ["logreg", "ridge", "linear-svm", "lda", "centroid", "svm", "ridge"]
    assert specs[-1].params == {"alpha": 1.0}
    assert specs[0].seed == 3
    assert notes == []


def test_fixed_parameters_of_named_heads():
    fixed = {"class_weight": "balanced", "C": "2"}
    (logreg, ridge, own), notes = choose_heads(["logreg,ridge", HeadSpec("lda")], 0, fixed, "none")
    assert logreg == HeadSpec("logreg", {"class_weight": "balanced", "C": 2.0}, None, 0, "none")
    assert ridge == HeadSpec("ridge", {"class_weight": "balanced"}, None, 0, "none")
    assert own == HeadSpec("lda")
    assert notes == ["ridge: no parameter C, so it is ignored"]


def test_a_parameter_that_no_head_has():
    with pytest.raises(UsageError, match="none of knn, lda has a parameter class_weight"):
        choose_heads("knn,lda", 0, {"class_weight": "balanced"}, None)
    with pytest.raises(UsageError, match="class_weight"):
        choose_heads("logreg", 0, {"class_weight": "heavy"}, None)
    with pytest.raises(UnknownNameError, match="did you mean logreg"):
        choose_heads("logrge", 0, {}, None)
    with pytest.raises(UsageError, match="calibration is 'better'"):
        choose_heads("logreg", 0, {}, "better")
