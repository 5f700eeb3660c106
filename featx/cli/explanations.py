"""What `featx predict --explain` adds: what is asked for, the cells of tables, and the contact sheet."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from featx.cli.output import print_notes
from featx.errors import UsageError
from featx.wording import to_text

# Explanations are of a module that loads numpy, so that they are `Any` here.
# ruff: noqa: ANN401

#: The columns of an explanation in a CSV, and in a table.
CSV_COLUMNS = ("set", "unfamiliarity", "unfamiliar", "nearest", "nearest_label", "nearest_similarity")
TABLE_COLUMNS = ("set", "unfamiliarity", "nearest")

#: What explanations have, if nothing else is asked for; `Predictor.explain` has the same.
_DEFAULTS = {"coverage": 0.9, "neighbours": 5, "threshold": 0.95}

#: Images on the contact sheet.
_MOST_SHOWN = 40


class Explanations:
    """The explanations that a command asks for, and those on its contact sheet.

    Args:
        asked: The values of the options for explanations by name; None for one that is not given.
        views: Number of views that are predicted of each image.
        explain: Whether there are any explanations.

    Attributes:
        text: What is asked for; empty if nothing is.

    Raises:
        UsageError: If the options do not go together.
    """

    def __init__(self, asked: dict[str, Any], views: int, *, explain: bool) -> None:
        given = {name: value for name, value in asked.items() if value is not None}
        if given and not explain:
            msg = f"--{next(iter(given))} is for explanations; add --explain"
            raise UsageError(msg)
        if explain and views:
            msg = "--explain takes each image as it is; leave out --views"
            raise UsageError(msg)
        self._sheet: Path | None = given.pop("sheet", None)
        if self._sheet and self._sheet.suffix.lower() != ".png":
            msg = f"--sheet is {str(self._sheet)!r}; name a file that ends in .png"
            raise UsageError(msg)
        self._wanted = given
        self.text = json.dumps({**_DEFAULTS, **given}, sort_keys=True) if explain else ""
        self._kept, self._n_read = list[tuple[Any, Any]](), 0

    def explain(self, predictor: Any, listed: Any, options: Any, *, heat: bool) -> Iterator[Any]:
        """Explain the images of a manifest; keep the first of them for the sheet."""
        found = predictor.explain(listed, options, heat=heat or self._sheet is not None, **self._wanted)
        return self._keep(found, listed.reader)

    def _keep(self, explanations: Iterable[Any], reader: Any) -> Iterator[Any]:
        for one in explanations:
            if self._sheet and not one.error:
                self._n_read += 1
                if self._n_read <= _MOST_SHOWN:
                    self._kept.append((one, reader))
            yield one

    def draw(self, bundle: Any) -> None:
        """Draw the sheet, if there is one."""
        if self._sheet is None:
            return
        if not self._kept:
            print_notes(["no contact sheet is written, since no image was predicted"])
            return
        from featx.report.explanations import draw_explanations

        draw_explanations(self._kept, bundle, self._sheet)
        more = f", which shows the first {_MOST_SHOWN} of {self._n_read:,} images" if self._n_read > _MOST_SHOWN else ""
        print_notes([f"the contact sheet is {self._sheet}{more}"])


def list_csv_cells(row: Any) -> list[str]:
    """Return the cells of an explanation below `CSV_COLUMNS`; empty ones if the image cannot be read."""
    nearest = row.neighbours[0] if row.neighbours else None
    unknown = math.isnan(row.unfamiliarity)
    return [
        "|".join(row.labels),
        *(["", ""] if unknown else [f"{row.unfamiliarity:.6g}", str(row.unfamiliar).lower()]),
        *([to_text(nearest.item), nearest.label, f"{nearest.similarity:.6g}"] if nearest else [""] * 3),
    ]


def list_table_cells(row: Any) -> list[str]:
    """Return the cells of an explanation below `TABLE_COLUMNS`."""
    if row.error:
        return ["-"] * len(TABLE_COLUMNS)
    nearest = row.neighbours[0] if row.neighbours else None
    share = "-" if math.isnan(row.unfamiliarity) else f"{row.unfamiliarity:.1f} %"
    return [
        ", ".join(row.labels) or "none of these",
        f"{share} unfamiliar" if row.unfamiliar else share,
        f"{nearest.label} {nearest.similarity:.2f}" if nearest else "-",
    ]
