"""From samples to figures, targets and tables."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.billing import Prices
from bench.counting import Tally, total
from bench.figures import Figures, Shares, shares
from bench.measure import FLOOR_A, FLOOR_B, PENSTOCK, Case, Sample, Used
from bench.plot import draw
from bench.reads import Reads
from bench.report import tables
from bench.servers import EMBEDDED
from bench.targets import judge

SMALL = Case(server=EMBEDDED, size=1_000, handler="noop", consumers=2)
LARGE = Case(server=EMBEDDED, size=10_000, handler="noop", consumers=2)
WAITING = Case(server=EMBEDDED, size=10_000, handler="wait", consumers=2)
READS = Reads(
    server=EMBEDDED,
    size=10_000,
    small_size=1_000,
    status_seconds=0.02,
    small_status_seconds=0.01,
    page_seconds=0.03,
    small_page_seconds=0.01,
)


def used(cpu_seconds: float, requests: float = 0) -> Used:
    calls = {"PutItem": Tally(requests=requests, writes=2 * requests)} if requests else {}
    return Used(cpu_seconds=cpu_seconds, memory_bytes=5 * 1024 * 1024, calls=calls)


def sample(case: Case, seconds: float, contender: str = PENSTOCK) -> Sample:
    programs = {
        PENSTOCK: {"front end": used(1, 10), "consumer 1": used(2, 15), "consumer 2": used(1, 5), EMBEDDED: used(4)},
        FLOOR_A: {"alone": used(2)},
        FLOOR_B: {"sender": used(0.5, 10), "bare consumer 1": used(0.5, 10), EMBEDDED: used(2)},
    }[contender]
    return Sample(case=case, contender=contender, seconds=seconds, first_seconds=0.1, programs=programs)


def both_floors(case: Case) -> list[Sample]:
    return [sample(case, 1), sample(case, 0.5, FLOOR_A), sample(case, 2, FLOOR_B)]


FIGURES = Figures([*both_floors(SMALL), *both_floors(LARGE), sample(WAITING, 2.75)])


@pytest.mark.parametrize(
    ("programs", "requests", "each", "server", "expected"),
    [
        (6.0, 2_000, 0.001, 2.0, Shares(ours=0.5, library=0.25, server=0.25)),
        (6.0, 0, 0.001, 2.0, Shares(ours=0.75, library=0.0, server=0.25)),
        (1.0, 2_000, 0.001, 1.0, Shares(ours=0.0, library=0.5, server=0.5)),  # never more than was used
    ],
)
def test_shares(programs: float, requests: float, each: float, server: float, expected: Shares) -> None:
    assert shares(programs, requests, each, server) == pytest.approx(expected)


def test_shares_of_a_case_take_the_bare_calls_cost() -> None:
    # 30 requests at 1 s for 20 bare ones are 1.5 of the 4 s that our programs used, beside 4 s of the server.
    assert FIGURES.shares(LARGE) == pytest.approx(Shares(2.5 / 8, 1.5 / 8, 4 / 8))
    assert FIGURES.shares(WAITING) == FIGURES.shares(LARGE)  # its floor is that of the no-op handler


def test_figures_are_medians_of_the_repeats() -> None:
    contender = Figures([sample(LARGE, seconds) for seconds in (1, 2, 50)]).of(LARGE)
    assert contender is not None
    assert contender.rate == 5_000


def test_figures_are_per_operation() -> None:
    contender = FIGURES.of(LARGE)
    assert contender is not None
    assert contender.requests == pytest.approx(3)
    assert contender.usd(Prices()) == pytest.approx(60 * 0.625e-6 * 100)
    assert contender.memory_mib("consumer") == pytest.approx(5)


def test_calls_of_several_programs_are_added() -> None:
    added = total({"a": Tally(requests=1, sqs=2)}, {"a": Tally(requests=3), "b": Tally(reads=1)})
    assert added == {"a": Tally(requests=4, sqs=2), "b": Tally(reads=1)}


def test_targets_are_judged_at_the_sizes_that_were_measured() -> None:
    judged = {target.what: (target.measured, target.is_met) for target in judge(FIGURES, [READS], Prices())}
    assert judged == {
        "AWS requests per 1,000 operations, 10,000, 2 consumers, embedded AWS": ("3.00", True),
        "operations/s ÷ floor (b), 10,000, 2 consumers, embedded AWS": ("2.00", True),
        "CPU of our programs ÷ floor (a), 10,000, 2 consumers, embedded AWS": ("2.00", True),
        "request to 202 ÷ (validate alone + bare sends), 1,000, 2 consumers, embedded AWS": ("0.50", True),
        "operations/s ÷ the ideal 4,000, 10,000, 2 consumers, embedded AWS": ("0.91", True),
        "MiB above idle, front end, 10,000, 2 consumers, embedded AWS": ("5", True),
        "MiB above idle, consumer, 10,000, 2 consumers, embedded AWS": ("5", True),
        "status call, batch of 10,000 ÷ 1,000, embedded AWS": ("2.00", True),
        "results page, batch of 10,000 ÷ 1,000, embedded AWS": ("3.00", False),
    }


def test_tables_and_plot_are_drawn_of_whatever_was_measured(tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=StringIO())
    for figures in (FIGURES, Figures([sample(WAITING, 2.75)])):
        console.print(tables(figures, [], Prices()))
        draw(figures, Prices(), tmp_path / "bench.png")
    assert "per million" in console.export_text()
    assert (tmp_path / "bench.png").stat().st_size > 10_000
