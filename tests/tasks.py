"""Functions that tests run in other processes, which import them by the name of this module."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from featx.files import Result


def _sign(folder, name):
    """Record that a task has started, and in which process."""
    with (Path(folder) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def add(argument):
    folder, number = argument
    _sign(folder, f"add-{number}")
    return Result({"sum": number + 1}, {"numbers": np.arange(number)})


def rest(argument):
    """Sleep for a second."""
    folder, number = argument
    _sign(folder, f"rest-{number}")
    time.sleep(1)
    return Result({"rested": number})


def hang_once(argument):
    """Hang on the first call, until killed."""
    folder, number = argument
    is_first = not (Path(folder) / f"hang-{number}").exists()
    _sign(folder, f"hang-{number}")
    if is_first:
        time.sleep(600)
    return Result({"waited": number})


def step(argument, progress):
    """Do two of four parts, and rest so long that they are seen."""
    progress(2, 4)
    rest(argument)
    rest(argument)
    progress(4, 4)
    return Result({"stepped": 1})


def fail(argument):
    msg = f"no number\nlike {argument}"
    raise np.linalg.LinAlgError(msg)


def die(argument):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(argument):
    folder, number = argument
    if not (Path(folder) / f"died-{number}").exists():
        _sign(folder, f"died-{number}")
        time.sleep(0.3)  # in the middle of it
        os.kill(os.getpid(), signal.SIGKILL)
    return Result({"survived": number})


def report_threads(argument):
    return Result({name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")})


def fit_or_die(head_task, progress=None):
    """Fit a head, but kill the process that fits FEATX_TEST_VICTIM, up to FEATX_TEST_DEATHS times."""
    from featx.comparing.jobs import fit_and_predict  # the other tasks do not need scikit-learn

    folder = Path(os.environ["FEATX_TEST_FOLDER"])
    _sign(folder, f"{head_task.head.name}-{len(head_task.trained_on)}")
    deaths = folder / "deaths"
    if head_task.head.name == os.environ["FEATX_TEST_VICTIM"]:
        count = len(deaths.read_text().splitlines()) if deaths.exists() else 0
        if count < int(os.environ["FEATX_TEST_DEATHS"]):
            _sign(folder, "deaths")
            os.kill(os.getpid(), signal.SIGKILL)
    return fit_and_predict(head_task)
