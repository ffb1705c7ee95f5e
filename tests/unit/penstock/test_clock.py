"""The clock of the operating system."""

import time

import pytest

from penstock.clock import SystemClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has this clock")
def test_durations_include_the_time_in_which_the_machine_was_suspended() -> None:
    assert SystemClock().monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)
