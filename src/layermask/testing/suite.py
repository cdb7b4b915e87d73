"""What the suites of laws share: a subject, one test for each law, and one call for all of them."""

from __future__ import annotations

import inspect
import textwrap
import unittest
from collections.abc import Sequence
from typing import Any


class Laws(unittest.TestCase):
    """What the suites share: a subclass names its `subject`, what is judged, and more if needed."""

    subject: Any = None
    __test__ = False  # pytest collects suites that have a subject

    def __init_subclass__(cls) -> None:
        cls.__test__ = cls.subject is not None

    @classmethod
    def of(cls, subject: Any, **settings: Any) -> type[Laws]:
        """Return the suite of a subject: a subclass with these attributes."""
        if unknown := [name for name in settings if not hasattr(cls, name)]:
            raise TypeError(f"{cls.__name__} has no setting {unknown[0]!r}")
        return type(cls.__name__, (cls,), {"subject": subject, **settings})

    @classmethod
    def names(cls) -> Sequence[str]:
        """Return the names of the laws."""
        return unittest.defaultTestLoader.getTestCaseNames(cls)

    @classmethod
    def check(cls, subject: Any, **settings: Any) -> None:
        """Judge a subject by all laws.

        Raises:
            AssertionError: laws are broken; the message names each of them and says how.
        """
        suite, broken = cls.of(subject, **settings), []
        for name in cls.names():
            try:
                suite(name).debug()
            except unittest.SkipTest:
                continue
            except Exception as error:  # of any kind: what a law meets in foreign code
                broken.append(f"{name}: {type(error).__name__}: {textwrap.shorten(str(error), 300)}")
        if broken:
            raise AssertionError("\n".join([f"{len(broken)} of {len(cls.names())} laws are broken", *broken]))

    def debug(self) -> None:
        """Run the law and let its error pass; unittest's own would then leave out the clean-up."""
        try:
            super().debug()
        finally:
            self.doCleanups()

    def setUp(self) -> None:
        if self.subject is None:
            self.skipTest("no subject is given")

    @property
    def judged(self) -> Any:
        """The subject; a function that stands in a class would be bound to the instance otherwise."""
        found = inspect.getattr_static(self, "subject")
        return found.__func__ if isinstance(found, staticmethod) else found
