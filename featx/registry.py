"""Registered names of backbones and heads, and the `module:attribute` strings that they stand for.

The providers of backbones import heavy frameworks, so they are reached only through the strings here
or through the entry points of other packages: listing names imports nothing.
"""

import contextlib
import difflib
import functools
import itertools
from collections.abc import Collection, Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

from featx.errors import UnknownNameError

#: Providers of backbones: by the scheme of a uri, which ends in a colon, or by the whole name of a built-in backbone.
BACKBONES: dict[str, str] = {
    "keras:": "featx.backbones.applications:load_application",
    "file:": "featx.backbones.savedmodels:load_saved_model",
    "efficientnet-lite0": "featx.backbones.efficientnet_lite:load_efficientnet_lite",
    "efficientnet-lite1": "featx.backbones.efficientnet_lite:load_efficientnet_lite",
    "efficientnet-lite2": "featx.backbones.efficientnet_lite:load_efficientnet_lite",
    "onnx:": "featx.backbones.network_files:load_network_file",
    "ir:": "featx.backbones.network_files:load_network_file",
    "tflite:": "featx.backbones.network_files:load_network_file",
    "hub:": "featx.backbones.hub:load_preset",
    "scattering": "featx.backbones.scattering:load_scattering",
    "colour": "featx.backbones.colour:load_colour",
}

#: Heads by their names on the command line.
HEADS: dict[str, str] = {
    "logreg": "featx.heads.table:LOGREG",
    "ridge": "featx.heads.table:RIDGE",
    "linear-svm": "featx.heads.table:LINEAR_SVM",
    "svm": "featx.heads.table:SVM",
    "knn": "featx.heads.table:KNN",
    "lda": "featx.heads.table:LDA",
    "centroid": "featx.heads.table:CENTROID",
    "naive-bayes": "featx.heads.table:NAIVE_BAYES",
    "random-forest": "featx.heads.table:RANDOM_FOREST",
    "hist-gb": "featx.heads.table:HIST_GB",
    "mlp": "featx.heads.table:MLP",
    "keras": "featx.heads.table:KERAS",
    "dummy": "featx.heads.table:DUMMY",
}

#: Names of sets of heads. The heads of `fast` take seconds for thousands of items.
HEAD_SETS: dict[str, tuple[str, ...]] = {
    "fast": ("logreg", "ridge", "lda", "centroid", "knn", "naive-bayes", "mlp", "random-forest"),
    "linear": ("logreg", "ridge", "linear-svm", "lda", "centroid"),
    "all": tuple(HEADS),
}

#: What `fit` takes in place of a head, to choose among those of `fast`.
BEST = "best"


#: Commands that list the names of a kind, for kinds with more names than an error shows.
_LISTS = {"backbone": "featx backbones", "classifier": "featx fit --help"}

_SHOWN_NAMES = 8

#: Names that are compared with a misspelt one: difflib takes 30 seconds for a million.
_MOST_COMPARED = 5000

#: What other tools call some values, whose spelling is not similar.
_SYNONYMS = {
    "mean": ("avg",),
    "average": ("avg",),
    "md": ("markdown",),
    "tex": ("latex",),
    "rf": ("random-forest",),
    "lr": ("logreg",),
    "logistic": ("logreg",),
    "platt": ("sigmoid",),
}


@functools.cache
def _read_entry_points(group: str) -> dict[str, str]:
    return {point.name.lower(): point.value for point in entry_points(group=group)}


def find_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def list_names(table: dict[str, str], group: str) -> list[str]:
    """List the names of a table and of an entry-point group, built-in names first."""
    return [*table, *(name for name in _read_entry_points(group) if name not in table)]


def list_heads(names: Iterable[str]) -> list[str]:
    """Expand the names of sets into heads, each once; other names are kept."""
    heads = [head for name in names for head in HEAD_SETS.get(name.lower(), (name,))]
    return list(dict.fromkeys(heads))


def resolve(kind: str, name: str, table: dict[str, str], group: str) -> Any:  # noqa: ANN401 - whatever the string points at
    """Import the object that a name stands for.

    Args:
        kind: The kind of object, for the message: `backbone`, `classifier`.
        name: The name, in any case.
        table: Built-in names and their `module:attribute` strings.
        group: Entry-point group for names of other packages.

    Returns:
        The object that the string points at.

    Raises:
        UnknownNameError: If the name is not registered; the message lists the closest names first.
    """
    target = table.get(name.lower()) or _read_entry_points(group).get(name.lower())
    if target is None:
        raise make_unknown_name_error(kind, name, list_names(table, group))
    return EntryPoint(name, target, group).load()


def make_unknown_name_error(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Make the error for an unknown name, which lists the known names, closest first, up to eight."""
    names = list(known)
    close, question = find_closest(name, names), suggest(name, names)
    hint = f"{question} Known" if question else "known"
    ordered = [*close, *(candidate for candidate in names if candidate not in close)]
    if len(ordered) <= _SHOWN_NAMES or kind not in _LISTS:
        shown = ", ".join(ordered)
    else:
        shown = f"{', '.join(ordered[:_SHOWN_NAMES])}, ...; `{_LISTS[kind]}` lists all {len(names)}"
    return UnknownNameError(f"no {kind} is called {name!r}; {hint}: {shown}")


def check_heads(names: Iterable[str]) -> None:
    """Refuse names that are neither a head nor a set of heads; of `keras:512-256`, the part before the colon is read.

    Raises:
        UnknownNameError: The message lists the closest names first.
    """
    known = list_names(HEADS, "featx.heads")
    for name in names:
        base = name.strip().lower().partition(":")[0]
        if base and base not in known and base not in HEAD_SETS and base != BEST:
            kind = "classifier"
            raise make_unknown_name_error(kind, name.strip(), known)


def suggest(name: str, known: Collection[str]) -> str:
    """Ask whether one of the closest names was meant, such as `did you mean ridge?`; empty if none is close."""
    close = find_closest(name, known)
    return f"did you mean {' or '.join(close)}?" if close else ""


def find_closest(name: str, known: Collection[str]) -> list[str]:
    """Find up to three similar names, ignoring case, best first."""
    if meant := [word for word in _SYNONYMS.get(name.lower(), ()) if word in known]:
        return meant
    lowered = {candidate.lower(): candidate for candidate in itertools.islice(known, _MOST_COMPARED)}
    return [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
