"""Tests of the scripts that complete commands and flags, in the real shells."""

from __future__ import annotations

import os
import pathlib
import pty
import select
import shutil
import subprocess
import time

import pytest

from intralb_gevent.cli.arguments import PROGRAM, commands
from intralb_gevent.cli.completion import script

PATIENCE = 20.0


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Return a shell's program, and write its script to the test's directory; skip the test without the shell."""
    name = str(request.param)
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "script").write_text(script(name, PROGRAM, commands()))
    (tmp_path / "shop.toml").touch()
    (tmp_path / "folder").mkdir()
    return program


def output(command: list[str], directory: pathlib.Path) -> list[str]:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


CASES = [
    ("se", {"serve"}),
    ("serve --queue-s", {"--queue-size"}),
    ("serve --no-enable-l", {"--no-enable-logging"}),
    ("check --max-head", {"--max-headers", "--max-header-bytes"}),
    ("serve --log-format j", {"json"}),
    ("serve -w ", {"auto"}),
    ("serve --config sh", {"shop.toml"}),
    ("serve --chdir fo", {"folder"}),
    ("completion f", {"fish"}),
    ("migrate shop", {"shop.toml"}),
]


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
def test_bash(shell: str, tmp_path: pathlib.Path) -> None:
    lines = ["source ./script"]
    for typed, _ in CASES:
        words = [PROGRAM, *typed.split(" ")]
        array = " ".join(f"'{word}'" for word in words)
        lines.append(f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}")
        lines.append(f"_intralb_gevent {PROGRAM} '{words[-1]}' '{words[-2]}'; echo ${{COMPREPLY[@]}}")
    (tmp_path / "run").write_text("\n".join(lines))
    found = output([shell, "--norc", "run"], tmp_path)
    assert [set(line.split()) for line in found] == [words for _, words in CASES]
    assert output([shell, "-c", "source ./script; complete -p intralb-gevent"], tmp_path)


@pytest.mark.parametrize("shell", ["fish"], indirect=True)
def test_fish(shell: str, tmp_path: pathlib.Path) -> None:
    lines = ["source ./script"]
    lines += [f"complete -C '{PROGRAM} {typed}'; echo ==" for typed, _ in CASES]
    (tmp_path / "run").write_text("\n".join(lines))
    groups = "\n".join(output([shell, "--no-config", "run"], tmp_path)).split("\n==")[:-1]
    found = [{line.split("\t")[0].rstrip("/") for line in group.splitlines() if line} for group in groups]
    assert found == [words for _, words in CASES]


@pytest.mark.parametrize("shell", ["zsh"], indirect=True)
def test_zsh(shell: str, tmp_path: pathlib.Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(shell, [shell, "-f", "-i"], {"HOME": str(tmp_path), "TERM": "dumb", "PATH": os.environ["PATH"]})
    try:
        os.write(terminal, b"autoload -U compinit; compinit -u -D; source ./script; echo rea''dy\n")
        until(terminal, b"\nready")
        for typed, words in CASES:
            if len(words) == 1:
                os.write(terminal, f"{PROGRAM} {typed}\t\n".encode())
                until(terminal, f"{PROGRAM} {' '.join([*typed.split(' ')[:-1], *words])}".encode())
    finally:
        os.write(terminal, b"\x03exit\n")
        os.close(terminal)
        os.waitpid(process, 0)


def until(terminal: int, text: bytes) -> None:
    """Read from the terminal until it shows a text."""
    shown, end = b"", time.monotonic() + PATIENCE
    while text not in shown.replace(b"\r", b""):
        assert time.monotonic() < end, shown.decode()
        if select.select([terminal], [], [], 0.5)[0]:
            shown += os.read(terminal, 65536)
