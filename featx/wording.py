"""Words for people: names that cannot break a table, and amounts in the unit that keeps them short."""

_STEP = 1000
_MINUTE, _HOUR = 60, 3600


def to_printable(text: str) -> str:
    """Spell control characters and bytes that are no UTF-8, so that a name cannot break a table."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


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
