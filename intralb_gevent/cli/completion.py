"""Scripts that complete the command line in bash, zsh and fish.

A script is generated from the parser. The script contains all commands, flags and values, so completion never runs
`intralb-gevent`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["SHELLS", "script"]

SHELLS: Final = ("bash", "zsh", "fish")
_FILES: Final = ("FILE", "SOURCE")
_DIRECTORIES: Final = ("DIRECTORY",)


@dataclass(frozen=True)
class _Flag:
    """A flag or an argument of a command, with the data that a completion script contains."""

    texts: tuple[str, ...]
    takes_value: bool
    words: tuple[str, ...]
    """The values that the flag accepts; empty if the flag accepts any text."""
    metavar: str
    help: str


def script(shell: str, program: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return the script for one of `SHELLS`; `commands` contains the parsers of the program's commands by name."""
    known = {name: list(_flags(parser)) for name, parser in commands.items()}
    about = {name: " ".join((parser.description or "").split(".")[0].split()) for name, parser in commands.items()}
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    return write(program, known, about)


def _flags(parser: argparse.ArgumentParser) -> Iterator[_Flag]:
    for action in parser._actions:
        texts = tuple(action.option_strings)
        choices = tuple(map(str, action.choices or ()))
        metavar = str(action.metavar or "")
        if not choices and "|" in metavar:
            choices = tuple(word for word in metavar.split("|") if not word.isupper() and ":" not in word)
        if texts or choices:
            help = " ".join((action.help or "").replace("%%", "%").partition(".")[0].partition(" [")[0].split())
            yield _Flag(texts, action.nargs != 0 and bool(texts), choices, metavar, help)


# The script for bash.


def _bash(program: str, known: Mapping[str, list[_Flag]], about: Mapping[str, str]) -> str:
    function = "_" + program.replace("-", "_")
    cases = "\n".join(_bash_case(name, flags) for name, flags in known.items())
    return f"""\
# Completion of {program} in bash: source <({program} completion bash)
{function}() {{
  local word=$2 before=$3 command=${{COMP_WORDS[1]}}
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join([*known, "--help", "--version"])}" -- "$word"))
    return
  fi
  case $command in
{cases}
  esac
}}
complete -F {function} {program}
"""


def _bash_case(name: str, flags: list[_Flag]) -> str:
    lines = [f"    {name})", "      case $before in"]
    for flag in flags:
        values = _bash_values(flag)
        if flag.takes_value:
            lines.append(f"        {'|'.join(flag.texts)}) {values}return ;;")
    words = " ".join(text for flag in flags for text in flag.texts or flag.words)
    lines += ["      esac", f'      COMPREPLY=($(compgen -W "{words}" -- "$word"))']
    if name == "migrate":
        lines.append('      COMPREPLY+=($(compgen -f -- "$word"))')
    return "\n".join([*lines, "      ;;"])


def _bash_values(flag: _Flag) -> str:
    if flag.words:
        return f'COMPREPLY=($(compgen -W "{" ".join(flag.words)}" -- "$word")); '
    if flag.metavar in _FILES:
        return 'COMPREPLY=($(compgen -f -- "$word")); '
    return 'COMPREPLY=($(compgen -d -- "$word")); ' if flag.metavar in _DIRECTORIES else ""


# The script for zsh.


def _zsh(program: str, known: Mapping[str, list[_Flag]], about: Mapping[str, str]) -> str:
    function = "_" + program.replace("-", "_")
    commands = "\n".join(f"    {_quoted(f'{name}:{about[name]}')}" for name in known)
    cases = "\n".join(_zsh_case(name, flags) for name, flags in known.items())
    return f"""\
#compdef {program}
# Completion of {program} in zsh: source <({program} completion zsh)
{function}() {{
  local -a commands
  commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{cases}
  esac
}}
compdef {function} {program}
"""


def _zsh_case(name: str, flags: list[_Flag]) -> str:
    specs = [spec for flag in flags for spec in _zsh_specs(flag)]
    if name == "migrate":
        specs.append("'*:source:_files'")
    return f"    {name})\n      _arguments \\\n        " + " \\\n        ".join(specs) + "\n      ;;"


def _zsh_specs(flag: _Flag) -> Iterator[str]:
    values = f"({' '.join(flag.words)})" if flag.words else ""
    if flag.metavar in _FILES:
        values = "_files"
    elif flag.metavar in _DIRECTORIES:
        values = "_files -/"
    if not flag.texts:
        yield _quoted(f"1:value:{values}")
    for text in flag.texts:
        help = flag.help.replace("[", "(").replace("]", ")").replace(":", "")
        value = f":{flag.metavar.lower().replace(':', ' ') or 'value'}:{values}" if flag.takes_value else ""
        yield _quoted(f"{text}[{help}]{value}")


# The script for fish.


def _fish(program: str, known: Mapping[str, list[_Flag]], about: Mapping[str, str]) -> str:
    lines = [
        f"# Completion of {program} in fish: {program} completion fish | source",
        f"complete -c {program} -f",
        f"complete -c {program} -n __fish_use_subcommand -l help",
        f"complete -c {program} -n __fish_use_subcommand -l version",
    ]
    lines += [
        f"complete -c {program} -n __fish_use_subcommand -a {name} -d {_quoted(text)}" for name, text in about.items()
    ]
    for name, flags in known.items():
        lines += [_fish_line(program, name, flag) for flag in flags]
    lines.append(f"complete -c {program} -n '__fish_seen_subcommand_from migrate' -F")
    return "\n".join(lines) + "\n"


def _fish_line(program: str, name: str, flag: _Flag) -> str:
    parts = [f"complete -c {program} -n '__fish_seen_subcommand_from {name}'"]
    for text in flag.texts:
        parts.append(f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}")
    if flag.takes_value:
        parts.append("-r" if flag.metavar in (*_FILES, *_DIRECTORIES) else "-x")
    if flag.metavar in _FILES and flag.takes_value:
        parts.append("-F")
    if flag.metavar in _DIRECTORIES:
        parts.append("-a '(__fish_complete_directories)'")
    if flag.words:
        parts.append(f"-a {_quoted(' '.join(flag.words))}")
    return " ".join([*parts, f"-d {_quoted(flag.help)}"])


def _quoted(text: str) -> str:
    """Quote a text as one word of a shell script. The texts contain no backslashes, which fish would interpret."""
    return "'" + text.replace("'", "'\\''") + "'"
