"""The driver: gives shards to workers, and gives a shard again if its worker died or is late."""

import bisect
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from featx.cluster.jobs import Outcome
from featx.cluster.planning import Shard
from featx.errors import BackboneError

#: A shard is also given to another worker after so many times the median time of a shard, and not before so long.
LATE_FACTOR = 4
LATE_SECONDS = 60.0

#: The same before any shard is finished, when nobody knows how long one takes.
FIRST_SECONDS = 1800.0

#: Workers that die on one item before it is quarantined; and in a row while they load the network before the run ends,
#: or of many workers so large a share.
_DEATHS = 3
_DEATHS_SHARE = 0.25

#: How long to wait for an answer before looking at the clock, and for a first worker before saying so.
_TICK_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0

#: Why an item is quarantined on which workers die.
KILLS = f"each of {_DEATHS} processes that read it died; the decoder may crash on it, or it takes too much memory"

#: What to do if a cluster has no room for a worker.
HOW_TO_FIT = "choose other --cpus-per-worker and --gpus-per-worker, or add machines"

logger = logging.getLogger(__name__)


class WorkerLostError(Exception):
    """A worker died, or cannot be reached.

    Args:
        text: What the engine says.
        is_dead: Whether it is known to be dead.
    """

    def __init__(self, text: str, *, is_dead: bool) -> None:
        super().__init__(text)
        self.is_dead = is_dead


class Engine(Protocol):
    """What starts workers and carries messages: handles and answers are its own objects."""

    def start(self) -> Any:  # noqa: ANN401 - a handle of the engine
        """Start a worker, and return its handle."""
        ...

    def load(self, handle: Any) -> Any:  # noqa: ANN401 - as above
        """Let a worker load the network; return what `wait` takes."""
        ...

    def embed(self, handle: Any, name: str, ids: Sequence[str], known: Sequence[str]) -> Any:  # noqa: ANN401 - as above
        """Let a worker embed a shard, but for known images; return what `wait` takes."""
        ...

    def wait(self, answers: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return the answers that have arrived, waiting for one at most so long."""
        ...

    def read(self, answer: Any) -> Outcome:  # noqa: ANN401 - as above
        """Return an answer that has arrived. Raises WorkerLostError, or what the worker raised."""
        ...

    def stop(self, handle: Any) -> None:  # noqa: ANN401 - as above
        """Kill a worker."""
        ...


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker: what it is doing, since when, and the shard, if it embeds one."""

    handle: Any
    answer: Any
    state: str = "loading"
    since: float = field(default_factory=time.monotonic)
    shard: Shard | None = None


class Driver:
    """Has shards embedded, each exactly once as far as anybody can tell from the outside.

    Args:
        engine: Starts workers.
        shards: The shards; taken one by one.
        n_workers: Number of workers.
        name: Names the file of a shard.
        known: Lists the sha256 of images of a shard that need not be embedded if their files are as they were.
        finish: Called with each shard once it is written, and None; or with a shard of one item and the reason why it
            is not embedded.
        observe: Called with what a worker answered.
        show: Called with the state of the workers, such as `2 embedding`.
    """

    def __init__(
        self,
        engine: Engine,
        shards: Iterator[Shard],
        n_workers: int,
        *,
        name: Callable[[Shard], str],
        known: Callable[[Shard], Sequence[str]],
        finish: Callable[[Shard, str], None],
        observe: Callable[[Outcome], None],
        show: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._shards = shards
        self._n_workers = n_workers
        self._name = name
        self._known = known
        self._finish = finish
        self._observe = observe
        self._show = show
        self._again: deque[Shard] = deque()
        self._workers: list[_Worker] = []
        self._seconds: list[float] = []
        self._open = self._died = self._died_loading = 0
        self._is_exhausted = self._is_told = False
        self._started = time.monotonic()

    def run(self) -> None:
        """Have all shards embedded.

        Raises:
            FeatxError: What a worker raised; or if workers die again and again while they load the network.
        """
        try:
            while self._hand_out():
                answers = [worker.answer for worker in self._workers if worker.answer is not None]
                arrived = self._engine.wait(answers, _TICK_SECONDS)
                for worker in [worker for worker in self._workers if worker.answer in arrived]:
                    self._hear(worker)
                self._look_for_late_ones()
                states = Counter(worker.state for worker in self._workers)
                counts = [f"{count} {state}" for state, count in sorted(states.items())]
                self._show(", ".join(counts + [f"{self._died} died"] * (self._died > 0)))
        finally:
            for worker in self._workers:
                self._engine.stop(worker.handle)

    def _hand_out(self) -> bool:
        """Give shards to idle workers, and start as many workers as there is work for; return whether there is any."""
        for worker in self._workers:
            if worker.state == "idle" and (shard := self._take()):
                worker.state, worker.shard, worker.since = "embedding", shard, time.monotonic()
                ids = [item.id for item in shard.items]
                worker.answer = self._engine.embed(worker.handle, self._name(shard), ids, self._known(shard))
        while len(self._workers) < self._n_workers and not any(worker.state == "idle" for worker in self._workers):
            if not self._has_more():
                break
            handle = self._engine.start()
            self._workers.append(_Worker(handle, self._engine.load(handle)))
        return self._open > 0 or self._has_more()

    def _has_more(self) -> bool:
        """Return whether a shard waits for a worker; shards that are not done may still be given again."""
        while self._again and self._again[0].is_done:
            self._again.popleft()
        if not self._again and not self._is_exhausted:
            shard = next(self._shards, None)
            self._is_exhausted = shard is None
            if shard is not None:
                self._again.append(shard)
                self._open += 1
        return bool(self._again)

    def _take(self) -> Shard | None:
        return self._again.popleft() if self._has_more() else None

    def _hear(self, worker: _Worker) -> None:
        """Read what a worker answered."""
        shard, answer = worker.shard, worker.answer
        worker.shard = worker.answer = None
        try:
            outcome = self._engine.read(answer)
        except WorkerLostError as error:
            logger.debug("a worker is lost: %s", error)
            self._workers.remove(worker)
            self._engine.stop(worker.handle)
            self._died += error.is_dead
            self._lose(shard, str(error), is_dead=error.is_dead)
            return
        self._observe(outcome)
        self._died_loading = 0
        worker.state = "idle"
        if shard is not None:
            bisect.insort(self._seconds, outcome.seconds)
            self._conclude(shard, "")

    def _conclude(self, shard: Shard, reason: str) -> None:
        if not shard.is_done:
            shard.is_done = True
            self._open -= 1
            self._finish(shard, reason)

    def _lose(self, shard: Shard | None, text: str, *, is_dead: bool) -> None:
        """Give the shard of a lost worker to another one, in halves if it was not the first."""
        if shard is None:
            self._died_loading += is_dead
            if self._died_loading >= max(_DEATHS, _DEATHS_SHARE * self._n_workers):
                reason = " ".join(text.split())[:500]
                msg = (
                    f"{self._died_loading} workers in a row died while they loaded the network: {reason}; "
                    f"they may need more memory (--workers), or another Python environment than the driver's"
                )
                raise BackboneError(msg)
            return
        shard.deaths += is_dead
        is_in_hand = any(worker.shard is shard and worker.state != "late" for worker in self._workers)
        if shard.is_done or is_in_hand or shard in self._again:
            return
        if shard.deaths >= _DEATHS and len(shard.items) == 1:
            self._conclude(shard, KILLS)
        elif shard.deaths > 1 and len(shard.items) > 1:
            halves = shard.halve()
            shard.is_done = True  # a late answer for the whole of it no longer counts
            self._open += len(halves) - 1
            self._again.extendleft(reversed(halves))
        else:
            self._again.appendleft(shard)

    def _look_for_late_ones(self) -> None:
        """Give the shards of workers that take far too long to others as well."""
        now = time.monotonic()
        waiting = not self._seconds and all(worker.state == "loading" for worker in self._workers)
        if waiting and not self._is_told and now - self._started > _PATIENCE_SECONDS:
            self._is_told = True
            logger.warning("no worker has started yet: the cluster may have no room for one: %s", HOW_TO_FIT)
        usual = LATE_FACTOR * self._seconds[len(self._seconds) // 2] if self._seconds else FIRST_SECONDS
        limit = max(LATE_SECONDS, usual)
        for worker in self._workers:
            shard = worker.shard
            if shard and worker.state == "embedding" and now - worker.since > limit:
                worker.state = "late"
                if not shard.is_done and shard not in self._again:
                    self._again.appendleft(shard)
        late = [worker for worker in self._workers if worker.state == "late"]
        if late and len(late) == len(self._workers) and self._again:  # nobody else is left: replace one
            self._workers.remove(late[0])
            self._engine.stop(late[0].handle)
