"""Whether to fine-tune, in a sentence for each fine-tuned run."""

from collections.abc import Sequence

from featx.evaluation.pairs import SIGNIFICANCE, Paired
from featx.training.standings import FROZEN, Standing
from featx.wording import format_seconds

_LEAST_SECONDS = 1e-3

#: From here on, a digit behind the point says nothing.
_WHOLE_RATIO = 10


def describe_gains(standings: Sequence[Standing], test_name: str) -> tuple[str, ...]:
    """Say of each fine-tuned run what it gains over the frozen head that validation ranks first, and for what time.

    A gain is called one only if the paired test shows it, by the p-value that is adjusted for all
    differences of the comparison.

    Args:
        standings: All of a comparison, in its order.
        test_name: The split that was reported on.
    """
    frozen = [one for one in standings if one.kind == FROZEN and one.test is not None][:1]
    several = len({one.store for one in standings if one.run is None}) > 1
    return tuple(
        _describe_gain(tuned, tuned.gain, best, f"{best.title} on {best.store}" if several else best.title, test_name)
        for best in frozen
        for tuned in standings
        if tuned.gain is not None
    )


def _describe_gain(tuned: Standing, gain: Paired, frozen: Standing, against: str, test_name: str) -> str:
    time, of = _describe_time(tuned, frozen), _name(tuned, frozen)
    p_value = gain.p_value if tuned.gain_p_value is None else tuned.gain_p_value
    if p_value >= SIGNIFICANCE:
        point = f"{_sign(gain.difference)} points ({_sign(gain.low)} to {_sign(gain.high)}) to {against}"
        # The interval is of this difference alone, and so may exclude 0 where the table as a whole shows nothing.
        alone = "" if gain.low <= 0 <= gain.high else f", p {p_value:.2f} among all differences of the table"
        return f"no difference that {_count(gain, test_name)} could show: {of} is at {point}{alone}, {time}"
    if gain.difference > 0:
        return f"{of} gains {_range(gain.difference, gain.low, gain.high)} over {against}, {time}"
    return f"{of} loses {_range(-gain.difference, -gain.high, -gain.low)} against {against}, {time}"


def _name(tuned: Standing, frozen: Standing) -> str:
    """Name the plan, and the backbone where that is another one."""
    plan = tuned.title.removeprefix("finetune ")
    return f"fine-tuning ({plan}{'' if tuned.store == frozen.store else f' of {tuned.store}'})"


def _describe_time(tuned: Standing, frozen: Standing) -> str:
    """Tell both times: each of everything, where both the run and the store tell what embedding took."""
    if tuned.fit_seconds is None or frozen.fit_seconds is None:
        return "in a time that is not recorded"
    whole, fitting = format_seconds(tuned.fit_seconds), format_seconds(frozen.fit_seconds)
    if frozen.embed_seconds is None or tuned.embed_seconds is None:
        which = "store" if frozen.embed_seconds is None else "run"
        return f"in {whole} all told, beside {fitting} of fitting (the {which} does not tell how long embedding took)"
    least = max(frozen.embed_seconds + frozen.fit_seconds, _LEAST_SECONDS)
    times = tuned.fit_seconds / least
    ratio = f"{times:,.0f}" if times >= _WHOLE_RATIO else f"{times:.1f}"
    return f"for {ratio} times the time ({whole}, embedding included, against {format_seconds(least)})"


def _count(gain: Paired, test_name: str) -> str:
    groups = f" in {gain.n_units:,} groups" if gain.n_units < gain.n_items else ""
    return f"{gain.n_items:,} {test_name} images{groups}"


def _range(*shares: float) -> str:
    point, low, high = (f"{100 * share:.1f}" for share in shares)
    return f"{point} points ({low} to {high})"


def _sign(share: float) -> str:
    return f"{100 * share:+.1f}"
