"""The driver under every order of deaths, delays and answers that a simulated engine comes up with."""

import itertools
import random
import sys

import pytest
from scenarios import list_names

import featx
from featx.cluster import driver as driver_module
from featx.cluster.driver import KILLS, Driver, WorkerLostError
from featx.cluster.jobs import Outcome
from featx.cluster.planning import choose_size, plan
from featx.cluster.running import _Run
from featx.errors import BackboneError, MissingExtraError, StoreError, UsageError
from featx.items import Item
from featx.items.reading import Examined


class Simulation:
    """An engine whose workers do what a function of each task says: `done`, `dead`, `cut off`, `stuck` or an error."""

    def __init__(self, decide):
        self.decide = decide
        self.alive, self.written, self.n_started = set(), set(), 0
        self.numbers = itertools.count()

    def start(self):
        self.n_started += 1
        number = next(self.numbers)
        self.alive.add(number)
        return number

    def load(self, handle):
        return next(self.numbers), handle, None

    def embed(self, handle, _name, ids, _known):
        assert handle in self.alive
        return next(self.numbers), handle, tuple(ids)

    def wait(self, answers, _seconds):
        self.fates = {answer: self.decide(answer) for answer in answers}
        return [answer for answer in answers if self.fates[answer] != "stuck"]

    def read(self, answer):
        ids = answer[2]
        fate = self.fates[answer]
        if isinstance(fate, Exception):
            raise fate
        if fate != "done":
            raise WorkerLostError(fate, is_dead=fate == "dead")
        self.written.update(ids or ())
        return Outcome(0.0)

    def stop(self, handle):
        self.alive.discard(handle)


def run(engine, n_items=12, size=4, n_workers=3):
    """Run the driver, and return what it says about each item, in the order of the manifest."""
    found, states = {}, []

    def finish(shard, reason):
        for place, item in zip(shard.places, shard.items, strict=True):
            assert place not in found
            found[place] = (item.id, reason)

    shards = plan(enumerate(Item(str(number)) for number in range(n_items)), size)
    Driver(
        engine,
        shards,
        n_workers,
        name=lambda _: "",
        known=lambda _: (),
        finish=finish,
        observe=lambda _: None,
        show=states.append,
    ).run()
    assert not engine.alive
    return [found[place] for place in sorted(found)], states


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(driver_module, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(driver_module, "FIRST_SECONDS", 0.0)


@pytest.mark.parametrize("seed", range(100))
def test_every_item_is_finished_once_whatever_happens(seed):
    rng = random.Random(seed)  # noqa: S311 - a simulation
    n_items, size, n_workers, misfortunes = (rng.randint(1, most) for most in (40, 8, 4, 60))
    hung = set()

    def decide(answer):
        nonlocal misfortunes
        if answer in hung:
            return "stuck"
        if misfortunes <= 0:
            return "done"
        loads = answer[2] is None
        fate = rng.choice(
            ["done", "done", "slow", "cut off", "done" if loads else "dead", "slow" if loads else "stuck"]
        )
        misfortunes -= fate != "done"
        hung.update([answer] * (fate == "stuck"))
        return "stuck" if fate == "slow" else fate

    engine = Simulation(decide)
    found, _ = run(engine, n_items, size, n_workers)
    assert [name for name, _ in found] == [str(number) for number in range(n_items)]
    assert all(reason == KILLS or name in engine.written for name, reason in found)


@pytest.mark.parametrize("fatal", [0, 6, 11])
def test_only_the_item_on_which_workers_die_is_quarantined(fatal):
    found, states = run(Simulation(lambda answer: "dead" if str(fatal) in (answer[2] or ()) else "done"))
    assert found == [(str(number), KILLS if number == fatal else "") for number in range(12)]
    assert "6 died" in states[-1]  # twice on four items, once on two, three times on one


def test_an_error_is_not_a_death():
    with pytest.raises(StoreError, match="the disk is full"):
        run(Simulation(lambda answer: StoreError("the disk is full") if "5" in (answer[2] or ()) else "done"))


def test_a_few_of_many_workers_may_die_before_the_first_one_has_loaded():
    dying = itertools.count()
    engine = Simulation(lambda answer: "dead" if answer[2] is None and next(dying) < 10 else "done")
    found, states = run(engine, n_items=400, size=4, n_workers=100)
    assert (len(found), states[-1].split()[-2:]) == (400, ["10", "died"])


def test_workers_that_die_while_they_load_end_the_run():
    with pytest.raises(BackboneError, match="3 workers in a row died while they loaded the network: dead"):
        run(Simulation(lambda answer: "dead" if answer[2] is None else "done"))


def test_a_single_worker_that_hangs_is_replaced():
    hung = []

    def decide(answer):
        hung.extend([answer] * ("4" in (answer[2] or ()) and not hung))
        return "stuck" if answer in hung else "done"

    engine = Simulation(decide)
    found, _ = run(engine, n_workers=1)
    assert len(found) == 12
    assert engine.n_started == 2


def test_a_plan_has_all_new_items_in_their_places_and_the_others_are_noted():
    class Ledger:
        writers, manifest, noted = (), (), {}

        def note(self, place, examined):
            self.noted[place] = examined.item.id

        def report(self, done):
            self.done = done

    cached = [Examined(Item("a"), None), Examined(Item("b"), None)]
    parts = [Item("0"), cached, Item("3"), Item("4"), cached[:1], Item("6")]
    ledger = Ledger()
    shards = list(plan(_Run(ledger, None, None).list_new(parts), 2))
    assert [(list(shard.places), [item.id for item in shard.items]) for shard in shards] == [
        ([0, 3], ["0", "3"]),
        ([4, 6], ["4", "6"]),
    ]
    assert (ledger.noted, ledger.done) == ({1: "a", 2: "b", 5: "a"}, 3)


@pytest.mark.parametrize(
    ("n_items", "n_workers", "row_bytes", "size"),
    [(0, 4, 4096, 64), (400, 2, 960, 64), (100_000, 2, 4096, 4096), (10**8, 100, 5120, 3328), (10**6, 8, 1 << 26, 64)],
)
def test_shards_are_whole_batches_and_neither_few_nor_large(n_items, n_workers, row_bytes, size):
    assert choose_size(n_items, n_workers, row_bytes) == size


def test_without_ray_the_message_says_what_to_install(pictures, features, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "featx.cluster.ray_workers", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'featx\[ray\]'"):
        featx.embed(pictures, "colour", folder=features, options=featx.EmbedOptions(executor="ray"))
    assert list_names(features) == []


def test_an_object_cannot_be_built_by_workers(pictures, features):
    options = featx.EmbedOptions(executor="ray")
    with pytest.raises(UsageError, match="pass the uri 'colour', and not an object"):
        featx.embed(pictures, featx.load_backbone("colour"), folder=features, options=options)


def test_options_of_ray_are_refused_without_it():
    with pytest.raises(UsageError, match="need the executor ray"):
        featx.EmbedOptions(ray_address="auto")
    with pytest.raises(UsageError, match="need the executor ray"):
        featx.CompareOptions(cpus_per_worker=2)
    with pytest.raises(UsageError, match="name one that all machines see"):
        featx.CompareOptions(executor="ray", ray_address="auto", folder=None)


def test_a_late_answer_for_a_shard_that_was_cut_in_two_changes_nothing():
    first, halves = [], {}

    def decide(answer):
        ids = answer[2]
        if ids is None:
            return "done"
        if len(ids) == 4:
            first.append(answer[1])
            return ("done" if halves else "stuck") if answer[1] == first[0] else "dead"
        halves[ids] = halves.get(ids, 0) + 1
        return "done" if halves[ids] > 3 else "stuck"

    found, _ = run(Simulation(decide), n_items=4, size=4)
    assert found == [(str(number), "") for number in range(4)]
