"""The mechanism: a value and its mask, and one rule per function."""
