"""The numbers and files of whole runs, as they were before the code was rearranged.

`python tests/test_snapshots.py` writes the snapshots again, for a change that is meant to move them.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pictures import write_digits
from tiny import save_network

SNAPSHOTS = Path(__file__).parent / "data" / "snapshots"

#: What may differ between processors: the last digits of a sum in float32 decide between settings that are nearly
#: equally good, and their log-losses were seen to differ by 0.013.
TOLERANCE = 0.02

#: Products and functions without AVX-512, as processors that lack it compute them: where settings are nearly equally
#: good, the choice of one moves labels and methods too, which no tolerance covers.
PROCESSOR = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}

#: What differs between two equal runs (a saved network has the time in its bytes), and wording.
VOLATILE = {"peak_memory_bytes", "threads", "bundle", "folder", "versions", "notes", "chosen", "error", "backbone"}

ENVIRONMENT = {**os.environ, **PROCESSOR}

RUNS = {
    "fit-logreg": ["fit", "--clf", "logreg"],
    "fit-ridge-cv": ["fit", "--clf", "ridge", "--cv", "3"],
    "fit-knn": ["fit", "--clf", "knn", "--calibration", "none", "--seed", "3"],
    "fit-lda-temperature": ["fit", "--clf", "lda", "--calibration", "temperature"],
    "compare": ["compare", "--clf", "logreg,ridge,lda,knn,centroid", "--jobs", "1"],
}
FINETUNE = ["--unfreeze", "last:3", "--epochs", "2", "--learning-rate", "0.001"]


def strip(value):
    """Leave out what is volatile, and put what is infinite into words."""
    if isinstance(value, dict):
        return {key: strip(part) for key, part in value.items() if key not in VOLATILE and "seconds" not in key}
    if isinstance(value, list):
        return [strip(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def run(arguments, folder):
    command = [sys.executable, "-m", "featx", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    outputs = sorted(
        path.relative_to(folder).as_posix().split("/", 2)[2]
        for path in (folder / "runs").glob("[!.]*/**/*")
        if path.is_file()
    )
    return {"printed": strip(printed), "files": outputs}


def embed_digits(folder):
    write_digits(folder / "digits", per_class=40)
    subprocess.run(
        [sys.executable, "-m", "featx", "embed", "digits", "--backbone", "colour"],
        cwd=folder,
        check=True,
        capture_output=True,
        env=ENVIRONMENT,
    )


def finetune_digits(folder):
    write_digits(folder / "digits", per_class=30, classes=3)
    save_network(folder / "tiny.keras")
    return run(["finetune", "digits", "--backbone", "file:tiny.keras", *FINETUNE], folder)


def check(found, name):
    wanted = json.loads((SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8"))
    differing = list(compare(wanted, found))
    assert not differing, differing


def compare(wanted, found, at=""):
    """List where two results differ by more than the tolerance."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in wanted:  # more keys may be added, none may go
            yield from compare(wanted[key], found.get(key, "missing"), f"{at}/{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from compare(one, other, f"{at}/{number}")
    elif isinstance(wanted, float) and isinstance(found, float):
        if not math.isclose(wanted, found, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{at}: {wanted} became {found}"
    elif wanted != found:
        yield f"{at}: {wanted!r} became {found!r}"


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_and_files_are_those_of_before(name, tmp_path, store):
    verb, *flags = RUNS[name]
    check(run([verb, str(store.path), *flags], tmp_path), name)


@pytest.mark.keras
def test_the_numbers_and_files_of_finetune_are_those_of_before(tmp_path):
    check(finetune_digits(tmp_path), "finetune")


def test_a_difference_is_found():
    assert list(compare({"a": [1.0, "x"]}, {"a": [1.1, "y"]})) == ["/a/0: 1.0 became 1.1", "/a/1: 'x' became 'y'"]
    assert list(compare({"a": 1}, {})) == ["/a: 1 became 'missing'"]


if __name__ == "__main__":
    SNAPSHOTS.mkdir(parents=True, exist_ok=True)
    for name, (verb, *flags) in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            embed_digits(Path(folder))
            found = run([verb, *flags], Path(folder))
            (SNAPSHOTS / f"{name}.json").write_text(
                json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )
    with tempfile.TemporaryDirectory() as folder:
        found = finetune_digits(Path(folder))
        (SNAPSHOTS / "finetune.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
