"""References such as MODULE:NAME resolve to objects; invalid references cause clear errors."""

import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator

import pytest

from intralb_gevent.config.importer import load_application, load_callable
from intralb_gevent.errors import LoadError

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Return a function that writes source text to a module with a unique name, and returns this name."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(text: str) -> str:
        name = f"written_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("written_"):
            del sys.modules[name]


def complaint(reference: str, load: Callable[[str], object] = load_application) -> str:
    with pytest.raises(LoadError) as caught:
        load(reference)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WSGI = "def app(environ, start_response): return [b'here']\n"


def test_a_name_in_a_module(module: Callable[[str], str]) -> None:
    assert load_application(module(WSGI) + ":app")({}, None) == [b"here"]


def test_a_factory_with_literals(module: Callable[[str], str]) -> None:
    name = module("def make(*a, **k): return lambda environ, start_response: [repr((a, k)).encode()]\n")
    made = load_application(f"{name}:make('a:b', [1], debug=False)")
    assert made({}, None) == [b"(('a:b', [1]), {'debug': False})"]
    for call in ("(name)", "(*a)", "(**k)", "(1)(2)"):
        assert "does not call a factory with literals" in complaint(f"{name}:make{call}")


def test_a_name_inside_an_object(module: Callable[[str], str]) -> None:
    name = module("class Holder:\n    @staticmethod\n    def app(environ, start_response): return [b'held']\n")
    assert load_application(f"{name}:Holder.app")({}, None) == [b"held"]


def test_a_module_whose_name_python_could_not_write(module: Callable[[str], str], tmp_path: pathlib.Path) -> None:
    (tmp_path / "written-shop.py").write_text(WSGI)
    assert load_application("written-shop:app")({}, None) == [b"here"]


def test_a_module_in_a_package() -> None:
    import os.path

    assert load_callable("os.path:join") is os.path.join


def test_a_factory_is_called(module: Callable[[str], str]) -> None:
    name = module(WSGI + "def create_app(config=None): return app\n")
    assert load_application(f"{name}:create_app()")({}, None) == [b"here"]


@pytest.mark.parametrize(
    "text",
    [
        "class App:\n    def __call__(self, environ, start_response): ...\napp = App()\n",
        "class app:\n    def __init__(self, environ, start_response): ...\n",
        "def app(*arguments): ...\n",
        "def app(environ, start_response, extra=None): ...\n",
        "import functools\napp = functools.partial(lambda config, environ, start_response: [], {})\n",
        "app = dict.update\n",
        "from werkzeug import Request, Response\n@Request.application\ndef app(request): return Response('here')\n",
    ],
    ids=["instance", "class", "star", "default", "partial", "C", "decorated"],
)
def test_whatever_can_be_called_with_two_is_an_application(module: Callable[[str], str], text: str) -> None:
    assert callable(load_application(module(text) + ":app"))


@pytest.mark.parametrize("reference", ["app", "app:", ":app", "app.app", "./app:app", ""])
def test_a_reference_that_is_not_written_as_one(reference: str) -> None:
    assert complaint(reference) == f"{reference!r} does not name an object; write MODULE:NAME or MODULE:FACTORY()"


def test_a_module_that_is_not_there() -> None:
    assert complaint("nowhere.at.all:app").startswith("there is no module 'nowhere'; ")


def test_a_file_name_for_a_module(module: Callable[[str], str]) -> None:
    name = module(WSGI)
    assert complaint(f"{name}.py:app") == f"there is no module '{name}.py'; leave out the .py"


def test_a_module_that_lacks_what_it_needs(module: Callable[[str], str], tmp_path: pathlib.Path) -> None:
    name = module("\nimport nowhere\n")
    assert complaint(f"{name}:app") == (
        f"importing '{name}' failed: ModuleNotFoundError: No module named 'nowhere' "
        f"({tmp_path / name}.py:2); install what it needs"
    )


def test_an_error_is_told_with_the_line_of_the_user_and_not_of_the_library(
    module: Callable[[str], str], tmp_path: pathlib.Path
) -> None:
    name = module("import os\n\nos.environ['NOT_SET_ANYWHERE']\n")
    assert complaint(f"{name}:app") == (
        f"importing '{name}' failed: KeyError: 'NOT_SET_ANYWHERE' ({tmp_path / name}.py:3)"
    )


@pytest.mark.parametrize(
    ("text", "told", "line"),
    [
        ("\ndef app(:\n", "SyntaxError: invalid syntax", 2),
        ("raise RuntimeError('first\\n  second')", "RuntimeError: first second", 1),
        ("raise ValueError", "ValueError", 1),
        ("import sys\nsys.exit('set DATABASE_URL')", "SystemExit: set DATABASE_URL", 2),
    ],
)
def test_errors_of_any_kind_fit_one_line(
    module: Callable[[str], str], tmp_path: pathlib.Path, text: str, told: str, line: int
) -> None:
    name = module(text)
    assert complaint(f"{name}:app") == f"importing '{name}' failed: {told} ({tmp_path / name}.py:{line})"


def test_the_exception_itself_is_the_cause(module: Callable[[str], str]) -> None:
    with pytest.raises(LoadError) as caught:
        load_callable(module("raise LookupError('here')") + ":app")
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_name_that_is_not_there(module: Callable[[str], str]) -> None:
    name = module(WSGI)
    assert complaint(f"{name}:ap") == f"module '{name}' has no 'ap'; did you mean 'app'?"
    assert complaint(f"{name}:zzz") == f"module '{name}' has no 'zzz'; name its application, as {name}:NAME"


def test_a_name_whose_lookup_fails_in_code_of_its_own(module: Callable[[str], str], tmp_path: pathlib.Path) -> None:
    name = module("def __getattr__(name): raise ImportError('install the extra')\n")
    assert complaint(f"{name}:app") == (
        f"looking up 'app' in module '{name}' failed: ImportError: install the extra ({tmp_path / name}.py:1)"
    )


def test_a_thing_that_cannot_be_called(module: Callable[[str], str]) -> None:
    name = module("number = 3\nnothing = None\n")
    assert complaint(f"{name}:number") == f"'{name}:number' is of type int, which cannot be called; name a callable"
    assert complaint(f"{name}:nothing").startswith(f"'{name}:nothing' is None, ")
    assert complaint(f"{name}:number()") == f"'{name}:number()' cannot be called; leave out the ()"


def test_a_factory_that_fails(module: Callable[[str], str], tmp_path: pathlib.Path) -> None:
    name = module("def create_app():\n    raise OSError('no disk')\n")
    told = f"calling '{name}:create_app()' failed: OSError: no disk ({tmp_path / name}.py:2)"
    assert complaint(f"{name}:create_app()") == told


def test_a_factory_that_returns_nothing(module: Callable[[str], str]) -> None:
    name = module("def create_app(): pass\n")
    assert complaint(f"{name}:create_app()").startswith(f"'{name}:create_app()' returned None, ")


def test_a_factory_in_place_of_its_application(module: Callable[[str], str]) -> None:
    name = module("def create_app(config=None): ...\n")
    assert complaint(f"{name}:create_app").endswith(f"; write {name}:create_app() if it makes the application")


def test_a_callable_that_takes_something_else(module: Callable[[str], str]) -> None:
    name = module("def app(one, two, three): ...\n")
    assert "does not take (environ, start_response)" in complaint(f"{name}:app")


@pytest.mark.parametrize(
    "text",
    [
        "async def app(scope, receive, send): ...\n",
        "class App:\n    async def __call__(self, scope, receive, send): ...\napp = App()\n",
        "def app(scope, receive, send): ...\n",
    ],
    ids=["function", "instance", "by its arguments"],
)
def test_an_asgi_application_is_called_one(module: Callable[[str], str], text: str) -> None:
    name = module(text)
    told = complaint(f"{name}:app")
    assert told.startswith(f"'{name}:app' is an ASGI application and this server speaks WSGI; ")


def test_a_function_for_sessions_may_take_what_it_likes(module: Callable[[str], str]) -> None:
    name = module("def connect(worker_id): return worker_id\n")
    assert load_callable(f"{name}:connect")(4) == 4
