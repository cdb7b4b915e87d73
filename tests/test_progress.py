"""What a log shows of a run: a line at times, with the time left, where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from layermask.io import progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_a_log_has_a_line_every_thirty_seconds(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    log = progress._Log("predicting", 1000)
    for _ in range(99):
        clock.now += 10
        log.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 33
    assert lines[0] == "predicting 30/1,000, about 16:10 min left"
    assert lines[-1] == "predicting 990/1,000, about 0:10 min left"


def test_hours_are_told(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    log = progress._Log("auditing", 100)
    clock.now = 60.0
    log.advance(0.5)
    assert capsys.readouterr().err == "auditing 0/100, about 3:19 h left\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_logs_only_without_a_terminal(
    terminal: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar("doing", 4) as advance:
        for _ in range(4):
            clock.now += 40
            advance(1)
    assert ("doing 1/4, about 2:00 min left\n" in stream.getvalue()) is not terminal
    assert "4/4" in stream.getvalue()
