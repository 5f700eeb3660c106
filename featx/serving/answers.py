"""Answers as JSON."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from featx.serving.models import Answer, Model


def format_answers(model: Model, names: Sequence[str], answers: Sequence[Answer], top: int) -> dict[str, Any]:
    """Return the answer to a request: an object for each picture, as `featx predict --json` prints it.

    Args:
        model: What answered.
        names: The names of the pictures.
        answers: What became of them.
        top: Number of best classes; 0 for all of them, in the order of the bundle.
    """
    rows = [_format_answer(name, one, model.classes, top) for name, one in zip(names, answers, strict=True)]
    return {"model": model.name, "version": model.version, "predictions": rows}


def _format_answer(name: str, answer: Answer, classes: Sequence[str], top: int) -> dict[str, Any]:
    """Return the object of one picture; the files of training images on the machine of the server are left out."""
    row = replace(answer.prediction, path=name).to_row(classes, top)
    for neighbour, jpeg in zip_longest(row.get("neighbours", ()), answer.neighbours):
        del neighbour["path"], neighbour["sha256"]
        if jpeg:
            neighbour["jpeg"] = jpeg
    return row
