"""What a run has shown, in words, and whether anything happened that must not, however much arrives.

Decides which sentences there are, and what must hold. How useful the server stayed is told and not required: that
depends on the machine. It must not know how the figures came about or who reads the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..charts import as_count, as_duration
from ..verdict import Check
from ..watch import Watch
from .load import CLASSES
from .phases import Phase, Phases
from .seen import GIVEN_UP, LATE, REFUSED, USEFUL, Seen

__all__ = ["Verdict", "verdict"]

_STAYED: Final = 0.9
"""The share of what can be done from which on a server has stayed useful."""
_COLLAPSED: Final = 0.5
_LATE_MILLISECONDS: Final = 50.0
"""If locust sends later than that, its figures are not of the server alone."""
_CLEARLY: Final = 0.1
"""By how much more of the critical than of the sheddable is useful where classes are told apart."""


@dataclass(frozen=True)
class Verdict:
    """A headline, what it rests on, and what must hold."""

    headline: str
    style: str
    """Of the headline's box: nothing, "partly" or "failed"."""
    sentences: Sequence[str]
    warnings: Sequence[str]
    """What the figures do not show, for locust was not up to it."""
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """Whether everything holds that must."""
        return all(check.passed for check in self.checks)


def verdict(phases: Phases, seen: Seen, watch: Watch, capacity: float, locust_code: int) -> Verdict:
    """Return what a run has shown, of a server that can do `capacity` requests per second."""
    checks = [*_checks(seen, watch), *_ends(seen, watch, locust_code)]
    headline, style = _headline(phases.spike, capacity)
    return Verdict(
        headline,
        style if all(check.passed for check in checks) else "failed",
        [*_story(phases, capacity), _classes(phases.spike)],
        [*_warnings(phases, seen)],
        checks,
    )


def _headline(spike: Phase, capacity: float) -> tuple[str, str]:
    if not spike.seconds:
        return "There was no spike: locust never had all its users", "partly"
    share = spike.rate(spike.total.counts[USEFUL]) / (min(capacity, spike.rate(spike.total.sent)) or capacity)
    # As the report writes it, so that the words do not contradict it.
    if round(share, 2) >= _STAYED:
        return "It stayed useful", ""
    return ("It collapsed", "failed") if share < _COLLAPSED else ("It lost a part of its usefulness", "partly")


def _story(phases: Phases, capacity: float) -> Iterator[str]:
    for phase in phases.all:
        if phase.seconds:
            yield _of_phase(phase, capacity)
    if phases.recovered_after is not None:
        later = phases.recovered_after or "less than 1"
        yield f"Nearly everything was answered in time again {later} s after the spike."
    elif phases.after.seconds:
        yield "After the spike there was no second in which nearly everything was answered in time."


def _of_phase(phase: Phase, capacity: float) -> str:
    total, p99 = phase.total, phase.total.admitted.quantile(0.99)
    sent = phase.rate(total.sent)
    came = f"{as_count(sent)} requests came per second ({sent / capacity:.1f} times what the server can do)"
    kinds = {USEFUL: "answered in time", LATE: "answered too late", REFUSED: "refused", GIVEN_UP: "given up"}
    rates = {words: phase.rate(total.counts[kind]) for kind, words in kinds.items() if total.counts[kind]}
    told = ", ".join(f"{as_count(rate)} were {words}" for words, rate in rates.items())
    slow = f"; the p99 of what was admitted was {as_duration(p99)}" if p99 is not None else ""
    return f"{phase.name.capitalize()}, {came}: {told or 'none was answered'}{slow}."


def _classes(spike: Phase) -> str:
    if not spike.seconds:
        return "What became of the classes in a spike cannot be told."
    shares = {name: spike.classes[name].useful_share for name in CLASSES}
    told = ", ".join(f"{share:.0%} of the {name}" for name, share in shares.items())
    if shares["critical"] - shares["sheddable"] > _CLEARLY:
        return f"In the spike {told} were answered in time: the server preferred those that matter."
    return f"In the spike {told} were answered in time: the server made no difference between them."


def _warnings(phases: Phases, seen: Seen) -> Iterator[str]:
    if phases.before.total.useful_share < _STAYED:
        yield (
            "Even before the spike not everything was answered in time: something else was at work on this machine, or "
            "the server can do less than --capacity says. Nothing here is of the server alone."
        )
    late = phases.spike.total.sent_late.quantile(0.99)
    if late is not None and late > _LATE_MILLISECONDS:
        yield f"In the spike locust sent late ({as_duration(late)} at its p99): the server may be better than it looks."
    if seen.saturated:
        yield "Locust ran short of CPU itself: the server may be better than it looks."


def _checks(seen: Seen, watch: Watch) -> Iterator[Check]:
    total = seen.total
    errors = total.errors
    told = ": " + ", ".join(f"{count:,} with {name}" for name, count in errors.most_common()) if errors else ""
    yield Check(bool(total.sent), f"{total.sent:,} requests were sent.")
    yield Check(not errors, f"{errors.total():,} ended as none should, however much arrives{told}.")
    answers = total.sent - seen.failures
    more = "; the users of the others had left" if watch.ended > answers else ""
    sentence = f"The users had {answers:,} answers, and the server ended {watch.ended:,} jobs{more}."
    yield Check(watch.ended >= answers, sentence)


def _ends(seen: Seen, watch: Watch, locust_code: int) -> Iterator[Check]:
    if locust_code and not seen.failures:
        yield Check(False, f"Locust ended with exit code {locust_code}, though no request failed.")
    if watch.exit_code is not None:
        how = "with nothing cut" if watch.exit_code == 0 else "which means that it was not a clean shutdown"
        yield Check(watch.exit_code == 0, f"The server shut down with exit code {watch.exit_code}, {how}.")
