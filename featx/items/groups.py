"""Groups: what a user names to keep items together, such as all pictures of a patient."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featx.errors import FeatxError, UsageError
from featx.items.sources import read_source_again


def find_groups(ids: Sequence[str], group: str, source: str, reading: Mapping[str, Any]) -> list[str]:
    """Find the group of each item.

    Args:
        ids: The items.
        group: `folder` for the folder of each item, a column of the table that was read,
            or a regular expression with one group, searched in each id.
        source: What was read.
        reading: `Manifest.reading` of then.

    Returns:
        The group of each item; empty for none.

    Raises:
        UsageError: If `group` is none of these, matches nothing, or the table lacks an item by now.
    """
    if group == "folder":
        return [name.rpartition("/")[0] for name in ids]
    try:
        pattern = re.compile(group)
    except re.error:
        pattern = re.compile("")
    if pattern.groups == 1:
        groups = [(match[1] or "") if (match := pattern.search(name)) else "" for name in ids]
        if not any(groups):
            msg = f"--group {group!r} matches no image; ids look like {ids[0]!r}"
            raise UsageError(msg)
        return groups
    return _read_column(ids, group, source, reading)


def describe_ungrouped(groups: Sequence[str], group: str) -> list[str]:
    """Say how many items are in no group, where a user has asked for groups: a list of one sentence, or of none."""
    alone = sum(not name for name in groups)
    if not group or not alone:
        return []
    return [f"{alone} of {len(groups)} items are in no group by {group!r}, and count as a group each"]


def _read_column(ids: Sequence[str], group: str, source: str, reading: Mapping[str, Any]) -> list[str]:
    if not Path(source).is_file():
        msg = (
            f"{group!r} is no group: {source} is no table with that column; use folder, or a regular "
            f"expression with one group, such as --group '(patient\\d+)'"
        )
        raise UsageError(msg)
    try:
        items = read_source_again(source, reading, group=group).items
    except FeatxError as error:
        msg = f"the groups cannot be read again: {error}"
        raise UsageError(msg) from error
    groups = {item.id: item.group for item in items}
    missing = [name for name in ids if name not in groups]
    if missing:
        msg = f"{source} no longer has {missing[0]}; embed it again with --group {group}, which computes nothing anew"
        raise UsageError(msg)
    return [groups[name] for name in ids]
