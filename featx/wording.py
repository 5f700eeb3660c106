"""Text for people: printable names, short amounts, and tables in LaTeX, Markdown and HTML."""

import html
import re
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

#: An undefined value in a table.
UNDEFINED = "-"

#: Smaller p-values are shown as below it.
LEAST_P_VALUE = 0.001

_STEP = 1000
_MINUTE, _HOUR = 60, 3600


def to_printable(text: str) -> str:
    """Escape control characters and bytes that are not UTF-8, so that a name cannot break a table."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def wrap_words(text: str, cells: int) -> str:
    """Break a line between words to fit a width; a longer word, such as a path, stays whole on a line of its own.

    Args:
        text: One line; its indentation is repeated.
        cells: The width in columns of a terminal; a Chinese character takes two.
    """
    words = text.split()
    indent = text[: len(text) - len(text.lstrip())]
    lines = [indent + "".join(words[:1])]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        if cell_len(longer) <= cells:
            lines[-1] = longer
        else:
            lines.append(indent + word)
    return "\n".join(lines)


def to_text(name: str) -> str:
    r"""Make a file's name printable; a byte NN that is not UTF-8 becomes `\udcNN`, so that names stay different."""
    return name.encode("utf-8", "backslashreplace").decode()


def join_first(names: Sequence[str], most: int, mark: str = ", ", *, what: str = "more") -> str:
    """Join the first names, and count the others: `a, b and 3 more`."""
    rest = len(names) - most
    return mark.join(names[:most]) + (f" and {rest:,} {what}" if rest > 0 else "")


def agree(count: int, one: str, many: str) -> str:
    """Return the form of a word that agrees with a count: `image` or `images`, `is` or `are`."""
    return one if count == 1 else many


def format_plural(count: int, what: str) -> str:
    """Format a number of things, such as `1 image` or `1,200 images`.

    Args:
        count: The number.
        what: One of the things, whose plural ends in s.
    """
    return f"{count:,} {agree(count, what, f'{what}s')}"


def format_bytes(count: int) -> str:
    """Format a number of bytes in a short unit: `999 B`, `1.5 kB`, `345 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < _STEP:
            return f"{size:.0f} {unit}" if unit == "B" or size >= _STEP / 10 else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} TB"


def format_count(count: int) -> str:
    """Format a large count, such as parameters: `768`, `48.2 k`, `1.2 M`."""
    size = float(count)
    for unit in ("", " k", " M"):
        if size < _STEP:
            return f"{size:.0f}{unit}" if not unit or size >= _STEP / 10 else f"{size:.1f}{unit}"
        size /= _STEP
    return f"{size:.1f} G"


def format_seconds(seconds: float) -> str:
    """Format a time in a short unit: `0.05 s`, `1.2 s`, `3.4 min`, `2.5 h`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / _MINUTE:.1f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"


# They join letters (Persian, Hindi) and emoji; str.isprintable does not count them as printable.
_JOINERS = "\u200c\u200d"


#: A name of fewer columns is cut at its end.
_DIVIDED = 12


def shorten_name(name: str, cells: int) -> str:
    """Shorten a name to a width, with an ellipsis in its middle: long names often differ at their ends.

    Unprintable characters (line breaks, terminal escapes, the surrogates of file
    names that are not UTF-8) become the replacement character.

    Args:
        name: Any text, such as the name of a class.
        cells: The width in columns of a terminal; a Chinese character takes two.

    Returns:
        The name, or its beginning, `…` and its end; only the beginning in fewer than 12 columns.
    """
    shown = "".join(char if char.isprintable() or char in _JOINERS else "\ufffd" for char in name)
    if cell_len(shown) <= cells:
        return shown
    end, room = "", (cells - 1) // 2 if cells >= _DIVIDED else 0
    for char in reversed(shown):
        if cell_len(char + end) > room:
            break
        end = char + end
    while end and (end[0].isspace() or not cell_len(end[0])):  # a mark belongs to the letter before it
        end = end[1:]
    return set_cell_size(shown, cells - 1 - cell_len(end)).rstrip() + "…" + end


def pad_name(name: str, cells: int, *, right: bool = False) -> str:
    """Shorten a name as `shorten_name` does, and pad it with spaces to exactly that width.

    Args:
        name: Any text, such as the name of a class.
        cells: The width in columns of a terminal.
        right: Whether to align the name to the right.
    """
    shown = shorten_name(name, cells)
    spaces = " " * (cells - cell_len(shown))
    return spaces + shown if right else shown + spaces


def measure_names(names: list[str], cells: int) -> int:
    """Return the width of the widest name, each shortened to at most `cells` columns of a terminal."""
    return max(cell_len(shorten_name(name, cells)) for name in names)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{''}",
    # At the start of a row, LaTeX would take these for an option of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(_LATEX.get(char, char) for char in to_printable(text))


def escape_markdown(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", to_printable(text))


def escape_html(text: str) -> str:
    """Escape a text for HTML."""
    return html.escape(to_printable(text))


def format_latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> str:
    """Format a booktabs table.

    Args:
        header: The names of the columns, as LaTeX.
        rows: The cells, as LaTeX.
        n_text: Number of first columns that are aligned to the left; so is the last one, the verdict.
    """
    lines = [" & ".join(cells) + r" \\" for cells in (header, *rows)]
    columns = "l" * n_text + "r" * (len(header) - n_text - 1) + "l"
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}", ""])


def format_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> str:
    """Format a Markdown table; the cells are escaped.

    Args:
        header: The names of the columns.
        rows: The cells.
        n_text: Number of first columns that are aligned to the left.
    """
    marks = [":---" if at < n_text else "---:" for at in range(len(header))]
    first, *others = ([escape_markdown(cell) for cell in cells] for cells in (header, *rows))
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (first, marks, *others))


def format_value(value: float | None, digits: int = 3) -> str:
    """Format a number with so many decimals; `-` if it is undefined."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def format_p_value(value: float | None) -> str:
    """Format a p-value, such as `0.032` or `<0.001`; `-` if it is undefined."""
    return f"<{LEAST_P_VALUE}" if value is not None and value < LEAST_P_VALUE else format_value(value)


def format_interval(interval: tuple[float | None, float | None, float | None] | None, digits: str = ".3f") -> str:
    """Format a value and its interval, such as `0.952 [0.927, 0.969]`; an undefined end is left out."""
    value, low, high = interval or (None, None, None)
    if value is None:
        return UNDEFINED
    return f"{value:{digits}}" if low is None or high is None else f"{value:{digits}} [{low:{digits}}, {high:{digits}}]"


def format_html_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> str:
    """Format an HTML table; the cells are escaped.

    Args:
        header: The names of the columns.
        rows: The cells.
        n_text: Number of first columns that are aligned to the left.
    """

    def join(cells: Sequence[str], tag: str) -> str:
        sides = ("left" if at < n_text else "right" for at in range(len(cells)))
        return "".join(
            f'<{tag} style="text-align: {side}">{escape_html(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )

    body = "".join(f"<tr>{join(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{join(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"
