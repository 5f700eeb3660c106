import subprocess
import sys

import pytest

from featx.errors import UnknownNameError, UsageError
from featx.heads import find_head
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
def test_a_wrong_variant_is_told_how_to_spell_it(name):
    with pytest.raises(UsageError, match=rf"called '{name}'; write keras, keras:bn, or .* keras:1024, keras:512-512"):
        find_head(name)


def test_other_heads_have_no_variants():
    with pytest.raises(UnknownNameError, match=r"no classifier is called 'logreg:3'; did you mean logreg\?"):
        find_head("logreg:3")
