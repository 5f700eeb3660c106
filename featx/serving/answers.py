"""Answers as JSON."""

import math
from collections.abc import Sequence
from typing import Any

from featx.results import Explanation
from featx.serving.models import Answer, Model

_DIGITS = 6


def format_answers(model: Model, names: Sequence[str], answers: Sequence[Answer], top: int) -> dict[str, Any]:
    """Return the answer to a request: an object for each picture, as `featx predict --json` prints it.

    Args:
        model: What answered.
        names: The names of the pictures.
        answers: What became of them.
        top: Number of best classes; 0 for all of them, in the order of the bundle.
    """
    rows = [format_answer(name, one, model.classes, top) for name, one in zip(names, answers, strict=True)]
    return {"model": model.name, "version": model.version, "predictions": rows}


def format_answer(name: str, answer: Answer, classes: Sequence[str], top: int) -> dict[str, Any]:
    """Return the object of one picture."""
    if answer.probabilities is None:
        return {"path": name, "error": answer.error}
    probabilities = answer.probabilities
    best = (-probabilities).argsort(kind="stable")
    row = {"path": name, "label": classes[best[0]], "probability": float(probabilities[best[0]])}
    if top:
        row["top"] = [{"label": classes[at], "probability": float(probabilities[at])} for at in best[:top]]
    else:
        row["probabilities"] = dict(zip(classes, probabilities.tolist(), strict=True))
    if answer.explanation is not None:
        row["explanation"] = format_explanation(answer.explanation, answer.neighbours)
    return row


def format_explanation(found: Explanation, pictures: Sequence[str]) -> dict[str, Any]:
    """Return the object of an explanation; paths on the machine of the server are left out."""
    neighbours: list[dict[str, Any]] = [
        {"item": one.item, "label": one.label, "similarity": round(one.similarity, _DIGITS)} for one in found.neighbours
    ]
    for row, picture in zip(neighbours, pictures, strict=False):
        if picture:
            row["jpeg"] = picture
    return {
        "labels": list(found.labels),
        "unfamiliar": found.unfamiliar,
        "unfamiliarity": found.unfamiliarity if math.isfinite(found.unfamiliarity) else None,
        "neighbours": neighbours,
        "heat": None if found.heat is None else [[round(cell, 3) for cell in row] for row in found.heat.tolist()],
        "heat_method": found.heat_method,
    }
