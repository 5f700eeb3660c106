"""The promises about the code itself: sizes, words and the absence of hosts and paths."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "featx").rglob("*.py"))
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 40
MAX_SIGNATURE_LINES = 8


def count_lines(function, lines):
    """Count the lines of a function without its docstring, and without those that only name or pass on a parameter."""
    body = function.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    statements = body[1:] if documented else body
    if not statements:
        return 0
    signature = min(body[0].lineno - function.lineno, MAX_SIGNATURE_LINES)
    own = lines[statements[0].lineno - 1 : statements[-1].end_lineno]
    return signature + sum(not re.fullmatch(r"\s*(\w+)=\1,", line) for line in own)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert count_lines(node, text.splitlines()) <= MAX_FUNCTION_LINES, f"{node.name} is too long"
    assert path.stem not in {"utils", "helpers", "common", "misc"}


def test_no_public_function_bears_the_name_of_a_module():
    names = {path.stem for path in (ROOT / "featx").glob("*.py")} | {
        path.name for path in (ROOT / "featx").iterdir() if path.is_dir()
    }
    import featx

    assert not names & set(featx.__all__)


def list_text_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("git lists the files of a checkout, and this folder is not a checkout")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).suffix != ".h5" and path.is_file()]


def test_no_host_of_a_registry_and_no_path_of_a_machine():
    odd = re.compile(r"files\.pythonhosted|pypi\.org/simple|extra-index-url|/home/\w+/|/root/|/work/")
    own = Path(__file__).resolve()
    found = [
        f"{path}: {match[0]}"
        for path in list_text_files()
        if path.resolve() != own and (match := odd.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found
