"""The picture of the dashboard draws what the template says, all of it."""

from penstock.infra.cloudformation import read_template
from penstock.infra.provision import TEMPLATE


def test_every_widget_is_drawn_with_all_of_its_lines() -> None:
    from bench.dashboard import MINUTES, draw, simulate  # imports Matplotlib, which takes a second

    template = read_template(TEMPLATE)
    series = simulate(template)

    figure = draw(template, series)

    assert {len(values) for values in series.values()} == {MINUTES}
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles[0] == "Alarms"
    assert len(titles) == 13
    drawn = {line.get_label() for axes in figure.axes for line in axes.get_lines()}
    assert {"succeeded", "retried", "over a limit", "throttled writes", "tasks"} <= drawn
