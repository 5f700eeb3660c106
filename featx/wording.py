"""Words for people: names that cannot break a table, and amounts in the unit that keeps them short."""

import html
import re
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

_STEP = 1000
_MINUTE, _HOUR = 60, 3600


def to_printable(text: str) -> str:
    """Spell control characters and bytes that are no UTF-8, so that a name cannot break a table."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def to_text(name: str) -> str:
    r"""Make a file's name printable: a byte NN that is no UTF-8 becomes `\udcNN`, so different names stay different."""
    return name.encode("utf-8", "backslashreplace").decode()


def format_bytes(count: int) -> str:
    """Format a number of bytes in the unit that keeps it short."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < _STEP:
            return f"{size:.0f} {unit}" if unit == "B" or size >= _STEP / 10 else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} TB"


def format_count(count: int) -> str:
    """Format a number of things that nobody counts one by one, such as parameters: `768`, `48.2 k`, `1.2 M`."""
    size = float(count)
    for unit in ("", " k", " M"):
        if size < _STEP:
            return f"{size:.0f}{unit}" if not unit or size >= _STEP / 10 else f"{size:.1f}{unit}"
        size /= _STEP
    return f"{size:.1f} G"


def format_seconds(seconds: float) -> str:
    """Format a time in the unit that keeps it short: `0.05 s`, `1.2 s`, `3.4 min`, `2.5 h`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / _MINUTE:.1f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"


# They join letters (Persian, Hindi) and emoji, and str.isprintable does not count them as printable.
_JOINERS = "\u200c\u200d"


def shorten_name(name: str, cells: int) -> str:
    """Shorten a name to a width, with an ellipsis where it was cut.

    What cannot be printed (line breaks, terminal escapes, the surrogates of file
    names that are not UTF-8) becomes the replacement character.

    Args:
        name: The name of a class, any text.
        cells: The most columns of a terminal it may take; a Chinese character takes two.

    Returns:
        The name, or its beginning and `…`.
    """
    shown = "".join(char if char.isprintable() or char in _JOINERS else "\ufffd" for char in name)
    if cell_len(shown) <= cells:
        return shown
    return set_cell_size(shown, cells - 1).rstrip() + "…"


def pad_name(name: str, cells: int, *, right: bool = False) -> str:
    """Shorten a name as `shorten_name` does, and fill it with spaces to exactly that width.

    Args:
        name: The name of a class, any text.
        cells: Columns of a terminal that it shall take.
        right: Whether the spaces come first.
    """
    shown = shorten_name(name, cells)
    spaces = " " * (cells - cell_len(shown))
    return spaces + shown if right else shown + spaces


def measure_names(names: list[str], cells: int) -> int:
    """Measure the widest of the names, each shortened to at most `cells` columns of a terminal."""
    return max(cell_len(shorten_name(name, cells)) for name in names)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{''}",
    # After the end of a row, LaTeX takes these for an option of the line break.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def to_latex(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(_LATEX.get(char, char) for char in to_printable(text))


def to_markdown(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", to_printable(text))


def to_html(text: str) -> str:
    """Escape a text for HTML."""
    return html.escape(to_printable(text))


def format_latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> str:
    """Format a booktabs table.

    Args:
        header: The names of the columns, as LaTeX.
        rows: The cells, as LaTeX.
        n_text: How many of the first columns are text, and so aligned to the left.
    """
    lines = [" & ".join(cells) + r" \\" for cells in (header, *rows)]
    columns = "l" * n_text + "r" * (len(header) - n_text)
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}", ""])


def format_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> str:
    """Format a Markdown table of plain texts, which are escaped.

    Args:
        header: The names of the columns.
        rows: The cells.
        n_text: How many of the first columns are aligned to the left.
    """
    marks = [":---" if at < n_text else "---:" for at in range(len(header))]
    first, *others = ([to_markdown(cell) for cell in cells] for cells in (header, *rows))
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (first, marks, *others))


def format_html_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> str:
    """Format an HTML table of plain texts, which are escaped.

    Args:
        header: The names of the columns.
        rows: The cells.
        n_text: How many of the first columns are aligned to the left.
    """

    def join(cells: Sequence[str], tag: str) -> str:
        sides = ("left" if at < n_text else "right" for at in range(len(cells)))
        return "".join(
            f'<{tag} style="text-align: {side}">{to_html(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )

    body = "".join(f"<tr>{join(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{join(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"
