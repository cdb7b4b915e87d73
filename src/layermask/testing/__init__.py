"""The laws for a custom rule, fill, removal operator or explainer: this package's own are tested by the same.

One class gives all tests, under pytest or unittest, and one call the same at once:

    class TestMyFill(FillLaws):
        subject = my_fill

    FillLaws.check(my_fill)  # AssertionError: each law that is broken, and how
"""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
