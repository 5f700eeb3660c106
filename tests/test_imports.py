"""What must not be imported, proven by packages that raise when they are."""

import os
import subprocess
import sys

import pytest
from pictures import write_digits

import featx
from featx.options import FitOptions
from featx.registry import HEADS

HEAVY = (
    *("tensorflow", "keras", "sklearn", "scipy", "matplotlib", "pandas", "pyarrow", "skops", "openvino"),
    *("ray", "fsspec"),
)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    digits = write_digits(tmp_path_factory.mktemp("digits"), per_class=15, classes=2)
    return featx.embed(digits, "colour", folder=tmp_path_factory.mktemp("features")).store


def poison(folder, names):
    for name in names:
        (folder / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(arguments, env, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "featx", *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["fit", "--help"], ["embed", "--help"], ["compare", "--help"], ["backbones"]],
)
def test_help_imports_nothing_heavy(arguments, tmp_path):
    result = run(arguments, poison(tmp_path, HEAVY))
    assert result.returncode == 0, result.stderr
    assert not result.stderr


def test_the_poison_works(tmp_path, store):
    result = run(["fit", str(store.path)], poison(tmp_path, ["sklearn"]), cwd=tmp_path)
    assert "sklearn was imported" in result.stderr


def test_importing_featx_imports_nothing_heavy(tmp_path):
    code = "import featx, sys; print([m for m in ('numpy', 'h5py', 'PIL') if m in sys.modules])"
    env = poison(tmp_path, HEAVY)
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_modules_that_run_or_train_networks_import_their_framework_only_when_they_do(tmp_path):
    code = "import featx.backbones.running, featx.finetuning.finetuning, featx.heads.networks"
    env = poison(tmp_path, ["tensorflow", "keras", "openvino"])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_cached_features_are_fitted_and_inspected_without_tensorflow(tmp_path, store):
    env = poison(tmp_path, ["tensorflow", "keras"])
    commands = (["info"], ["fit", "--clf", "logreg"], ["compare", "--clf", "ridge,mlp"])
    for arguments in ([verb, str(store.path), *flags] for verb, *flags in commands):
        result = run(arguments, env, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert list((tmp_path / "runs").glob("*/head.skops"))


#: One process for all: an import that fails is tried again by the next head.
FIT_HEADS = """
import sys
import featx

quick = {"hist-gb": {"max_iter": 3}, "mlp": {"max_iter": 5}, "random-forest": {"n_estimators": 5}}
store, *names = sys.argv[1:]
for name in names:
    print(featx.fit(store, name, params=quick.get(name)).bundle / "head.skops", flush=True)
"""


@pytest.mark.slow
def test_every_head_but_those_of_keras_is_fitted_without_tensorflow(tmp_path, few):
    names = [name for name in HEADS if name != "keras"]
    command = [sys.executable, "-c", FIT_HEADS, str(few.path), *names]
    env = poison(tmp_path, ["tensorflow", "keras"])
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    heads = result.stdout.splitlines()
    assert result.returncode == 0, f"{names[len(heads)]}: {result.stderr}"
    assert len(heads) == len(names)
    assert all((tmp_path / head).exists() for head in heads)


@pytest.mark.keras
def test_a_head_that_keras_trained_predicts_without_tensorflow(tmp_path, store, digits):
    fitted = featx.fit(store, "keras", params={"epochs": 2}, options=FitOptions(folder=tmp_path))
    env = poison(tmp_path, ["tensorflow", "keras"])
    result = run(["predict", str(fitted.bundle), str(next(digits.rglob("*.png"))), "--json"], env)
    assert result.returncode == 0, result.stderr
    assert '"probability"' in result.stdout


def test_help_is_quick():
    resource = pytest.importorskip("resource", reason="only POSIX says how long a child computed")
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "featx", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5  # the best of five, in time of the processor: the machine may be busy


def test_every_public_name_exists():
    for name in featx.__all__:
        assert getattr(featx, name) is not None
    assert set(featx.__all__) <= set(dir(featx))
    assert sorted(featx.__all__) == featx.__all__
    assert featx.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = featx.nonsense
