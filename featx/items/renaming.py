"""Classes under other names: rules that map them, and suggestions where two splits name them differently."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from featx.errors import SourceError, UsageError
from featx.items.names import normalise_label
from featx.registry import suggest
from featx.wording import join_first, to_printable

_TABLE_SUFFIXES = {".csv", ".tsv", ".txt"}

#: A row of a table of names: the old one and the new one.
_N_FIELDS = 2

_SHOWN_NAMES = 12


def rename_labels(
    labels: Collection[str], rules: Sequence[str] | Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    r"""Apply rules to the names of classes; the first rule that fits a name counts.

    Args:
        labels: The classes of a source.
        rules: `REGEX=NAME`, where the expression must match the whole name of a class, and `\1` in the new name
            stands for its first group; or the path of a CSV file with the old and the new name in each row. Or the
            new names by the old ones, which need not occur.

    Returns:
        The new name of each class that a rule fits; and how files were read and which of their rows fit no class, for
        the user.

    Raises:
        UsageError: If a rule is not valid, or fits no class.
        SourceError: If a file cannot be read, or names a class twice.
    """
    if isinstance(rules, Mapping):
        return {label: normalise_label(rules[label].strip()) for label in labels if label in rules}, []
    renamed: dict[str, str] = {}
    notes: list[str] = []
    for rule in rules:
        found, new = _apply_file(rule, labels) if _names_file(rule) else (_apply_pattern(rule, labels), [])
        if not found:
            hint = suggest(rule.rpartition("=")[0], labels)
            msg = f"--map-labels {rule!r} fits none of the classes {list_names(labels)}{f'; {hint}' if hint else ''}"
            raise UsageError(msg)
        renamed = {**found, **renamed}
        notes += new
    return renamed, notes


def suggest_rules(labels: Collection[str], trained: Collection[str]) -> list[str]:
    """Suggest rules where the classes of a split look like those of training under other names.

    Two names are alike if they are equal except for case and punctuation, or if one begins or ends with the other.

    Args:
        labels: The classes of the split.
        trained: The classes of the training split.

    Returns:
        One rule for each pair of names that are like each other and like no other name.
    """
    unknown, unused = sorted(set(labels) - set(trained)), sorted(set(trained) - set(labels))
    rules = []
    for label in unknown:
        alike = [name for name in unused if _are_alike(label, name)]
        if len(alike) == 1 and [name for name in unknown if _are_alike(name, alike[0])] == [label]:
            rules.append(_make_rule(label, alike[0], {*labels, *trained}))
    return rules


def list_names(names: Iterable[str]) -> str:
    """List names for a message, sorted; at most twelve."""
    return join_first(sorted(map(to_printable, names)), _SHOWN_NAMES)


def _names_file(rule: str) -> bool:
    return "=" not in rule or (Path(rule).suffix.lower() in _TABLE_SUFFIXES and Path(rule).is_file())


def _apply_pattern(rule: str, labels: Iterable[str]) -> dict[str, str]:
    regex, _, name = rule.rpartition("=")
    try:
        pattern = re.compile(regex)
        found = {label: match.expand(name) for label in labels if (match := pattern.fullmatch(label))}
    except (re.error, IndexError) as error:
        msg = f"--map-labels {rule!r} is not a valid expression: {error}; write REGEX=NAME"
        raise UsageError(msg) from error
    if not all(map(str.strip, found.values())) or not name:
        msg = f"--map-labels {rule!r} has no new name; write REGEX=NAME, or leave a class out with --except class=NAME"
        raise UsageError(msg)
    return {label: normalise_label(new.strip()) for label, new in found.items()}


def _apply_file(name: str, labels: Collection[str]) -> tuple[dict[str, str], list[str]]:
    from featx.items.delimited import read_rows  # which needs the manifest, and that this module

    title = f"the table of names {name!r}"
    if not Path(name).is_file():
        msg = f"--map-labels {name!r} is neither REGEX=NAME nor a CSV file with the old and the new name in each row"
        raise UsageError(msg)
    read = read_rows(name, title)
    found: dict[str, str] = {}
    for row, line in zip([read.header, *read.rows], [read.header_line, *read.lines], strict=True):
        fields = [normalise_label(field.strip()) for field in row]
        if len(fields) != _N_FIELDS or not all(fields) or found.setdefault(*fields) != fields[1]:
            msg = (
                f"line {line} of {title} is {','.join(row)!r}; write one old and one new name in each row, and each "
                "old name once"
            )
            raise SourceError(msg)
    notes = [f"{title}: {note}" for note in read.notes]
    if unused := found.keys() - set(labels):
        notes.append(f"names in {name!r} that no class has: {list_names(unused)}")
    return {label: found[label] for label in labels if label in found}, notes


def _are_alike(one: str, other: str) -> bool:
    short, long = sorted((re.sub(r"[\W_]+", "", name).casefold() for name in (one, other)), key=len)
    return bool(short) and (long.startswith(short) or long.endswith(short))


def _make_rule(one: str, other: str, names: Collection[str]) -> str:
    short, long = sorted((one, other), key=len)
    for regex in (f"{re.escape(short)}.*", f".*{re.escape(short)}"):
        if {name for name in names if re.fullmatch(regex, name)} == {one, other}:
            break
    else:
        regex = re.escape(long)
    # A backslash in the new name would stand for a group.
    short = short.replace("\\", r"\\")
    return f"--map-labels {shlex.quote(f'{regex}={short}')}"
