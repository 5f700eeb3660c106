"""The parameters of a head: their names, and what text or value each one takes.

A reader turns what a user wrote (`--param C=1` gives the text `1`, Python gives
the number) into the value that scikit-learn takes, or raises ValueError with the
words that finish the sentence "C='x' is not ...".
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from featx.errors import UsageError
from featx.registry import make_unknown_name_error

Reader = Callable[[Any], Any]


def read_positive(value: Any) -> float:  # noqa: ANN401 - text or number, which is what a reader is for
    """Read a number above 0. Raises ValueError."""
    return _read_number(value, "a number above 0", lambda number: 0 < number < float("inf"))


def read_share(value: Any) -> float:  # noqa: ANN401 - as above
    """Read a number above 0, up to 1. Raises ValueError."""
    return _read_number(value, "a number above 0, up to 1", lambda number: 0 < number <= 1)


def read_fraction(value: Any) -> float:  # noqa: ANN401 - as above
    """Read a number from 0 to below 1. Raises ValueError."""
    return _read_number(value, "a number from 0 to below 1", lambda number: 0 <= number < 1)


def read_count(value: Any) -> int:  # noqa: ANN401 - as above
    """Read a whole number of at least 1. Raises ValueError."""
    words = "a whole number of at least 1"
    return int(_read_number(value, words, lambda number: number >= 1 and number.is_integer()))


def read_sizes(value: Any) -> tuple[int, ...]:  # noqa: ANN401 - as above
    """Read layer sizes such as `256` or `256,64`. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(read_count(part) for part in (parts if isinstance(parts, Iterable) else [parts]))
    except ValueError:
        msg = "whole numbers of at least 1, separated by commas"
        raise ValueError(msg) from None


def read_choice(*choices: str | None) -> Reader:
    """Make a reader of one of a few words; None is written `none`."""

    def read(value: object) -> str | None:
        for choice in choices:
            if str(value).lower() == str(choice).lower():
                return choice
        msg = f"one of {', '.join(str(choice).lower() for choice in choices)}"
        raise ValueError(msg)

    return read


def read_gamma(value: Any) -> float | str:  # noqa: ANN401 - as above
    """Read the width of the RBF kernel: `scale` or a number above 0. Raises ValueError."""
    return "scale" if value == "scale" else _read_number(value, "scale or a number above 0", lambda number: number > 0)


def check_params(head: str, readers: Mapping[str, Reader], params: Mapping[str, Any]) -> dict[str, Any]:
    """Read every parameter with its reader.

    Args:
        head: Name of the head, for the message.
        readers: The parameters that the head has, and their readers.
        params: Names and values, or texts, to be read.

    Returns:
        The values that scikit-learn takes, in the same order.

    Raises:
        UnknownNameError: If the head has no such parameter; the known ones are listed.
        UsageError: If the head has no parameters, or a value does not fit.
    """
    read: dict[str, Any] = {}
    for name, value in params.items():
        if not readers:
            msg = f"{head} has no parameters; leave out {name}={value}"
            raise UsageError(msg)
        if name not in readers:
            kind = f"parameter of {head}"
            raise make_unknown_name_error(kind, name, readers)
        try:
            read[name] = readers[name](value)
        except ValueError as error:
            msg = f"{head}: {name}={value!r} is not {error}"
            raise UsageError(msg) from None
    return read


def split_params(texts: Iterable[str]) -> dict[str, str]:
    """Split texts such as `C=1` into names and values, not yet read.

    Raises:
        UsageError: If a text has no `=`, or a name comes twice.
    """
    params: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            msg = f"{text!r} is no parameter; write name=value, such as C=1"
            raise UsageError(msg)
        if name in params:
            msg = f"parameter {name} is given twice; give it once"
            raise UsageError(msg)
        params[name] = value
    return params


def _read_number(value: Any, words: str, fits: Callable[[float], bool]) -> float:  # noqa: ANN401 - as above
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(words) from None
    if isinstance(value, bool) or not fits(number):
        raise ValueError(words)
    return number
