import math

from featx.heads.early_stopping import EarlyStopping


def watch(values, patience, **options):
    stopping, factors = EarlyStopping(), []
    for epoch, value in enumerate(values, 1):
        stopping.watch(value, epoch=epoch, patience=patience, **options)
        factors.append(stopping.factor)
    return stopping, factors


def test_the_lowest_value_is_the_best():
    stopping = EarlyStopping()
    improved = [stopping.watch(value, epoch=epoch, patience=9) for epoch, value in enumerate([3, 2, 2, 4, 1], 1)]
    assert improved == [True, True, False, False, True]
    assert (stopping.best, stopping.best_epoch, stopping.waited) == (1, 5, 0)


def test_the_rate_is_halved_at_every_half_of_the_patience():
    stopping, factors = watch([1, 2, 2, 2, 2, 0, 2, 2], patience=4)
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert stopping.waited == 2
    assert watch([1, 2, 2], patience=1)[1] == [1, 0.5, 0.25]


def test_a_schedule_of_its_own_keeps_its_rate():
    stopping, factors = watch([1, 2, 2, 2, 2], patience=2, halves=False)
    assert factors == [1] * 5
    assert stopping.waited == 4


def test_a_value_that_is_not_a_number_is_never_the_best():
    stopping, _ = watch([math.nan, math.inf], patience=2)
    assert (stopping.best, stopping.best_epoch, stopping.waited) == (math.inf, 0, 2)
