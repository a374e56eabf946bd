"""Options have the names and defaults that users rely on; invalid values cause errors."""

import contextlib
import dataclasses
import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import OptionError, Options, Route
from intralb_gevent.config.options import declarations

COUNTS = ["max_concurrent_per_router", "max_workers", "min_workers", "worker_group_size", "max_streams"]
SECONDS = [
    *("worker_quiet_seconds", "request_timeout_seconds", "graceful_timeout_seconds", "keep_alive_seconds"),
    *("max_request_timeout_seconds", "stream_timeout_seconds"),
]
FUNCTIONS = ["db_init_func", "db_reset_func", "db_close_func"]


def refusal(**values: object) -> str:
    with pytest.raises(OptionError) as caught:
        Options(**values)  # type: ignore[arg-type]
    return str(caught.value)


def test_names_and_defaults_of_intralb() -> None:
    options = Options()
    assert options.max_concurrent_per_router == 100
    assert options.queue_size == 100
    assert options.max_workers == 10
    assert options.worker_group_size == 3
    assert options.graceful_timeout_seconds == 5.0
    assert options.enable_logging is False
    assert options.db_init_func is None


@pytest.mark.parametrize("name", COUNTS)
@given(
    value=st.integers(max_value=0)
    | st.integers(min_value=10**9 + 1)
    | st.booleans()
    | st.floats()
    | st.text()
    | st.lists(st.integers())
)
def test_a_count_is_a_whole_number_from_one_to_a_billion(name: str, value: object) -> None:
    message = refusal(**{name: value})
    assert message == f"{name}: {value!r} is not allowed; it must be a whole number of at least 1 (1e9 at most)"


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1, 1.1e9, float("inf"), float("nan"), 10**400, True, "5"])
def test_seconds_are_a_finite_number_above_zero(name: str, value: object) -> None:
    assert (
        refusal(**{name: value})
        == f"{name}: {value!r} is not allowed; it must be a number of seconds, above 0 (1e9 at most)"
    )


def test_zero_where_it_means_none() -> None:
    options = Options(queue_size=0, drain_delay_seconds=0)
    assert (options.queue_size, options.drain_delay_seconds) == (0, 0.0)
    assert "at least 0" in refusal(queue_size=-1)
    assert "0 or more (1e9 at most)" in refusal(drain_delay_seconds=-0.1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_must_be_callable(name: str) -> None:
    assert getattr(Options(**{name: len}), name) is len
    assert refusal(**{name: "len"}) == f"{name}: 'len' is not allowed; it must be a callable (in text: MODULE:NAME)"


PEERS = ["10.0.0.0/8", "192.168.0.0/255.255.0.0", "127.0.0.1", "::1", "2001:db8::/32", "::ffff:10.0.0.1", "unix"]


@pytest.mark.parametrize("kind", [list, tuple])
def test_trusted_proxies_are_addresses_networks_and_unix(kind: type) -> None:
    assert Options().trusted_proxies == ()
    assert Options(trusted_proxies=kind(PEERS)).trusted_proxies == tuple(PEERS)


@pytest.mark.parametrize(
    "entry", ["proxy.example", "10.0.0", "10.0.0.0/33", "fe80::1%eth0", " ::1", "*", "Unix", "", 7, None]
)
def test_a_wrong_entry_among_the_trusted_proxies_is_named(entry: object) -> None:
    assert refusal(trusted_proxies=["127.0.0.1", entry, "nonsense"]) == (
        f"trusted_proxies: {entry!r} is not allowed; "
        "each entry must be an IP address, a network such as 10.0.0.0/8, or the word unix"
    )


def test_a_network_with_bits_beyond_its_prefix_is_refused_with_what_may_be_meant() -> None:
    assert refusal(trusted_proxies=("10.1.2.3/8",)) == (
        "trusted_proxies: '10.1.2.3/8' has bits beyond its prefix; write 10.0.0.0/8 or 10.1.2.3"
    )


@pytest.mark.parametrize("value", ["127.0.0.1", {"127.0.0.1"}, 7, None])
def test_trusted_proxies_are_a_list(value: object) -> None:
    assert refusal(trusted_proxies=value).startswith(
        f"trusted_proxies: {value!r} is not allowed; it must be IP addresses"
    )


def test_a_priority_header_needs_somebody_who_may_set_it() -> None:
    options = Options(priority_header="X-Class", trusted_proxies=["10.0.0.1"])
    assert options.priority_header == "X-Class"
    text = refusal(priority_header="X-Class")
    assert text.startswith("priority_header: 'X-Class' is not allowed alone")
    assert "trusted_proxies must name" in text
    for value in ("X_Class", "", "X Class", 5):
        assert f"priority_header: {value!r} is not allowed" in refusal(priority_header=value, trusted_proxies=["unix"])


def test_a_proxy_protocol_needs_somebody_who_may_speak_it() -> None:
    assert Options(proxy_protocol=True, trusted_proxies=["10.0.0.1"]).proxy_protocol is True
    assert "trusted_proxies must name" in refusal(proxy_protocol=True)


@pytest.mark.parametrize(("name", "value"), [("enable_logging", 1), ("log_format", "xml"), ("log_format", None)])
def test_other_values_are_refused_by_name(name: str, value: object) -> None:
    assert refusal(**{name: value}).startswith(f"{name}: {value!r} is not allowed; it must be ")


def test_none_is_allowed_only_where_it_is_the_default_or_means_off() -> None:
    for declaration in declarations():
        if declaration.default is None or declaration.name == "interrupt_signal":
            assert getattr(Options(**{declaration.name: None}), declaration.name) is None
        else:
            assert "None is not allowed" in refusal(**{declaration.name: None})


def test_a_signal_is_told_by_name_or_number_and_kept_as_a_number() -> None:
    first, last = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    texts = {
        "SIGRTMIN": first,
        "SIGRTMIN+5": first + 5,
        "rtmin+5": first + 5,
        "SIGRTMAX-1": last - 1,
        "RTMAX": last,
        str(last): last,
        "SIGUSR2": int(signal.SIGUSR2),
        "usr1": int(signal.SIGUSR1),
        str(int(signal.SIGURG)): int(signal.SIGURG),
    }
    for text, number in texts.items():
        for value in (text, number):
            assert Options(interrupt_signal=value).interrupt_signal == number  # type: ignore[arg-type]
    assert type(Options(interrupt_signal=signal.SIGUSR2).interrupt_signal) is int


def test_the_usual_signal_is_one_that_nothing_common_takes() -> None:
    assert Options().interrupt_signal == signal.SIGRTMIN + 12
    program = (
        "import signal; before = signal.getsignal(signal.SIGRTMIN + 12)\n"
        "import gevent.monkey; gevent.monkey.patch_all(); import flask, gunicorn, threading\n"
        "print(signal.getsignal(signal.SIGRTMIN + 12) is before)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"


@pytest.mark.parametrize("value", ["off", "OFF", None])
def test_a_signal_can_be_off(value: str | None) -> None:
    assert Options(interrupt_signal=value).interrupt_signal is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        *("SIGKILL", "SIGSTOP", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGSEGV", "SIGABRT", "SIGTRAP"),
        *(signal.SIGKILL, 9, 15, 0, -1, 32, 33, 65, 10**9, True, False, 38.0, "", "39.0", "SIG", "SIGRTMIN-1"),
        *("SIGRTMAX+1", "SIGRTMIN+31", "SIGRTMAX-31", "SIGRTMIN+999", "nothing", [38]),
    ],
)
def test_a_signal_that_means_something_else_is_refused(value: object) -> None:
    message = refusal(interrupt_signal=value)
    assert message.startswith(f"interrupt_signal: {value!r} is not allowed; it must be a real-time signal")
    assert "SIGUSR2" in message
    assert message.endswith("or off")


def test_an_allowed_signal_is_written_so_that_it_is_read_again() -> None:
    kind = next(declaration.kind for declaration in declarations() if declaration.name == "interrupt_signal")
    for number in range(-1, 70):
        with contextlib.suppress(OptionError):
            kept = Options(interrupt_signal=number).interrupt_signal
            assert kind.read("interrupt_signal", kind.write(kept)) == kept
    assert (kind.write(None), kind.write(signal.SIGRTMIN + 12)) == ("off", "SIGRTMIN+12")


def test_fewest_workers_are_not_more_than_most() -> None:
    assert Options(min_workers=4, max_workers=4).first_workers == 4
    assert refusal(min_workers=5, max_workers=4) == (
        "min_workers: 5 is not allowed; it must be at most max_workers, which is 4"
    )


@given(most=st.integers(1, 50), group=st.integers(1, 50))
def test_a_balancer_starts_with_one_group_or_fewer(most: int, group: int) -> None:
    assert Options(max_workers=most, worker_group_size=group).first_workers == min(most, group)


def test_the_deadline_is_30_seconds_or_the_graceful_timeout_if_more_unless_given() -> None:
    assert Options(graceful_timeout_seconds=7).deadline_seconds == 30.0
    assert Options(graceful_timeout_seconds=70).deadline_seconds == 70.0
    assert Options(graceful_timeout_seconds=7, request_timeout_seconds=2).deadline_seconds == 2.0


def test_options_cannot_be_changed_nor_given_by_position() -> None:
    with pytest.raises(FrozenInstanceError):
        Options().queue_size = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Options(5)  # type: ignore[misc]
    with pytest.raises(TypeError, match="queue_sise"):
        Options(queue_sise=5)  # type: ignore[call-arg]


def test_seconds_are_kept_as_floats() -> None:
    assert isinstance(Options(graceful_timeout_seconds=5).graceful_timeout_seconds, float)


def test_every_declaration_is_complete_and_its_default_is_allowed() -> None:
    for declaration in declarations():
        assert declaration.help.endswith("."), declaration.name
        assert declaration.group
        assert declaration.check(declaration.default) == declaration.default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("queue_size", "7", 7),
        ("keep_alive_seconds", "1.5", 1.5),
        ("enable_logging", "Yes", True),
        ("enable_logging", "off", False),
        ("log_format", "json", "json"),
        ("interrupt_signal", "SIGUSR2", int(signal.SIGUSR2)),
        ("routes", "/a stream_timeout_seconds=3", (Route("/a", stream_timeout_seconds=3),)),
        ("routes", "", ()),
        ("db_init_func", "builtins:len", len),
        ("trusted_proxies", "10.0.0.0/8,::1 , unix", ("10.0.0.0/8", "::1", "unix")),
        ("trusted_proxies", " ", ()),
    ],
)
def test_values_are_read_from_text(name: str, text: str, value: object) -> None:
    kind = next(declaration.kind for declaration in declarations() if declaration.name == name)
    assert kind.read(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("queue_size", "7.5", "'7.5' is not allowed"),
        ("queue_size", "-7", "-7 is not allowed"),
        ("keep_alive_seconds", "nan", "nan is not allowed"),
        ("enable_logging", "maybe", "'maybe' is not allowed"),
        ("trusted_proxies", "127.0.0.1, nginx", "'nginx' is not allowed; each entry must be an IP address"),
        ("trusted_proxies", "127.0.0.1,", "'' is not allowed; each entry must be an IP address"),
        ("db_init_func", "len", "write MODULE:NAME"),
        ("db_init_func", "nowhere:len", "there is no module 'nowhere'"),
    ],
)
def test_wrong_text_is_refused_by_name(name: str, text: str, complaint: str) -> None:
    kind = next(declaration.kind for declaration in declarations() if declaration.name == name)
    with pytest.raises(OptionError) as caught:
        kind.read(name, text)
    assert str(caught.value).startswith(f"{name}: ")
    assert complaint in str(caught.value)


def test_a_subclass_may_have_fields_of_its_own() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Shop(Options):
        currency: str = "EUR"

    assert Shop(queue_size=5).currency == "EUR"
    with pytest.raises(OptionError, match="queue_size"):
        Shop(queue_size=-1)
