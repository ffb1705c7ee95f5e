"""From samples to figures, targets and tables."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.cases import BARE, FIRST, IN_A_ROW, LATER, LINES, NONE_FAILS, PENSTOCK, WAYS, Case
from bench.counting import Tally, Usage, total
from bench.figures import Figures, ideal_seconds
from bench.measure import RUNNING, Sample, Times, Used, check_results, is_sent_as_lines, spread_seconds
from bench.report import tables
from bench.servers import EMBEDDED
from bench.targets import ELSEWHERE, judge
from penstock.batch import FINAL_STATES, UNACCEPTED_STATES, BatchState
from penstock.cost import Prices

MIB = 1024 * 1024
SMALL = Case(server=EMBEDDED, handler="noop", size=1_000)
LARGE = Case(server=EMBEDDED, handler="noop", size=10_000)
WAITING = Case(server=EMBEDDED, handler="wait", size=10_000)
SLOW = Case(server=EMBEDDED, handler="slow", size=200)
ORDER = Case(server=EMBEDDED, handler="order", size=10_000)
LATE = Case(server=EMBEDDED, handler="noop", size=1_000, latency_ms=10)
TINY = Case(server=EMBEDDED, handler="tiny", size=100_000)


def used(cpu_seconds: float, requests: float = 0, memory_mib: float = 5) -> Used:
    calls = {"PutItem": Tally(requests=requests, writes=2 * requests)} if requests else {}
    return Used(cpu_seconds=cpu_seconds, download_cpu_seconds=0.05, memory_bytes=int(memory_mib * MIB), calls=calls)


def programs(cpu: float = 0.1, requests: float = 15, memory_mib: float = 5) -> Mapping[str, Used]:
    return {
        "front end": used(cpu, requests, memory_mib),
        "consumer 1": used(cpu, requests),
        "consumer 2": used(cpu / 2),
        EMBEDDED: used(4),
    }


BARE_PROGRAMS = {"bare front end": used(0.2, 10), "bare consumer 1": used(0.2, 10), EMBEDDED: used(2)}


def sample(case: Case, seconds: float, contender: str = PENSTOCK, **more: Any) -> Sample:
    values: dict[str, Any] = {
        "accepted_seconds": 0.1,
        "finished_seconds": seconds * 0.75,
        "download_seconds": seconds * 0.25,
        "programs": BARE_PROGRAMS if contender == BARE else programs(),
    }
    return Sample(case=case, contender=contender, **values | more)


SAMPLES = [
    sample(SMALL, 1),
    sample(SMALL, 0.5, BARE),
    sample(LARGE, 1),
    sample(LARGE, 2, BARE),
    sample(LARGE, 1, NONE_FAILS, programs=programs(cpu=0.08, requests=14)),
    sample(LARGE, 1, LINES),
    sample(WAITING, 2.75),
    sample(WAITING, 4, BARE),
    sample(ORDER, 2),
    sample(ORDER, 2, NONE_FAILS),
    sample(LATE, 1.4),
    sample(LATE, 1, BARE),
    sample(SLOW, 6, FIRST, spread_seconds=2.5),
    sample(SLOW, 5, LATER),
    *(sample(TINY, 2, IN_A_ROW, programs=programs(memory_mib=memory)) for memory in (5, 20, 24)),
]
FIGURES = Figures(SAMPLES)


def test_figures_are_medians_of_the_repeats() -> None:
    contender = Figures([sample(LARGE, seconds) for seconds in (1, 2, 50)]).of(LARGE)
    assert contender is not None
    assert contender.rate == 5_000


def test_figures_are_per_operation() -> None:
    contender = FIGURES.of(LARGE)
    assert contender is not None
    assert contender.requests == pytest.approx(3)
    assert contender.usd(Prices()) == pytest.approx(60 * 0.625e-6 * 100)
    assert contender.micros("consumer") == pytest.approx(15)
    assert contender.download_micros("front end") == pytest.approx(5)
    assert contender.memory_mib("consumer") == pytest.approx(5)


@pytest.mark.parametrize(("handler", "seconds"), [("noop", None), ("wait", 2.5), ("slow", 250)])
def test_the_ideal_is_to_wait_in_all_slots_at_the_same_time(handler: str, seconds: float | None) -> None:
    assert ideal_seconds(Case(server=EMBEDDED, handler=handler, size=10_000, consumers=2)) == seconds


def test_calls_of_several_programs_are_added() -> None:
    added = total({"a": Tally(requests=1, sqs=2)}, {"a": Tally(requests=3), "b": Tally(reads=1)})
    assert added == {"a": Tally(requests=4, sqs=2), "b": Tally(reads=1)}


def test_targets_are_judged_in_the_cases_that_were_measured() -> None:
    judged = {
        (target.what, target.case.split(",")[0]): (target.measured, target.verdict)
        for target in judge(FIGURES, Prices())
        if target not in ELSEWHERE
    }
    assert judged == {
        ("no-op: operations/s ÷ bare calls", "1"): ("0.50", "missed"),
        ("no-op: operations/s ÷ bare calls", "10"): ("2.00", "reached"),
        ("5 ms: operations/s ÷ the ideal 4,000", "10"): ("0.91", "reached"),
        ("500 ms: first batch ÷ later batch, time", "200"): ("1.20", "reached"),
        ("500 ms: first batch ÷ later batch, AWS requests", "200"): ("1.00", "reached"),
        ("500 ms: first batch, last consumer ends after the first, s", "200"): ("2.50", "missed"),
        ("1 % failing ÷ none failing, AWS requests", "10"): ("1.07", "reached"),
        ("1 % failing ÷ none failing, CPU", "10"): ("1.25", "missed"),
        ("CPU µs: front end, an operation in JSON", "10"): ("10.0", "reached"),
        ("CPU µs: front end, an operation in NDJSON", "10"): ("10.0", "reached"),
        ("CPU µs: consumer, a no-op operation", "10"): ("15.0", "reached"),
        ("CPU µs: front end, a result line", "10"): ("5.0", "reached"),
        ("CPU µs: consumer, an operation that waits 5 ms", "10"): ("15.0", "reached"),
        ("10 ms added to each AWS call: time to completed ÷ bare calls", "1"): ("1.40", "reached"),
        ("batches in a row: MiB above idle, front end", "100"): ("24", "reached"),
        ("batches in a row: MiB above idle, consumer", "100"): ("5", "reached"),
        ("batches in a row: growth in the second half, MiB", "100"): ("4", "reached"),
        ("batches in a row: operations/s until finished", "100"): ("66,667", "reached"),
    }


def test_cost_is_judged_for_a_hundred_thousand_operations() -> None:
    samples = [
        sample(Case(server=EMBEDDED, handler=handler, size=100_000), 5, contender, programs=programs(requests=requests))
        for handler in ("noop", "order")
        for contender, requests in ((NONE_FAILS, 150), (PENSTOCK, 250))
    ]
    judged = [(target.what, target.measured, target.verdict) for target in judge(Figures(samples), Prices())]
    assert [one for one in judged if one[0].startswith(("AWS requests", "USD"))] == [
        ("AWS requests per 1,000 operations, none failing", "3.00", "reached"),
        ("USD per million operations, body and result 200 bytes, none failing", "0.0037", "reached"),
        ("AWS requests per 1,000 operations, 1 % failing", "5.00", "missed"),
        ("USD per million operations, body and result 200 bytes, 1 % failing", "0.0063", "reached"),
        ("USD per million operations, body 1 KB, result 200 bytes, none failing", "0.0037", "reached"),
        ("USD per million operations, body 1 KB, result 200 bytes, 1 % failing", "0.0063", "reached"),
    ]


def test_a_run_without_samples_reaches_no_target() -> None:
    assert judge(Figures([]), Prices()) == ELSEWHERE


def test_tables_and_plot_show_what_was_measured(tmp_path: Path) -> None:
    from bench.plot import draw  # imports Matplotlib, which takes a second

    console = Console(width=200, record=True, file=StringIO())
    for figures in (FIGURES, Figures([sample(WAITING, 2.75)]), Figures([sample(SMALL, 1)])):
        console.print(tables(figures, Prices()))
    draw(FIGURES, Prices(), tmp_path / "bench.png")
    draw(Figures([sample(WAITING, 2.75)]), Prices(), tmp_path / "none.png")
    assert "How fast is the first batch ever of a handler?" in console.export_text()
    assert [path.name for path in tmp_path.iterdir()] == ["bench.png"]


def test_every_state_that_is_not_final_is_polled_again() -> None:
    states = set(BatchState) - FINAL_STATES - UNACCEPTED_STATES
    assert states - {BatchState.CANCELLING} <= RUNNING
    assert not RUNNING & FINAL_STATES


def test_only_penstock_gets_a_very_large_batch_as_lines() -> None:
    huge = Case(server=EMBEDDED, handler="noop", size=1_000_000)
    ways = {name: (is_sent_as_lines(LARGE, way), is_sent_as_lines(huge, way)) for name, way in WAYS.items()}
    assert (ways[PENSTOCK], ways[LINES], ways[BARE]) == ((False, True), (True, True), (False, False))


def lines(*statuses: int) -> bytes:
    return b"".join(b'{"id":"%d","status":%d}\n' % (number, status) for number, status in enumerate(statuses))


def test_results_are_complete_and_fail_as_expected() -> None:
    times = Times(0, 0, "", polls=1, failed=1)
    check_results(lines(200, 422), times, size=2, failed=1)
    for results in (lines(200), lines(200, 200), lines(200, 422) + lines(200), lines(200) * 2):
        with pytest.raises(RuntimeError, match="2 results were expected"):
            check_results(results, times, size=2, failed=1)


def test_a_consumer_without_operations_ended_when_the_batch_started() -> None:
    usages = {
        f"consumer {number}": Usage(cpu_seconds=0, memory_bytes=0, peak_bytes=0, last_end_at=at)
        for number, at in ((1, 107.0), (2, 104.0))
    }
    assert spread_seconds(usages, began_at=100) == 3
    assert spread_seconds(usages, began_at=105) == 2
