"""Open untrusted files in a process of its own, and measure its memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: More than TensorFlow takes by itself, and less than any bomb here.
MAX_PEAK_BYTES = 1.5 * 2**30
#: No test may take the machine's memory, even where featx fails.
ADDRESS_SPACE_BYTES = 16 * 2**30

_CODE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({space}, {space}))
from featx.errors import FeatxError
found = []
for path in sys.argv[1:]:
    try:
        {statement}
    except FeatxError as error:
        found.append(str(error))
    else:
        found.append("")
with open("/proc/self/status") as file:
    (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM:")]
print(json.dumps([found, int(peak) * 1024]))
"""


def get_refusals(statement, paths):
    """Run a statement about `path` for each of the paths, all of which featx must refuse; return the messages."""
    # Not by getrusage: its peak begins with that of the process that started this one.
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not say how much memory a process took")
    code = _CODE.format(statement=statement, space=ADDRESS_SPACE_BYTES)
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    messages, peak_bytes = json.loads(done.stdout)
    assert all(messages), messages
    assert not any("\n" in message or len(message) > 1500 for message in messages)
    assert peak_bytes < MAX_PEAK_BYTES
    return messages
