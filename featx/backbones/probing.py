"""A first reading of a file that may be hostile, in a process of its own with limited memory.

While it reads a network, OpenVINO computes the shapes of its layers, and for these any array that a few numbers
describe. No check of the file can tell what that takes, so it is tried where it can do no harm.
"""

import json
import subprocess
import sys
from dataclasses import asdict

from featx import errors
from featx.backbones import cache
from featx.backbones.protocol import BackboneRequest
from featx.errors import BackboneError

#: Address space of that process: what OpenVINO reserves for itself, and several times the bytes of the weights.
_BASE_BYTES, _TIMES = 6 * 2**30, 8

_SECONDS = 600

_CODE = "from featx.backbones.probing import run; run()"


def probe(request: BackboneRequest, digest: str, n_bytes: int) -> None:
    """Load a network file in another process, once on each machine, and report why it cannot be loaded.

    Args:
        request: The request for it.
        digest: Its sha256.
        n_bytes: Its size, with that of its other files.

    Raises:
        FeatxError: What the other process raised.
        BackboneError: If that process took too much memory or time, or crashed.
    """
    asked = {**asdict(request), "layers": list(request.layers), "arguments": dict(request.arguments)}
    # Where it is cut, and what its pixels become, decide little of what it takes.
    fact = {"loaded": digest, "size": [request.height, request.width], "layout": request.arguments.get("layout")}
    if cache.is_noted(fact) or not sys.executable:
        return
    text = json.dumps({"request": asked, "limit": _BASE_BYTES + _TIMES * n_bytes})
    command = [sys.executable, "-P", "-W", "ignore", "-c", _CODE]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603 - its own code
    except subprocess.TimeoutExpired as error:
        msg = f"{request.name} was not read within {_SECONDS} seconds"
        raise BackboneError(msg) from error
    if done.returncode or not done.stdout:
        msg = f"OpenVINO cannot read {request.name}: it took too much memory or crashed (status {done.returncode})"
        raise BackboneError(msg)
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["error"]:
        raise getattr(errors, answer["error"], BackboneError)(answer["message"])
    cache.note(fact)


def run() -> None:
    """Load the network that standard input describes, and print what went wrong; the other side of `probe`."""
    asked = json.loads(sys.stdin.read())
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (asked["limit"], asked["limit"]))
    except (ImportError, ValueError, OSError):  # Windows has no such limit, and a lower one may be set
        pass
    from featx.backbones.network_files import load_probed

    answer = {"error": "", "message": ""}
    try:
        load_probed(BackboneRequest(**{**asked["request"], "layers": tuple(asked["request"]["layers"])}))
    except errors.FeatxError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        answer = {"error": "BackboneError", "message": f"{asked['request']['name']} takes too much memory to be read"}
    sys.stdout.write(f"{json.dumps(answer)}\n")
