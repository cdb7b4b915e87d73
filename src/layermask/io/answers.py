"""Answers of models as text."""

from __future__ import annotations


def said(value: float, output: str = "probability") -> str:
    """Return an answer as users read it: probabilities in percent, other outputs as numbers."""
    return f"{100 * value:.1f} %" if output != "logit" else f"{value:.3f}"
