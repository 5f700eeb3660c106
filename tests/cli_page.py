"""The page docs/cli.md, generated from the typer app: `python tests/cli_page.py` writes it."""

import re
from pathlib import Path

import typer

from featx.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

_HEAD = """# The command line

<!-- Generated from the app by `make docs`; a test fails when this page is out of date. -->

Results go to stdout, progress and notes to stderr. Exit codes: 0 for success, 1 for an error,
2 for wrong usage, 3 if OpenVINO was asked for and is not installed (`MissingExtraError`), 130 for
Ctrl-C. `--debug`, `--verbose` and `--log` may stand before the verb or behind it.
"""


def render():
    """Return the page as Markdown: one section per verb, in the order of `featx --help`."""
    group = typer.main.get_command(app)
    # The width is fixed, so that the page does not depend on the terminal.
    context = group.make_context("featx", [], resilient_parsing=True, terminal_width=200)
    sections = [_HEAD, _render_table(group, context)]
    for name, command in group.commands.items():
        if command.hidden:
            continue
        inner = command.make_context(name, [], parent=context, resilient_parsing=True, terminal_width=200)
        usage = command.get_usage(inner).removeprefix("Usage: ")
        sections += [
            f"## {name}\n",
            f"{_escape(command.help)}\n",
            f"```text\n{usage}\n```\n",
            f"Example:\n\n```console\n$ {_find_example(command)}\n```\n",
            _render_table(command, inner),
        ]
    return "\n".join(sections)


def _find_example(command):
    """Return the command line that the help of a verb ends with."""
    return command.epilog.split("Example:")[1].strip()


def _render_table(command, context):
    rows = ["| option | meaning | default |", "|---|---|---|"]
    for parameter in command.params:
        if (record := parameter.get_help_record(context)) is None:
            continue
        names, text = record
        text, _, facts = text.partition("  [")
        if not facts and text.startswith("["):
            text, facts = "", text[1:]
        default = re.sub(r"^default: ", "", facts.removesuffix("]"))
        rows.append("| " + " | ".join(_escape(part) for part in (f"`{names}`", text, default)) + " |")
    return "\n".join(rows) + "\n"


def _escape(text):
    """Keep text from being read as Markdown or HTML, but for code in backticks."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"([*_])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8", newline="\n")
