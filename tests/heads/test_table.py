import subprocess
import sys

import pytest

from featx.errors import UnknownNameError
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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
