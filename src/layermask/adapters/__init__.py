"""Removal operators in other people's tools: one file per tool, none of which imports it."""
