"""How much work does a run on a cluster lose to workers that die or hang, and how busy is its driver?

    python benchmarks/scale_failures.py [--workers 16 256 1000] [--shards-per-worker 40] [--seed 0]

The driver is the real one; its clock and its workers are simulated. A worker takes 60 s to load the network, embeds
4,096 images at 100 images/s, each shard by a factor whose logarithm has a deviation of 0.2, dies after a time that is
exponentially distributed, and some hang. Printed are how much longer the run took than without any of this, how many
images were embedded more than once, and the driver's own processor time for each shard, in microseconds and as a share
of the time in which the workers embed one. We would change our mind about the size of shards if, at a death a day and
worker, more than one image in a hundred were embedded again.
"""

import argparse
import heapq
import itertools
import random
import sys
import time
from dataclasses import dataclass

from reporting import read_processor, show

from featx.cluster import driver
from featx.cluster.driver import Driver, WorkerLostError
from featx.cluster.jobs import Outcome
from featx.cluster.planning import Shard
from featx.items.manifest import Item

LOAD_SECONDS, IMAGES, PER_SECOND, DEVIATION = 60.0, 4096, 100.0, 0.2
DAY = 86_400.0


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        """Return the simulated time in seconds."""
        return self.now


@dataclass(eq=False)
class Answer:
    """What a worker will have answered at some time, unless it dies before."""

    at: float
    seconds: float
    is_lost: bool


@dataclass(eq=False)
class Handle:
    """A worker with the time of its death."""

    death: float


class Engine:
    """Workers that take simulated time, die and hang."""

    def __init__(self, clock, generator, *, lifetime, hanging):
        self.clock, self.generator, self.lifetime, self.hanging = clock, generator, lifetime, hanging
        self.events, self.order, self.embedded, self.deaths = [], itertools.count(), 0, 0

    def start(self):
        """Start a worker."""
        life = self.generator.expovariate(1 / self.lifetime) if self.lifetime else float("inf")
        return Handle(self.clock.now + life)

    def _expect(self, handle, seconds):
        end = self.clock.now + seconds
        answer = Answer(min(end, handle.death), seconds, is_lost=handle.death < end)
        heapq.heappush(self.events, (answer.at, next(self.order), answer))
        return answer

    def load(self, handle):
        """Load the network."""
        return self._expect(handle, LOAD_SECONDS)

    def embed(self, handle, _, ids, _known):
        """Embed a shard."""
        self.embedded += len(ids)
        seconds = len(ids) / PER_SECOND * self.generator.lognormvariate(0, DEVIATION)
        return self._expect(handle, 1e9 if self.generator.random() < self.hanging else seconds)

    def wait(self, answers, seconds):
        """Let time pass until an answer comes or the seconds are over."""
        wanted = set(map(id, answers))
        until = self.clock.now + seconds
        while self.events and self.events[0][0] <= until:
            at, _, answer = heapq.heappop(self.events)
            if id(answer) in wanted:
                self.clock.now = max(self.clock.now, at)
                return [answer]
        self.clock.now = until
        return []

    def read(self, answer):
        """Return an answer."""
        if answer.is_lost:
            self.deaths += 1
            msg = "killed"
            raise WorkerLostError(msg, is_dead=True)
        return Outcome(answer.seconds)

    def stop(self, handle):
        """Let a worker go on for nothing."""


def simulate(workers, options, *, lifetime, hanging):
    """Run once; return the simulated seconds, the engine and the driver's processor seconds."""
    clock = driver.time = Clock()
    engine = Engine(clock, random.Random(options.seed), lifetime=lifetime, hanging=hanging)  # noqa: S311 - no secrets
    count = workers * options.shards_per_worker
    items = [Item("")] * IMAGES
    shards = (Shard(range(at * IMAGES, (at + 1) * IMAGES), items) for at in range(count))
    done = []
    begun = time.process_time()
    Driver(
        engine,
        shards,
        workers,
        name=lambda _: "",
        known=lambda _: [],
        finish=lambda shard, reason: done.append((len(shard.items), reason)),
        observe=lambda _: None,
        show=lambda _: None,
    ).run()
    seconds = time.process_time() - begun
    if sum(n_items for n_items, reason in done if not reason) != count * IMAGES:
        sys.exit("the driver lost images")
    return clock.now, engine, seconds


def main():
    """Simulate each size and each kind of trouble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[16, 256, 1000])
    parser.add_argument("--shards-per-worker", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    show("machine", processor=read_processor())
    for workers in options.workers:
        calm = None
        for name, lifetime, hanging in (
            ("none", 0, 0),
            ("a death a day", DAY, 0),
            ("a death an hour", DAY / 24, 0),
            ("a death an hour, one shard in 1,000 hangs", DAY / 24, 0.001),
        ):
            end, engine, seconds = simulate(workers, options, lifetime=lifetime, hanging=hanging)
            calm = calm or end
            shards = workers * options.shards_per_worker
            shard_seconds = IMAGES / PER_SECOND
            show(
                "run",
                workers=workers,
                images=shards * IMAGES,
                trouble=name,
                hours=end / 3600,
                longer=end / calm,
                deaths=engine.deaths,
                again=engine.embedded / (shards * IMAGES) - 1,
                driver_microseconds_a_shard=1e6 * seconds / shards,
                driver_share=seconds / shards * workers / shard_seconds,
            )


if __name__ == "__main__":
    main()
