"""The commands of a user on real photographs with real ImageNet weights."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.keras, pytest.mark.shared]


class Shell:
    """An empty folder in which commands run, with the weights where Keras looks for them."""

    def __init__(self, folder, shared):
        self.folder = folder
        self.env = {**os.environ, "KERAS_HOME": str(shared / "keras")}

    def run_python(self, *arguments):
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def run_featx(self, *arguments):
        return json.loads(self.run_python("-m", "featx", *arguments, "--json"))


@pytest.fixture(scope="module")
def shell(shared, tmp_path_factory):
    return Shell(tmp_path_factory.mktemp("user"), shared)


@pytest.fixture(scope="module")
def insects(shell, shared):
    source = shared / "data" / "ants_bees"
    assert shell.run_featx("embed", source, "--backbone", "mobilenetv2")["new"] == 398
    return source


@pytest.fixture(scope="module")
def run(shell, insects):
    return shell.run_featx("fit", "features/mobilenetv2.h5", "--clf", "logreg")


def test_ants_and_bees_train_on_train_and_report_on_val(run):
    assert (run["test_name"], run["train_items"], run["test"]["items"]) == ("val", 245, 153)
    assert run["test"]["accuracy"] >= 0.93


def test_the_bundle_gives_from_pixels_what_fit_reported_from_features(shell, insects, run):
    test = shell.run_featx("evaluate", run["bundle"], insects, "--split", "val")["test"]
    assert test["confusion"] == run["test"]["confusion"]
    assert test["log_loss"] == pytest.approx(run["test"]["log_loss"], abs=1e-4)


def test_ants_and_bees_cross_validated(shell, insects):
    result = shell.run_featx("fit", "features/mobilenetv2.h5", "--clf", "logreg", "--cv", "5")
    assert result["test"]["items"] == 398
    assert result["test"]["accuracy"] >= 0.94


ALONE = """
import sys
import numpy as np
import featx

bundle, root = sys.argv[1:]
store = featx.FeatureStore("features/mobilenetv2.h5")
predictor = featx.Predictor.load(bundle)
for row in range(0, len(store), 40):
    with open(f"{root}/{store.ids[row]}", "rb") as file:
        alone = predictor.embed(featx.decode(file.read(), store.spec.image).pixels[None])[0]
    print(np.abs(alone - store.features[row]).max() / np.abs(store.features[row]).max())
"""


def test_an_image_alone_gives_the_vector_that_it_has_in_the_store(shell, insects, run):
    differences = [float(line) for line in shell.run_python("-c", ALONE, run["bundle"], insects).splitlines()]
    assert len(differences) == 10
    assert max(differences) < 1e-4
