"""A file of predictions, CSV or JSON lines: its rows, and how a run continues where an earlier one stopped."""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from featx.cli.explanations import CSV_COLUMNS, list_csv_cells
from featx.cli.output import to_json
from featx.errors import SourceError, UsageError
from featx.wording import to_text

#: With more classes, a CSV without --top has the best classes instead of a column for each.
MOST_COLUMNS = 100

#: How many these are.
USUAL_TOP = 5

_CSV, _JSON = (".csv",), (".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a prediction becomes a line.

    Attributes:
        classes: The classes of the bundle.
        top: Number of best classes; 0 for all classes, in the order of the bundle.
        is_json: Whether lines are JSON; CSV if not.
        explained: Text of what explanations were asked for; empty for none.
    """

    classes: tuple[str, ...]
    top: int
    is_json: bool
    explained: str = ""

    @property
    def header(self) -> str:
        """The first line of a CSV; empty for JSON."""
        if self.is_json:
            return ""
        best = [f"{kind}_{rank}" for rank in range(1, self.top + 1) for kind in ("label", "probability")]
        shares = best or [f"probability_{name}" for name in self.classes]
        explained = CSV_COLUMNS if self.explained else ()
        return _format_csv(["path", "label", "probability", *shares, *explained, "error"])

    def format(self, row: Any) -> str:  # noqa: ANN401 - a Prediction, whose module loads numpy
        """Return the line of a prediction, with its line break."""
        if not self.is_json:
            best = row.rank(self.classes, self.top)
            cells = [cell for label, share in best for cell in (label, f"{share:.6g}")]
            if not self.top and not row.error:
                cells = [f"{share:.6g}" for share in row.probabilities]
            n_cells = 2 * self.top or len(self.classes)
            probability = "" if row.error else f"{row.probability:.6g}"
            cells = cells or [""] * n_cells
            cells += list_csv_cells(row) if self.explained else []
            return _format_csv([to_text(row.path), row.label, probability, *cells, row.error])
        return f"{to_json(row.to_row(self.classes, self.top))}\n"


def _format_csv(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)  # which quotes a carriage return in a name only if it ends lines with one
    return line.getvalue().removesuffix("\r\n") + "\n"


def is_json_file(path: Path) -> bool:
    """Return whether a file of predictions has JSON lines by its suffix.

    Raises:
        UsageError: If it has neither the suffix of CSV nor one of JSON.
    """
    suffix = path.suffix.lower()
    if suffix not in _CSV + _JSON:
        msg = f"--out is {str(path)!r}; its name must end in {', '.join(_CSV + _JSON)}"
        raise UsageError(msg)
    return suffix in _JSON


class PredictionFile:
    """A file that predictions are appended to, inside a `with` block; rows that it already has are kept.

    A file next to it records the bundle, the settings and what the paths are relative to, so that predictions of two
    bundles, or of two folders with the same names, are not mixed.

    Args:
        path: The file.
        layout: Its lines.
        bundle: Folder of the bundle.
        views: The text of the predicted views; empty for none.
        base: The folder or archive that the paths are relative to; empty if all are absolute.

    Attributes:
        done: How often each path has a row.
        n_rows: Number of rows.
        n_failed: Number of rows with an error.

    Raises:
        UsageError: If the file has rows of another bundle, other settings or paths that are relative to something
            else, or is not one of `featx predict`.
        SourceError: If it is damaged before its last line.
    """

    def __init__(self, path: Path, layout: Layout, bundle: Path, views: str, base: str) -> None:
        self.path = path
        self.done: Counter[str] = Counter()
        self.n_rows = self.n_failed = 0
        self._layout = layout
        self._record_path = path.with_name(f"{path.name}.run.json")
        self._record: dict[str, Any] = {
            "bundle": hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest(),
            "top": layout.top,
            "views": views,
            # From the file, so that both may be moved together.
            "base": os.path.relpath(Path(base).resolve(), path.parent.resolve()) if base else "",
            **({"explained": layout.explained} if layout.explained else {}),
        }
        if path.is_dir():
            msg = f"--out is {str(path)!r}, which is a folder; name a file in it"
            raise UsageError(msg)
        self._end = self._read() if path.exists() and path.stat().st_size else 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        from featx.files import write_json

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._record, self._record_path)
        self._file = self.path.open("r+b" if self.path.exists() else "wb")
        self._file.truncate(self._end)
        self._file.seek(self._end)
        if not self._end:
            self._file.write(self._layout.header.encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, row: Any) -> None:  # noqa: ANN401 - a Prediction
        """Append a prediction; a process that is killed afterwards does not lose it."""
        if self._file is not None:
            self._file.write(self._layout.format(row).encode("utf-8", "backslashreplace"))
            self._file.flush()

    def take_done(self, path: str) -> bool:
        """Return whether a path has a row that no earlier call has counted."""
        name = path if self._layout.is_json else to_text(path)
        self.done[name] -= 1
        return self.done[name] >= 0

    def _read(self) -> int:
        """Count the rows; return where the last whole one ends."""
        self._check_record()
        end, header = 0, self._layout.header.encode()
        with self.path.open("rb") as file:
            for number, (line, is_last) in enumerate(_split_records(file, is_json=self._layout.is_json), 1):
                is_header = number == 1 and bool(header)
                row = ("", False) if is_header and line == header else self._parse(line)
                if row is None or (is_header and line != header):
                    if is_last:
                        break  # the end of the earlier run has torn it
                    msg = f"row {number} of {self.path} is damaged; remove it, or name another file with --out"
                    raise SourceError(msg)
                end += len(line)
                if not is_header:
                    self.done[row[0]] += 1
                    self.n_rows += 1
                    self.n_failed += row[1]
        return end

    def _check_record(self) -> None:
        other = "name another file with --out"
        if not self._record_path.exists():
            msg = (
                f"{self.path} exists, and `featx predict` did not write it, or {self._record_path.name} next to it is "
                f"gone; {other}"
            )
            raise UsageError(msg)
        advice = f"{other}, or delete {self.path} and {self._record_path.name}"
        try:
            found = dict(json.loads(self._record_path.read_bytes()))
            base = str(found.pop("base", ""))
        except (OSError, ValueError, TypeError) as error:
            msg = f"{self._record_path}, which names the bundle of {self.path}, is damaged; {advice}"
            raise UsageError(msg) from error
        if found.get("bundle") != self._record["bundle"]:
            msg = f"{self.path} has predictions of another bundle; {advice}"
            raise UsageError(msg)
        if base and self._record["base"] not in {base, ""}:
            old, new = (os.path.normpath(self.path.parent.resolve() / each) for each in (base, self._record["base"]))
            msg = f"the paths in {self.path} are relative to {old}, and those of this run to {new}; {other}"
            raise UsageError(msg)
        self._record["base"] = self._record["base"] or base
        if found | {"base": self._record["base"]} != self._record:
            options = "--top, --views, --augment, --view-seed or --explain"
            msg = f"{self.path} was written with other values of {options}; {advice}"
            raise UsageError(msg)

    def _parse(self, line: bytes) -> tuple[str, bool] | None:
        """Return the path of a row, and whether it has an error; None if it is not a whole row."""
        if not line.endswith(b"\n"):
            return None
        n_cells = 4 + (2 * self._layout.top or len(self._layout.classes))
        n_cells += len(CSV_COLUMNS) if self._layout.explained else 0
        try:
            if self._layout.is_json:
                values = json.loads(line)
                return str(values["path"]), "error" in values
            (cells,) = csv.reader(io.StringIO(line.decode(), newline=""), strict=True)
        except (ValueError, KeyError, TypeError, csv.Error):
            return None
        return (cells[0], bool(cells[-1])) if len(cells) == n_cells else None


def _split_records(file: IO[bytes], *, is_json: bool) -> Iterator[tuple[bytes, bool]]:
    """Split a file into rows, and yield whether each is the last; those of a CSV may have line breaks in quotes."""
    lines: list[bytes] = []
    waiting, is_open = b"", False
    for line in file:
        lines.append(line)
        is_open ^= not is_json and line.count(b'"') % 2 == 1
        if not is_open:
            if waiting:
                yield waiting, False
            waiting, lines = b"".join(lines), []
    if waiting:
        yield waiting, not lines
    if lines:
        yield b"".join(lines), True
