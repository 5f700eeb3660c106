"""Answers as JSON."""

from collections.abc import Sequence
from typing import Any

from featx.results import Explanation
from featx.serving.models import Answer, Model


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
        row |= _format_explanation(answer.explanation, answer)
    return row


def _format_explanation(found: Explanation, answer: Answer) -> dict[str, Any]:
    """Return what explains a prediction; the files of training images on the machine of the server are left out."""
    values = found.to_dict()
    for at, neighbour in enumerate(values["neighbours"]):
        del neighbour["path"], neighbour["sha256"]
        if at < len(answer.neighbours) and answer.neighbours[at]:
            neighbour["jpeg"] = answer.neighbours[at]
    return values if found.heat is None else values | {"heat_box": list(answer.heat_box)}
