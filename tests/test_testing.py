"""The contracts pass what keeps them and fail what breaks them, as other packages run them."""

import subprocess
import sys

import pytest

from featx.heads import find_head
from featx.testing import HeadContract

KEPT = """
import numpy as np
import pytest
import featx
from featx.heads import find_head
from featx.testing import BackboneContract, HeadContract


class TestColour(BackboneContract):
    tolerance = 0.0

    @pytest.fixture
    def backbone(self):
        return featx.load_backbone("colour", image_size=(16, 16))


class TestCentroid(HeadContract):
    @pytest.fixture
    def head(self):
        return find_head("centroid")
"""

BROKEN = """
from dataclasses import replace

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB
import featx
from featx.heads import find_head
from featx.testing import BackboneContract, HeadContract


class Standardized:
    # Divides by the mean of the batch, so that a row depends on the other images.
    def __init__(self, network):
        self._network = network

    def __getattr__(self, name):
        return getattr(self._network, name)

    def embed(self, images):
        (features,) = self._network.embed(images)
        return (features / features.mean(dtype=np.float32),)


class Reversed(GaussianNB):
    # Its columns are in another order than its classes, and featx does not load its type.
    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]


class TestStandardized(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return Standardized(featx.load_backbone("colour", image_size=(16, 16)))


class TestReversed(HeadContract):
    @pytest.fixture
    def head(self):
        return replace(find_head("naive-bayes"), name="reversed", estimator=Reversed, calibrated=False)
"""


def run(text, folder):
    (folder / "test_mine.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "test_mine.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_valid_components_pass(tmp_path):
    done = run(KEPT, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_broken_contract_fails_its_own_check(tmp_path):
    done = run(BROKEN, tmp_path)
    failed = {line.split("::")[-1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed >= {
        "test_an_image_has_the_same_features_alone_and_in_a_batch",
        "test_the_batch_size_changes_nothing",
        "test_it_is_no_worse_than_guessing",
        "test_a_bundle_can_hold_it",
    }
    assert "test_it_leaves_its_input_unchanged" not in failed
    assert "assert (array(" in done.stdout or "np.abs(" in done.stdout  # the asserts of a contract show their values


class TestRegisteredHeads(HeadContract):
    @pytest.fixture(params=["logreg", "ridge", "knn", "lda", "naive-bayes", "dummy"])
    def head(self, request):
        return find_head(request.param)
