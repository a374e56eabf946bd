from intralb_gevent.policy.growth import GrowthTrial, Progress, Verdict


class Run:
    """A simulated pool; the test sets the rate and the queue wait of the pool's jobs."""

    def __init__(self) -> None:
        self.trial = GrowthTrial()
        self.now, self.ended, self.begun, self.waited = 0.0, 0.0, 0.0, 0.0

    def progress(self, service: float) -> Progress:
        return Progress(self.now, round(self.ended), round(self.begun), self.waited, service)

    def go(self, seconds: int, rate: float, wait: float, service: float = 0.05) -> Verdict:
        """Let jobs end at `rate` per second, after `wait` seconds; return the first verdict but "open", else "open"."""
        for _ in range(seconds):
            self.now += 1
            self.ended += rate
            self.begun += rate
            self.waited += rate * wait
            verdict = self.trial.verdict(self.progress(service))
            if verdict != "open":
                return verdict
        return "open"

    def grow(self) -> None:
        self.trial.begin(self.progress(0.05))


def after_growth(rate: float, wait: float, seconds: int = 20) -> Verdict:
    """Return the verdict on a growth that changes the rate and the wait of jobs from 100/s and 0.5 s to these."""
    run = Run()
    run.go(30, 100, 0.5)
    run.grow()
    return run.go(seconds, rate, wait)


def test_without_growth_there_is_nothing_to_judge() -> None:
    assert Run().go(100, 100, 0.5) == "open"


def test_more_jobs_in_the_same_time_are_a_help_and_so_is_a_shorter_wait() -> None:
    assert after_growth(106, 0.5) == "helped"
    assert after_growth(100, 0.39) == "helped"


def test_less_than_5_percent_more_jobs_and_20_percent_less_wait_are_none() -> None:
    assert after_growth(104, 0.41) == "useless"
    assert after_growth(104, 0.41, seconds=19) == "open"


def test_help_in_the_second_window_is_help() -> None:
    run = Run()
    run.go(30, 100, 0.5)
    run.grow()
    assert run.go(10, 100, 0.5) == "open"
    assert run.go(10, 150, 0.5) == "helped"


def test_each_growth_has_its_full_time_and_all_are_judged_by_what_was_before_the_first() -> None:
    run = Run()
    run.go(30, 100, 0.5)
    run.grow()
    assert run.go(9, 200, 0.5) == "open"
    run.grow()
    assert run.go(9, 200, 0.5) == "open"
    assert run.go(1, 200, 0.5) == "helped"


def test_where_nothing_moves_before_and_after_growth_is_useless() -> None:
    run = Run()
    run.go(30, 0, 0)
    run.grow()
    assert run.go(20, 0, 0) == "useless"


def test_that_jobs_have_their_turn_at_all_is_help() -> None:
    run = Run()
    run.go(30, 0, 0)
    run.grow()
    run.begun += 1
    run.waited += 30
    assert run.go(10, 0, 0) == "helped"


def test_jobs_that_run_longer_than_a_window_are_waited_for() -> None:
    run = Run()
    run.go(90, 1, 0, service=30)
    run.grow()
    assert run.go(30, 0, 0, service=30) == "open"
    assert run.go(30, 2, 0, service=30) == "helped"


def test_a_verdict_ends_the_trial() -> None:
    run = Run()
    run.go(30, 100, 0.5)
    run.grow()
    assert run.trial.open
    run.go(20, 100, 0.5)
    assert not run.trial.open
    assert repr(run.trial) == "<GrowthTrial none>"
