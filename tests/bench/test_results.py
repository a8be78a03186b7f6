"""Result files are read back as written, bad ones are refused, two are compared, and goals are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tilewright.bench.compare import changes, main
from tilewright.bench.rows import PEAK, VECTOR_PEAK, ResultsError, Row, Times, read_rows, write_rows
from tilewright.bench.targets import GOALS, verdicts

CASE = "B1-H8-N2048-D128-bf16-full"


def test_times_are_median_and_extremes_in_milliseconds() -> None:
    assert Times.of([0.004, 0.001, 0.002]) == Times(2.0, 1.0, 4.0)


def test_rows_survive_their_file(tmp_path: Path, timed_row) -> None:
    rows = [
        timed_row(CASE, "tilewright", 2.0, dtype="bf16", shape=(1, 8, 8, 2048, 2048, 128, 128), extra={"x": 1.0}),
        Row("forward", CASE, "flex", "cpu", error="wrong result"),
    ]
    write_rows(tmp_path / "rows.json", rows)
    assert read_rows(tmp_path / "rows.json") == rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "bad.json: Expecting property name"),
        ('{"rows": []}', "bad.json: got a JSON dict, wanted a list of rows"),
        ("[1]", "item 0 is no row: wanted an object with suite, case, impl, target"),
        ('[{"suite": "forward", "case": "x", "impl": 1, "target": "cpu"}]', "item 0 is no row"),
    ],
    ids=["json", "object", "number", "type"],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=told):
        read_rows(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"none\.json: .*No such file.*wanted a file that"):
        read_rows(tmp_path / "none.json")


def test_changes_pair_rows_by_what_they_measured(timed_row) -> None:
    before = [timed_row("a", "tilewright", 3.0), timed_row("a", "sdpa", 1.0), timed_row("gone", "sdpa", 1.0)]
    after = [timed_row("a", "sdpa", 1.0), timed_row("a", "tilewright", 2.0), timed_row("new", "sdpa", 1.0)]
    both, alone = changes(before, after)
    assert [(c.after.impl, c.speedup) for c in both] == [("sdpa", 1.0), ("tilewright", 1.5)]
    assert alone == ["only before: forward gone sdpa cpu", "only after: forward new sdpa cpu"]


@pytest.mark.parametrize(
    ("ranges", "is_clear"),
    [(((1, 2, 3), (4, 5, 6)), True), (((4, 5, 6), (1, 2, 3)), True), (((1, 2, 4), (3, 5, 6)), False)],
    ids=["slower", "faster", "overlap"],
)
def test_a_change_is_clear_when_the_ranges_do_not_overlap(timed_row, ranges, is_clear: bool) -> None:
    first, second = (
        replace(timed_row("a", "x", 1.0), min_ms=low, median_ms=mid, max_ms=high) for low, mid, high in ranges
    )
    assert changes([first], [second])[0][0].is_clear is is_clear


def test_compare_prints_and_warns_about_different_machines(tmp_path: Path, timed_row, capsys) -> None:
    write_rows(tmp_path / "a.json", [timed_row("a", "tilewright", 3.0)])
    write_rows(tmp_path / "b.json", [replace(timed_row("a", "tilewright", 2.0), machine={"cpu": "another"})])
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "1.50x" in printed
    assert "different machines: a processor and another" in printed


@pytest.mark.parametrize("arguments", [[], ["one.json"], ["none-a.json", "none-b.json"]], ids=["none", "one", "absent"])
def test_compare_says_how_it_is_used(arguments: list[str], capsys) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.strip()


def judged(rows: list[Row]) -> dict[str, tuple[float, bool]]:
    return {v.goal.name: (v.measured, v.is_reached) for v in verdicts(rows)}


def test_goals_are_judged_from_rows(timed_row) -> None:
    rows = [
        timed_row(CASE, "tilewright", 10.0, gflops=300.0),
        timed_row(CASE, "sdpa", 22.0),
        timed_row(CASE, PEAK, 1.0, gflops=5000.0),
        timed_row(CASE, VECTOR_PEAK, 1.0, gflops=400.0),
    ]
    assert judged(rows) == {
        f"{CASE} against SDPA": (2.2, False),
        f"{CASE} of vector peak": (0.75, True),
    }
    assert judged(rows[:3])[f"{CASE} of vector peak"] == (0.06, False)


def test_goals_of_long_and_small_calls(timed_row) -> None:
    def long(n: int, variant: str) -> str:
        return f"B1-H1-N{n}-D64-f32-{variant}"

    rows = [timed_row(long(n, "full"), "tilewright", n * n / 1e6, suite="long") for n in (4096, 8192, 32768)]
    rows += [timed_row(long(n, "window"), "tilewright", n**1.5 / 1e6, suite="long") for n in (8192, 32768)]
    rows.append(Row("memory", long(32768, "full"), "tilewright", "cpu", extra={"resident_mb": 250.0}))
    rows.append(
        timed_row("B1-H8-N16-D64-f32-causal", "tilewright", 1.0, suite="overhead", extra={"over_sdpa_us": 20.0})
    )
    rows.append(timed_row("generate-cached", "tilewright", 3500.0, suite="startup"))
    assert judged(rows) == {
        "full: exponent of N": (pytest.approx(2.0), True),
        "window: exponent of N": (pytest.approx(1.5), False),
        f"{long(32768, 'full')} memory": (250.0, False),
        "B1-H8-N16-D64-f32-causal call over SDPA's": (20.0, True),
        "generate-cached": (3.5, True),
    }


def test_goals_without_rows_are_left_out() -> None:
    assert verdicts([]) == []
    assert len({goal.name for goal in GOALS}) == len(GOALS)


def test_goals_name_cases_that_the_suites_measure() -> None:
    from tilewright.bench.forward import forward_cases

    names = {str(case) for case in forward_cases("cpu")}
    first = {g.name.split()[0] for g in GOALS if "against" in g.name or "peak" in g.name}
    assert names >= {word for word in first if word.startswith("B1-")} > set()


def test_rows_are_plain_json(tmp_path: Path, timed_row) -> None:
    write_rows(tmp_path / "rows.json", [timed_row(CASE, "tilewright", 2.0)])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["machine"] == {"cpu": "a processor"}
    assert row["error"] is None
