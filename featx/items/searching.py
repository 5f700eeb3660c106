"""Expressions that are searched in paths, in a process of their own, which can be ended.

An expression may come from a store whose maker the user does not know. Some run for years on one path, and Python's
`re` has no limit of time.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

from featx.errors import UsageError

#: Time for the process to start, and for the first paths.
LIMIT_S = 10.0

#: An expression that repeats nothing within a repetition takes a hundredth of it.
_PATH_S = 0.001

_SEARCH = """
import json, re, sys
text, paths = json.load(sys.stdin.buffer)
pattern = re.compile(text)
group = "label" if "label" in pattern.groupindex else 1
json.dump([(match[group] or "") if (match := pattern.search(path)) else "" for path in paths], sys.stdout)
"""


def find_labels(pattern: str, paths: Sequence[str]) -> list[str]:
    """Search a valid expression in paths, and return its group `label`, or its first group, of each path.

    Args:
        pattern: The expression, which has a group.
        paths: The paths.

    Returns:
        The text of the group; empty where the expression or the group matches nothing.

    Raises:
        UsageError: If the search takes too long, or its process ends early.
    """
    command, limit = [sys.executable, "-I", "-S", "-c", _SEARCH], LIMIT_S + _PATH_S * len(paths)
    try:
        done = subprocess.run(  # noqa: S603 - the program is this module's; the expression and the paths are its input
            command, input=json.dumps([pattern, paths]).encode(), capture_output=True, timeout=limit, check=True
        )
    except subprocess.TimeoutExpired as error:
        msg = (
            f"--label-pattern {pattern!r} takes more than {limit:.1f} s for {len(paths):,} paths; write an expression "
            "that repeats nothing within a repetition"
        )
        raise UsageError(msg) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        msg = f"--label-pattern {pattern!r} cannot be searched: {last or error}; write a simpler expression"
        raise UsageError(msg) from error
    labels: list[str] = json.loads(done.stdout)
    return labels
