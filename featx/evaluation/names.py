"""Class names as they can be shown: one line, no control characters, a known width."""

from rich.cells import cell_len, set_cell_size

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
