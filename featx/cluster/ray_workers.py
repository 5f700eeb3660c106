"""Processes of Ray: workers as its actors, and single calls as its tasks; the only module that imports it."""

import contextlib
import functools
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from featx.cluster.driver import HOW_TO_FIT, WorkerLostError
from featx.cluster.jobs import Job, Outcome, copy_environment
from featx.cluster.workers import Worker, set_up_process
from featx.errors import FeatxError, MissingExtraError, UsageError
from featx.options import EmbedOptions, SpreadOptions, count_cores

# Before the import: Ray reports its use to its makers unless this says otherwise, and warns of a later change of rules
# for workers without a GPU, to which `Worker` gives none.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
try:
    import ray
    from ray import exceptions
except ImportError as error:
    _MESSAGE = f"Ray is missing or broken ({error}); run pip install 'featx[ray]'"
    raise MissingExtraError(_MESSAGE) from error

#: What the driver and the workers pass each other is small; features never go through Ray.
_OBJECT_STORE_BYTES = 128 << 20

logger = logging.getLogger(__name__)


class _Log(io.TextIOBase):
    """Ray prints that a worker died to stdout, where results go; the driver says it in its own way."""

    def write(self, text: str, /) -> int:
        logger.debug("%s", text.strip())
        return len(text)


@contextlib.contextmanager
def connect(options: SpreadOptions, n_workers: int | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, until the block ends.

    Args:
        options: The cluster, and what each worker needs.
        n_workers: Number of workers; None for as many as there is room for.

    Raises:
        UsageError: If the cluster cannot be reached.
    """
    if ray.is_initialized():
        msg = "Ray is already in use in this process; call ray.shutdown() first, and name the cluster with ray_address"
        raise UsageError(msg)
    here: dict[str, Any] = {"address": options.ray_address}
    if not options.ray_address:
        cores = max(count_cores(), (n_workers or 1) * options.cpus_per_worker)
        here = {"address": "local", "num_cpus": int(cores), "object_store_memory": _OBJECT_STORE_BYTES}
        here["include_dashboard"] = False
    with contextlib.redirect_stdout(_Log()):
        try:
            ray.init(**here, log_to_driver=False, logging_level=logging.ERROR, namespace="featx")
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            place = f"the cluster {options.ray_address}" if options.ray_address else "Ray on this machine"
            reason = " ".join(str(error).split())[:300]
            msg = f"{place} cannot be used: {reason}; see `ray status`, and set RAY_AUTH_MODE=token if it wants a token"
            raise UsageError(msg) from error
        try:
            yield
        finally:
            ray.shutdown()


def count_room(options: SpreadOptions) -> int:
    """Count the workers that the machines of the cluster have room for, at least one; warn if there is no room."""
    room = 0
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        has: dict[str, float] = node["Resources"] if node["Alive"] else {}
        rooms = [has.get("CPU", 0) // options.cpus_per_worker]
        if options.gpus_per_worker:
            rooms.append(has.get("GPU", 0) // options.gpus_per_worker)
        room += int(min(rooms))
    if not room:
        logger.warning("no machine of the cluster has room for a worker: %s", HOW_TO_FIT)
    return max(1, room)


class RaySlot:
    """Runs calls in processes of Ray, as an executor of one process does.

    Args:
        options: What a process needs.
    """

    def __init__(self, options: SpreadOptions) -> None:
        # Ray must repeat nothing: one call may take all memory wherever it runs, and would be repeated for ever.
        self._run = ray.remote(_run_call).options(
            num_cpus=options.cpus_per_worker, num_gpus=options.gpus_per_worker, max_retries=0
        )
        self._options = options

    def submit(self, call: Callable[..., Any], /, *arguments: Any) -> Future[Any]:  # noqa: ANN401 - those of the call
        """Start a call; the future raises BrokenProcessPool if its process or its machine died."""
        found: Future[Any] = Future()
        answer = self._run.remote(self._options, copy_environment(), call, *arguments)
        answer.future().add_done_callback(functools.partial(_pass_on, found))
        return found


def _run_call(
    options: SpreadOptions, environment: Mapping[str, str], call: Callable[..., Any], *arguments: object
) -> Any:  # noqa: ANN401 - what the call returns
    """Run a call in a process of Ray, with as many threads as it has cores."""
    with threadpool_limits(set_up_process(options, environment)):
        return call(*arguments)


def _pass_on(found: Future[Any], answer: Future[Any]) -> None:
    error = answer.exception()
    if error is None:
        found.set_result(answer.result())
    elif isinstance(error, exceptions.RayTaskError):
        found.set_exception(error.cause or error)
    else:
        found.set_exception(BrokenProcessPool(str(error)))


class RayEngine:
    """Starts workers as actors of Ray; an `Engine`.

    Args:
        job: What the workers do.
        options: What each worker needs.
    """

    def __init__(self, job: Job, options: EmbedOptions) -> None:
        self._job = ray.put(job)
        # Ray must restart nothing and repeat nothing: the driver decides what is done again.
        self._make = ray.remote(Worker).options(
            num_cpus=options.cpus_per_worker, num_gpus=options.gpus_per_worker, max_restarts=0, max_task_retries=0
        )

    def start(self) -> Any:  # noqa: ANN401 - a handle of Ray
        """Start a worker."""
        return self._make.remote(self._job)

    def load(self, handle: Any) -> Any:  # noqa: ANN401 - as above
        """Let a worker load the network."""
        return handle.load.remote()

    def embed(self, handle: Any, name: str, ids: Sequence[str], known: Sequence[str]) -> Any:  # noqa: ANN401 - as above
        """Let a worker embed a shard."""
        return handle.embed.remote(name, ids, known)

    def wait(self, answers: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return the answers that have arrived."""
        arrived, _ = ray.wait(list(answers), num_returns=1, timeout=seconds)
        return list(arrived)

    def read(self, answer: Any) -> Outcome:  # noqa: ANN401 - as above
        """Return an answer that has arrived.

        Raises:
            WorkerLostError: If the worker died or cannot be reached.
            Exception: What the worker raised.
        """
        try:
            outcome: Outcome = ray.get(answer)
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, FeatxError):
                raise cause from None  # as if it had been raised here
            raise
        except exceptions.RayError as error:
            is_dead = not isinstance(error, exceptions.ActorUnavailableError)
            raise WorkerLostError(str(error), is_dead=is_dead) from error
        return outcome

    def stop(self, handle: Any) -> None:  # noqa: ANN401 - as above
        """Kill a worker."""
        ray.kill(handle, no_restart=True)
