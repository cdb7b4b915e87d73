"""Choices among names, other text, and paths."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from layermask.arguments.refusal import refused, shown, wrong_type
from layermask.errors import InputError, nearest


def choice(name: str, value: Any, known: Iterable[str | None]) -> Any:
    """Return one of the `known` words, or None where that is among them."""
    known = tuple(known)
    word = _word(value)
    if (word is None and value is not None) or word not in known:
        words = [str(each) for each in known]
        some = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
        kind = refused if isinstance(value, str) else wrong_type
        raise kind(name, value, f"choose {some}{nearest(word or '', words)}")
    return word


def known(what: str, value: Any, table: Collection[str], else_: str = "") -> str:
    """Return a name that is in a table of them; `what` says what the table has, `else_` what else will do."""
    word = _word(value)
    if word is None:
        raise wrong_type(what, value, f"give the name of one: {', '.join(table)}{else_}")
    if word not in table:
        raise InputError(
            f"unknown {what} {shown(word)}: choose from {', '.join(table)}{nearest(word, table)}{else_}"
        )
    return word


def text(name: str, value: Any) -> str:
    """Return a text."""
    word = _word(value)
    if word is None:
        raise wrong_type(name, value, "give a text")
    return word


def path(name: str, value: Any) -> Path:
    """Return the path of a file or folder, given as text or as a path."""
    if not isinstance(value, (str, os.PathLike)):
        raise wrong_type(name, value, "give the path of a file, as text or pathlib.Path")
    found = os.fspath(value)
    if not isinstance(found, str) or not found or "\0" in found:
        raise refused(name, value, "give the path of a file, as text or pathlib.Path")
    return Path(found)


def mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """Return a mapping, as a dict."""
    if not isinstance(value, Mapping):
        raise wrong_type(name, value, "give a dict")
    return value


def _word(value: Any) -> str | None:
    """Return text as Python's own str: a subclass may compare in its own way."""
    return str.__str__(value) if isinstance(value, str) else None
