"""The shim sees every call that changes the disk; otherwise the faults of the other tests would prove little."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from scenarios import list_left_over

NAMES = ["fresh", "adding", "takeover", "indexing"]

EMBED = """
import json
import sys
from pathlib import Path

sys.path[:0] = json.loads(sys.argv[4])
from processes import Command, embed

source, root, notes = map(Path, sys.argv[1:4])
embed(Command(source, root, verb=sys.argv[5]), notes)
"""

#: Prints the events of Python's audit hook, which names the functions that open, name and remove.
AUDIT = f"""
import os
import sys

events = []
names = {{"os.rename": "rename", "os.link": "link", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir",
         "os.utime": "touch", "os.truncate": "truncate", "os.symlink": "symlink", "os.chmod": "chmod"}}

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and arguments[2] & (os.O_CREAT | os.O_TRUNC):
        events.append(("create", os.fspath(arguments[0])))
    elif event in names and not isinstance(arguments[0], int):
        events.append((names[event], os.fspath(arguments[0])))

sys.addaudithook(hook)
{EMBED}
print(json.dumps([[name, path] for name, path in events if Path(path).is_relative_to(root)]))
"""

#: Names of the system calls here; a call without a name here is printed as it is, and fails the test.
CALLS = {
    "open": "create",
    "openat": "create",
    "creat": "create",
    "write": "write",
    "pwrite64": "write",
    "fsync": "sync",
    "fdatasync": "sync",
    "ftruncate": "truncate",
    "truncate": "truncate",
    "utimensat": "touch",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "link": "link",
    "linkat": "link",
    "unlink": "remove",
    "unlinkat": "remove",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rmdir": "rmdir",
}
OTHER_CALLS = (
    "writev,pwritev,pwritev2,fallocate,copy_file_range,sendfile,splice,symlink,symlinkat,mknod,mknodat,chmod,fchmod"
)


def run_watched(scenario, tmp_path, code, *prefix):
    """Run in its own process; return its output and the operations that the shim saw."""
    root, notes = tmp_path / "disk", tmp_path / "notes"
    scenario.prepare(root)
    notes.touch()
    command = [*prefix, sys.executable, "-c", code, scenario.source, root, notes, json.dumps(sys.path), scenario.verb]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list_left_over(root) == []
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    return result.stdout, [line["operation"] for line in lines if "operation" in line]


@pytest.mark.parametrize("name", NAMES)
def test_no_call_of_python_that_changes_the_disk_escapes_the_shim(make_scenario, tmp_path, name):
    output, operations = run_watched(make_scenario(name), tmp_path, AUDIT)
    root = f"{tmp_path}/disk/"
    by_descriptor = {"write", "truncate", "sync"}
    expected = [[seen["name"], root + seen["path"]] for seen in operations if seen["name"] not in by_descriptor]
    assert len(expected) > 10
    assert json.loads(output) == expected


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which lists a process's system calls, is not there")
@pytest.mark.parametrize("name", NAMES)
def test_no_system_call_that_changes_the_disk_escapes_the_shim(make_scenario, tmp_path, name):
    trace, calls = tmp_path / "trace", ",".join(f"?{call}" for call in [*CALLS, *OTHER_CALLS.split(","), "mmap"])
    prefix = ["strace", "-f", "-y", "-s", "0", "-e", "signal=none", "-e", f"trace={calls}", "-o", trace]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    _, operations = run_watched(make_scenario(name), tmp_path, EMBED, *prefix)
    seen = [operation["name"] for operation in operations]
    assert len(seen) > 60
    assert read_trace(trace, tmp_path / "disk") == seen


def read_trace(trace, root):
    """List the calls that change files under a folder, in the order in which they begin."""
    found = []
    for line in trace.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)", line)
        if not match or not re.search(rf"{re.escape(str(root))}[/>\"]", match[2]):
            continue
        call, arguments = match.groups()
        if call in {"open", "openat"} and not re.search("O_CREAT|O_TRUNC", arguments):
            continue
        if call == "mmap" and not ("PROT_WRITE" in arguments and "MAP_SHARED" in arguments):
            continue
        found.append("rmdir" if "AT_REMOVEDIR" in arguments else CALLS.get(call, call))
    return found
