"""Tests of finding the application of a project by the names that Flask and Django projects use."""

from __future__ import annotations

import pathlib

import pytest

from intralb_gevent.cli.discovery import find_application
from intralb_gevent.errors import LoadError

FLASK = "from flask import Flask\n"
DJANGO = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"


@pytest.fixture
def project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return the current directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(directory: pathlib.Path, **files: str) -> None:
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "reference", "where"),
    [
        ({"app": f"{FLASK}app = Flask(__name__)\n"}, "app:app", "app.py"),
        ({"app": "application = make()\n"}, "app:application", "app.py"),
        ({"app": "def create_app(): ...\n"}, "app:create_app()", "app.py"),
        ({"app": "from shop import create_app\n"}, "app:create_app()", "app.py"),
        ({"app": f"{FLASK}shop = Flask(__name__)\n"}, "app:shop", "app.py"),
        ({"app": "try:\n    from shop import app\nexcept ImportError:\n    app = None\n"}, "app:app", "app.py"),
        ({"app": "this is no Python"}, "app:app", "app.py"),
        ({"app": "def make_app(): ...\nif __name__ == '__main__':\n    app = 1\n"}, "app:make_app()", "app.py"),
        ({"app": "app = 1\n", "wsgi": "from app import app\napplication = app\n"}, "wsgi:application", "wsgi.py"),
        ({"wsgi": "from app import app\n"}, "wsgi:app", "wsgi.py"),
        ({"manage": "", "shop__wsgi": DJANGO, "shop__settings": ""}, "shop.wsgi:application", "shop/wsgi.py"),
    ],
)
def test_a_project(project: pathlib.Path, files: dict[str, str], reference: str, where: str) -> None:
    write(project, **files)
    found = find_application(None, {})
    assert (found.reference, str(found)) == (reference, f"{reference} (found in {where})")


@pytest.mark.parametrize(
    ("named", "reference"),
    [
        ("shop", "shop:create_app()"),
        ("shop.py", "shop:create_app()"),
        ("shop:create_app", "shop:create_app()"),
        ("shop:app", "shop:app"),
        ("elsewhere", "elsewhere:app"),
    ],
)
def test_flask_app_is_read_as_flask_does(project: pathlib.Path, named: str, reference: str) -> None:
    write(project, shop="def create_app(): ...\n", app="app = 1\n")
    found = find_application(None, {"FLASK_APP": named})
    assert str(found) == f"{reference} (found in FLASK_APP={named})"


def test_an_argument_counts_before_all_others(project: pathlib.Path) -> None:
    write(project, app="app = 1\n", shop="app = 1\n")
    assert find_application("shop:create", {"FLASK_APP": "x"}).reference == "shop:create"
    assert find_application("shop", {"FLASK_APP": "x"}).reference == "shop:app"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "there is no application here"),
        ({"shop__wsgi": DJANGO}, "there is no application here"),
        ({"app": "a = Flask('a')\nb = Flask('b')\n"}, "several applications in app.py (a, b)"),
        ({"manage": "", "a__wsgi": DJANGO, "b__wsgi": DJANGO}, "several applications here (a/wsgi.py, b/wsgi.py)"),
    ],
)
def test_what_is_not_certain_is_an_error(project: pathlib.Path, files: dict[str, str], said: str) -> None:
    write(project, **files)
    with pytest.raises(LoadError) as caught:
        find_application(None, {})
    assert said in str(caught.value)
    assert "MODULE:APP" in str(caught.value)
