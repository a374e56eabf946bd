"""Every source of settings can set every field, sources have the right precedence, and each value's source is shown."""

import os
import pathlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import OptionError, Options, Route
from intralb_gevent.config import sources
from intralb_gevent.config.options import Declaration
from intralb_gevent.config.route import route_declarations

DECLARATIONS = sources.all_declarations()
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

# For each kind of field, three values, each written as text and as in a settings file.
SAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "NUMBER": (("4", "4"), ("5", "5"), ("6", "6")),
    "SECONDS": (("1.5", "1.5"), ("2", "2"), ("3.25", "3.25")),
    "SECONDS|off": (("0.5", "0.5"), ("off", '"off"'), ("3", "3.0")),
    "true|false": (("true", "true"), ("no", "false"), ("1", "true")),
    "text|json|combined": (("json", '"json"'), ("text", '"text"'), ("combined", '"combined"')),
    "debug|info|warning|error|critical": (("error", '"error"'), ("debug", '"debug"'), ("info", '"info"')),
    "required|optional": (("optional", '"optional"'), ("required", '"required"'), ("optional", '"optional"')),
    "ADDRESS,...": (("10.0.0.0/8, unix", '["10.0.0.0/8", "unix"]'), ("::1", '["::1"]'), ("::1, unix", '"::1,unix"')),
    "SIGNAL": (("sigusr2", '"SIGUSR2"'), ("off", '"off"'), ("SIGRTMIN+3", '"RTMIN+3"')),
    "ROUTE": (
        (
            "/ü/* request_timeout_seconds=120; /b stream_timeout_seconds=5",
            '[{path = "/ü/*", request_timeout_seconds = 120}, {path = "/b", stream_timeout_seconds = 5}]',
        ),
        ("/a", '[{path = "/a"}]'),
        ("/a request_timeout_seconds=1.5", '"/a request_timeout_seconds=1.5"'),
    ),
    "ADDRESS": (
        ("127.0.0.1:9000", '"127.0.0.1:9000"'),
        ("unix:/run/x.sock", '"unix:/run/x.sock"'),
        (":80", '"0.0.0.0:80"'),
    ),
    "MODE": (("660", '"660"'), ("007", '"0o7"'), ("22", '"022"')),
    "FILE": (("a.pem", '"a.pem"'), ("/b", '"/b"'), ("c d", '"c d"')),
    "DIRECTORY": (("/srv", '"/srv"'), (".", '"."'), ("a/b", '"a/b"')),
    "USER": (("nobody", '"nobody"'), ("1000", "1000"), ("x", '"x"')),
    "GROUP": (("nogroup", '"nogroup"'), ("1000", "1000"), ("x", '"x"')),
    "MODULE:APP": (("shop:app", '"shop:app"'), ("shop", '"shop"'), ("a.b:make()", '"a.b:make()"')),
    "PATH": (("/app", '"/app"'), ("/a/b", '"/a/b"'), ("/x.y", '"/x.y"')),
    "NAME|MODULE:NAME": (("fixed", '"fixed"'), ("hub_lag", '"hub_lag"'), ("math:sin", '"math:sin"')),
    "address|HEADER|off|MODULE:NAME": (("X-Key", '"X-Key"'), ("off", '"off"'), ("math:sin", '"math:sin"')),
    "HEADER": (("X-Class", '"X-Class"'), ("priority", '"priority"'), ("X-P", '"X-P"')),
    "NUMBER|auto": (("4", "4"), ("auto", '"auto"'), ("2", '"2"')),
    "TARGET": (
        ("otlp", '"otlp"'),
        ("statsd://a:8125", '"statsd://a:8125"'),
        ("dogstatsd://[::1]:1", '"dogstatsd://[::1]:1"'),
    ),
    "SIZE": (("512M", '"512M"'), ("1G", '"1G"'), ("4096", "4096")),
    "MODULE:NAME": (("builtins:len", '"builtins:len"'), ("math:sin", '"math:sin"'), ("math:cos", '"math:cos"')),
}

# Settings that some settings require.
NEEDS = {
    **{name: {"trusted_proxies": "127.0.0.1"} for name in ("proxy_protocol", "priority_header")},
    **{name: {"certfile": "server.pem"} for name in ("keyfile", "ca_certs")},
    "cert_reqs": {"certfile": "server.pem", "ca_certs": "authority.pem"},
}


@pytest.fixture
def file(tmp_path: pathlib.Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "intralb.toml"
        path.write_text(text)
        return str(path)

    return write


def refusal(*given: object) -> str:
    with pytest.raises(OptionError) as caught:
        sources.load(*given)  # type: ignore[arg-type]
    return str(caught.value)


def value_of(declaration: Declaration, text: str) -> object:
    return declaration.kind.read(declaration.name, text)


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda declaration: declaration.name)
def test_a_flag_counts_before_a_variable_and_a_variable_before_the_file(
    declaration: Declaration, file: Callable[[str], str]
) -> None:
    name = declaration.name
    (flag_text, _), (variable_text, _), (file_text, in_file) = SAMPLES[declaration.kind.placeholder]
    flags, environ, path = {name: flag_text}, {sources.variable(name): variable_text}, file(f"{name} = {in_file}\n")
    for places, text, source in [
        ((flags, environ, path), flag_text, sources.flag(name)),
        (({}, environ, path), variable_text, sources.variable(name)),
        (({}, {}, path), file_text, path),
    ]:
        loaded = sources.load(*places, defaults=NEEDS.get(name))
        assert loaded.value(name) == value_of(declaration, text)
        assert loaded.source(name) == source


def test_with_nothing_given_the_defaults_hold() -> None:
    loaded = sources.load({}, {})
    assert loaded.options == Options()
    assert {loaded.source(declaration.name) for declaration in DECLARATIONS} == {"default"}


def test_the_defaults_of_a_command_count_before_those_of_the_field_only(file: Callable[[str], str]) -> None:
    defaults = {"queue_size": "7", "enable_logging": True}
    loaded = sources.load({}, {}, file("queue_size = 8\n"), defaults)
    assert (loaded.options.queue_size, loaded.options.enable_logging) == (8, True)
    assert loaded.source("enable_logging") == "default of this command"


def test_an_empty_list_takes_away_what_the_file_says(file: Callable[[str], str]) -> None:
    path = file('trusted_proxies = ["10.0.0.0/8"]\n')
    assert sources.load({"trusted_proxies": ""}, {}, path).options.trusted_proxies == ()
    assert "trusted_proxies = []" in sources.load({}, {}, file("trusted_proxies = []\n")).show()


def test_a_wrong_entry_of_a_list_is_told_with_its_source(file: Callable[[str], str]) -> None:
    allowed = "each entry must be an IP address, a network such as 10.0.0.0/8, or the word unix"
    said = f"trusted_proxies: 'nginx' is not allowed; {allowed} (from "
    assert refusal({"trusted_proxies": "::1, nginx"}, {}) == f"{said}--trusted-proxies)"
    path = file('trusted_proxies = ["::1", "nginx"]\n')
    assert refusal({}, {}, path) == f"{said}{path})"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert sources.load({}, {"INTRALB_QUEUE_SIZE": ""}).options == Options()


def test_a_value_that_does_not_count_is_not_looked_at(file: Callable[[str], str]) -> None:
    path = file('db_init_func = "nowhere:connect"\n')
    assert sources.load({"db_init_func": "math:sin"}, {}, path).source("db_init_func") == "--db-init-func"


def test_a_wrong_value_is_told_with_its_source(file: Callable[[str], str]) -> None:
    allowed = "it must be a whole number of at least 0 (1e9 at most)"
    assert refusal({"queue_size": "many"}, {}) == f"queue_size: 'many' is not allowed; {allowed} (from --queue-size)"
    assert refusal({}, {"INTRALB_QUEUE_SIZE": "-1"}) == (
        f"queue_size: -1 is not allowed; {allowed} (from INTRALB_QUEUE_SIZE)"
    )
    path = file("queue_size = 1.5\n")
    assert refusal({}, {}, path) == f"queue_size: 1.5 is not allowed; {allowed} (from {path})"


@pytest.mark.parametrize(
    "line",
    [
        'queue_size = "7"',
        'enable_logging = "yes"',
        "log_format = true",
        "db_init_func = 3",
        "max_workers = []",
        "trusted_proxies = true",
        "trusted_proxies = [7]",
    ],
)
def test_a_file_has_types_and_they_must_fit(file: Callable[[str], str], line: str) -> None:
    name = line.partition(" ")[0]
    assert refusal({}, {}, file(line)).startswith(f"{name}: ")


def test_a_key_that_is_no_setting_is_refused(file: Callable[[str], str]) -> None:
    path = file("queue_sise = 7\n")
    assert refusal({}, {}, path) == f"{path}: 'queue_sise' is not a setting; did you mean queue_size?"
    assert refusal({}, {}, file("colour = 7\n")) == f"{path}: 'colour' is not a setting"


def test_routes_are_tables_of_a_file(file: Callable[[str], str]) -> None:
    path = file(
        "queue_size = 7\n[[routes]]\npath = '/a b;c'\nrequest_timeout_seconds = 120\n"
        "[[routes]]\npath = '/b/*'\nstream_timeout_seconds = 0.5\n"
    )
    assert sources.load({}, {}, path).options.routes == (
        Route("/a b;c", request_timeout_seconds=120),
        Route("/b/*", stream_timeout_seconds=0.5),
    )


def test_a_wrong_route_is_told_with_its_source(file: Callable[[str], str]) -> None:
    said = (
        "routes: '/a': request_timeout_seconds: 0 is not allowed; it must be a number of seconds, above 0 (1e9 at most)"
    )
    path = file("[[routes]]\npath = '/a'\nrequest_timeout_seconds = 0\n")
    assert refusal({}, {}, path) == f"{said} (from {path})"
    said = said.replace(" 0 ", " 'x' ", 1)
    assert refusal({"routes": "/a request_timeout_seconds=x"}, {}) == f"{said} (from --routes)"
    path = file("[[routes]]\npath = '/a'\nquickly = 5\n")
    assert refusal({}, {}, path) == f"routes: '/a': 'quickly' is not a setting of a route (from {path})"
    assert refusal({}, {}, file("[routes]\npath = '/a'\n")).startswith("routes: {'path': '/a'} is not allowed")


def test_what_is_off_is_shown_and_stays_off(file: Callable[[str], str]) -> None:
    loaded = sources.load({"interrupt_signal": "off"}, {})
    assert 'interrupt_signal = "off"' in loaded.show()
    assert sources.load({}, {}, file(loaded.show())).options.interrupt_signal is None


PATHS = st.text(st.characters(exclude_characters="*?#"), max_size=8).filter(str.isprintable).map("/{}".format)
ROUTES = st.lists(
    st.builds(
        Route,
        PATHS,
        request_timeout_seconds=st.none() | st.floats(1e-3, 1e6),
        stream_timeout_seconds=st.none() | st.floats(1e-3, 1e6),
    ),
    max_size=4,
    unique_by=lambda route: route.path,
)


@given(ROUTES)
def test_routes_of_any_path_are_shown_as_toml(tmp_path_factory: pytest.TempPathFactory, routes: list[Route]) -> None:
    shown = sources.Settings(Options(routes=routes), {}).show()  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("shown") / "intralb.toml"
    path.write_text(shown, encoding="utf-8")
    assert sources.load({}, {}, str(path)).options.routes == tuple(routes)


def test_a_table_is_refused(file: Callable[[str], str]) -> None:
    path = file("[intralb]\nqueue_size = 7\n")
    assert refusal({}, {}, path) == f"{path}: [intralb] is a table; write the settings at the top level"


def test_a_file_that_cannot_be_read(tmp_path: pathlib.Path, file: Callable[[str], str]) -> None:
    assert "No such file" in refusal({}, {}, str(tmp_path / "nothing.toml"))
    assert "Is a directory" in refusal({}, {}, str(tmp_path))
    path = file("queue_size 7\n")
    assert refusal({}, {}, path).startswith(f"{path} is not a TOML file: ")
    (tmp_path / "latin.toml").write_bytes(b'log_format = "\xe4"\n')
    assert "is not a TOML file" in refusal({}, {}, str(tmp_path / "latin.toml"))


def test_the_line_of_a_number_with_too_many_digits_is_named(file: Callable[[str], str]) -> None:
    path = file(f"queue_size = 10\nmax_workers = {'1' * 5001}\n")
    assert refusal({}, {}, path) == f"{path}: the number in line 2 is too long"


def test_the_line_of_such_a_number_is_named_if_the_file_is_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"queue_size = 10\nmax_workers = " + b"1" * 5001)
    os.close(writer)
    path = f"/dev/fd/{reader}"
    assert refusal({}, {}, path) == f"{path}: the number in line 2 is too long"
    os.close(reader)


def test_a_device_without_an_end_and_values_without_an_end_are_refused(file: Callable[[str], str]) -> None:
    assert refusal({}, {}, "/dev/zero") == "cannot read the settings file '/dev/zero': File too large"
    path = file(f"routes = {'[' * 50_000}")
    assert refusal({}, {}, path) == f"{path} is not a settings file: its values are nested too deeply"


@pytest.mark.parametrize("written", ["queue_size = {}", "trusted_proxies = [{}]", "bind = [{}]"])
def test_a_number_that_is_too_long_to_show_is_refused(file: Callable[[str], str], written: str) -> None:
    path = file(written.format(f"0x{'f' * 5000}\n"))
    name = written.partition(" ")[0]
    assert refusal({}, {}, path).startswith(f"{name}: a number that is too long to show is not allowed; it must be ")


def test_variables_that_are_no_setting_are_told_and_have_no_effect() -> None:
    environ = {"INTRALB_QUEU_SIZE": "7", "INTRALB_SERVICE_HOST": "x", "INTRALB_DEMO_DATABASE": "x", "HOME": "/"}
    assert sources.load({}, environ).options == Options()
    assert sources.unknown_variables(environ) == [
        "INTRALB_QUEU_SIZE is not a setting and has no effect; did you mean INTRALB_QUEUE_SIZE?",
        "INTRALB_SERVICE_HOST is not a setting and has no effect",
    ]


def test_what_is_shown_is_a_settings_file_of_the_same_settings(file: Callable[[str], str]) -> None:
    flags = {
        declaration.name: SAMPLES[declaration.kind.placeholder][0][0]
        for declaration in DECLARATIONS
        if declaration.name != "queue_size"
    }
    loaded = sources.load(flags, {})
    again = sources.load({}, {}, file(loaded.show()))
    assert (again.options, again.processes) == (loaded.options, loaded.processes)


def test_what_is_shown_names_every_setting_and_its_source() -> None:
    shown = sources.load({"queue_size": "7"}, {"INTRALB_LOG_FORMAT": "json"}).show()
    lines = {line.replace("# ", "", 1).split()[0]: line for line in shown.splitlines()}
    assert [*lines] == [declaration.name for declaration in DECLARATIONS]
    assert lines["queue_size"].split() == ["queue_size", "=", "7", "#", "--queue-size"]
    assert lines["log_format"].split() == ["log_format", "=", '"json"', "#", "INTRALB_LOG_FORMAT"]
    assert lines["db_init_func"].split(" #")[0].strip() == "# db_init_func is not set"


def test_derived_defaults_are_shown_as_they_work_out() -> None:
    shown = sources.load({"graceful_timeout_seconds": "90", "max_workers": "2"}, {}).show()
    assert "request_timeout_seconds = 90.0" in shown
    assert "min_workers = 2" in shown


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == sources.document(), f"run: python -m intralb_gevent.config.sources > {PAGE}"


def test_the_page_names_each_setting_in_all_its_forms() -> None:
    page = sources.document()
    for declaration in DECLARATIONS:
        assert f"| `{declaration.name}` | `{sources.flag(declaration.name)}` |" in page
        assert f"`{sources.variable(declaration.name)}`" in page
    for declaration in route_declarations():
        assert f"| `{declaration.name}` | {declaration.kind.allowed} |" in page
