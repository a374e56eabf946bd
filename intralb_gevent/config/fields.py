"""Declare settings as fields of a dataclass; each declaration contains a setting's group, default, kind and help text.

`check_fields` checks the declared fields of an object against their kinds.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields
from typing import Any

from .kinds import Kind

__all__ = ["Declaration", "check_fields", "declarations_in", "described", "option"]


@dataclass(frozen=True)
class Declaration:
    """The declaration of one setting: its group, name, default, kind and help text."""

    group: str
    name: str
    default: Any
    """The default value, or `dataclasses.MISSING` if the setting is required."""
    kind: Kind
    help: str

    def check(self, value: Any) -> Any:
        """Return the value to store, or raise OptionError if `value` is invalid; None is valid if it is the default."""
        if value is None and self.default is None:
            return None
        return self.kind.check(self.name, value)


def option(group: str, default: Any, kind: Kind, help: str) -> Any:
    """Declare a dataclass field as a setting.

    `help` may end with a description of the default, after the word "Default:".
    """
    return field(default=default, metadata={"group": group, "kind": kind, "help": help})


def declarations_in(declaring: type) -> tuple[Declaration, ...]:
    """Return the declarations of the settings of a class, in order; fields that are not settings are left out."""
    return tuple(
        Declaration(f.metadata["group"], f.name, f.default, f.metadata["kind"], f.metadata["help"])
        for f in fields(declaring)
        if "kind" in f.metadata
    )


def described(declaring: type) -> str:
    """Return the docstring of a class of settings for help(): its own text, followed by each setting's help text."""
    lines = [inspect.cleandoc(declaring.__doc__ or ""), "", "Settings::", ""]
    for declaration in declarations_in(declaring):
        lines += [f"    {declaration.name}: {declaration.kind.allowed}", f"        {declaration.help}"]
    return "\n".join(lines)


def check_fields(instance: object) -> None:
    """Check every declared field of a frozen dataclass, and replace its value with the converted value."""
    for declaration in declarations_in(type(instance)):
        object.__setattr__(instance, declaration.name, declaration.check(getattr(instance, declaration.name)))
