"""The report holds every case and error, its plots are in proportion, and it needs nothing from outside."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tilewright.bench.plot import BAR_WIDTH, LABEL_HEIGHT, bars, chart
from tilewright.bench.report import render, write_report
from tilewright.bench.rows import PEAK, Row
from tilewright.bench.speedups import overview
from tilewright.bench.summary import print_summary


def long_rows(timed_row) -> list[Row]:
    return [
        timed_row(f"B1-H1-N{n}-D64-f32-{variant}", impl, scale * n, suite="long", shape=(1, 1, 1, n, n, 64, 64))
        for n in (4096, 8192, 16384)
        for variant, scale in (("full", 1.0), ("window", 0.1))
        for impl in ("tilewright", "sdpa")
    ]


def test_every_case_and_error_is_in_the_report(timed_row, tmp_path: Path) -> None:
    rows = [
        timed_row("case-one", "tilewright", 1.0, gflops=10.0, fraction_of_peak=0.5),
        timed_row("case-one", "sdpa", 2.0),
        timed_row("case-two", "tilewright", 3.0, extra={"block_mask_ms": 4.25}),
        Row("forward", "case-two", "flex", "cpu", error="wrong result: <error>"),
        *long_rows(timed_row),
    ]
    write_report(tmp_path / "new" / "report.html", rows)
    text = (tmp_path / "new" / "report.html").read_text()
    for row in rows:
        assert row.case in text
    assert "wrong result: &lt;error&gt;" in text
    assert "block_mask_ms 4.25" in text
    assert text.count("<polyline") == 4


def test_the_report_opens_without_a_network(timed_row) -> None:
    text = render(long_rows(timed_row))
    assert re.findall(r"(?:src|href|url|import)\s*[=(]\s*[\"']?[^\s>]*", text) == []
    assert "//" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_report_is_well_formed(timed_row) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "br"}:
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    balance = Balance()
    balance.feed(render([timed_row("a", "tilewright", 1.0), *long_rows(timed_row)]))
    assert balance.open == []


def test_an_empty_run_has_a_report() -> None:
    assert "Every row" in render([])


def test_bars_are_as_long_as_their_speed(timed_row) -> None:
    found = bars([timed_row("a", "tilewright", 2.0), timed_row("a", "sdpa", 4.0), timed_row("a", PEAK, 0.1)])
    assert [(bar.impl, bar.width) for bar in found] == [("tilewright", BAR_WIDTH), ("sdpa", BAR_WIDTH / 2)]


def test_lines_are_straight_on_logarithmic_axes(timed_row) -> None:
    drawn = chart(long_rows(timed_row))
    assert drawn is not None
    assert {line.name for line in drawn.lines} == {
        f"{i}, H1-D64-f32-{v}" for i in ("tilewright", "sdpa") for v in ("full", "window")
    }
    (x0, y0), (x1, y1), (x2, y2) = drawn.lines[0].points
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y1 - y0 == pytest.approx(y2 - y1)
    assert drawn.left == x0 < x2 == drawn.right
    assert drawn.top <= y2 < y0 <= drawn.bottom
    labels = sorted(line.label_y for line in drawn.lines)
    assert min(b - a for a, b in itertools.pairwise(labels)) >= LABEL_HEIGHT
    assert [tick.label for tick in drawn.x_ticks] == ["4096", "8192", "16384"]


def test_one_length_is_no_line(timed_row) -> None:
    assert chart(long_rows(timed_row)[:4]) is None


def test_speedups_start_at_one_and_point_to_the_faster(timed_row) -> None:
    rows = [timed_row("a", "tilewright", 2.0), timed_row("a", "sdpa", 8.0), timed_row("a", "flex", 1.0)]
    rows += [timed_row("b", "tilewright", 1.0), timed_row("b", "sdpa", 1.0), timed_row("a", PEAK, 0.1), timed_row("c", "sdpa", 1.0)]
    drawn = overview(rows)
    assert drawn is not None
    assert [(case, [bar.label for bar in bars]) for case, _, bars in drawn.cases] == [
        ("a", ["4x sdpa", "0.5x flex"]),
        ("b", ["1x sdpa"]),
    ]
    faster, slower = drawn.cases[0][2]
    assert faster.x == pytest.approx(drawn.one) == slower.x + slower.width
    assert faster.width == pytest.approx(2 * slower.width)
    assert [tick.label for tick in drawn.ticks] == ["0.5x", "1x", "2x", "4x"]
    assert drawn.left <= slower.x
    assert faster.x + faster.width <= drawn.right
    assert "4x sdpa" in render(rows)
    assert overview([timed_row("c", "sdpa", 1.0)]) is None


def test_the_summary_tells_rows_errors_and_goals(timed_row, capsys) -> None:
    case = "B1-H8-N2048-D64-f32-full"
    rows = [
        timed_row(case, "tilewright", 10.0, gflops=300.0, fraction_of_peak=0.75),
        timed_row(case, "sdpa", 12.0),
        Row("forward", case, "flex", "cpu", error="wrong result: [odd]"),
    ]
    print_summary(rows, Console(width=160))
    printed = capsys.readouterr().out
    assert re.search(r"  tilewright +10\.000 +300 +75%", printed)
    assert re.search(r"flex +- +- +-", printed)
    assert "flex: not timed: wrong result: [odd]" in printed
    assert re.search(r"against SDPA +>= 1\.35 x +1\.2 x +not yet", printed)
