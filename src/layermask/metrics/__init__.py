"""Metrics: what removal operators and attributions are worth, in numbers. `table.METRICS` lists them."""
