"""`tilewright schedule`: its JSON, its drawings, and one message for everything that can be wrong."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.cli import main

NAMES = ["ascending", "descending", "shift", "symmetric-shift", "spt", "zigzag", "safe", "greedy"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["schedule", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def summary(run: Run, *words: object) -> dict[str, Any]:
    code, out, err = run(*words, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert isinstance(data, dict)
    return data


def test_json_of_the_contract(run: Run) -> None:
    found = summary(run, "--mask", "causal", "--tiles", "6x6", "--heads", 2, "--workers", 6)
    assert {"mask", "workers", "compute", "reduce", "lower_bound", "orders", "skipped"} <= set(found)
    assert (found["mask"], found["workers"], found["compute"], found["reduce"]) == ("causal", 6, 1.0, 0.25)
    assert found["lower_bound"] == pytest.approx(2 * 7 * 1.25 / 2)
    assert [order["name"] for order in found["orders"]] == [name for name in NAMES if name != "shift"]
    assert found["skipped"] == {"shift": "needs a full mask"}
    wanted = {"name", "makespan", "stall", "deadlock_free_at", "issue", "visits", "reduction", "lists"}
    for order in found["orders"]:
        assert wanted <= set(order)
        assert sorted(map(tuple, order["issue"])) == [(head, kv) for head in range(2) for kv in range(6)]
        assert {name: sorted(q) for name, q in order["visits"].items()} == {
            f"{head},{kv}": list(range(kv, 6)) for head in range(2) for kv in range(6)
        }
        assert {name: sorted(kv) for name, kv in order["reduction"].items()} == {
            f"{head},{q}": list(range(q + 1)) for head in range(2) for q in range(6)
        }
        assert (order["lists"] is None) == (order["name"] != "symmetric-shift")


def test_one_order(run: Run) -> None:
    found = summary(run, "--mask", "full", "--tiles", "4x3", "--workers", 3, "--order", "shift", "--reduce", 0.5)
    (order,) = found["orders"]
    assert order["makespan"] == pytest.approx(6.0)
    assert order["deadlock_free_at"] == 3
    assert order["lists"] == [[[0, 0]], [[0, 1]], [[0, 2]]]


def test_extras_change_time_and_no_order(run: Run, independent: Callable[..., float]) -> None:
    words = ("--mask", "document:3,5", "--tiles", "8x8", "--heads", 2, "--workers", 5)
    plain = summary(run, *words)
    extra = summary(run, *words, "--overlap", 1, "--jitter", 0.2, "--seed", 3)
    again = summary(run, *words, "--overlap", 1, "--jitter", 0.2, "--seed", 3)
    assert extra == again
    for one, two in zip(plain["orders"], extra["orders"], strict=True):
        assert one["digest"] == two["digest"]
        assert one["reduction"] == two["reduction"]
        assert one["makespan"] != two["makespan"]
        assert extra["lower_bound"] <= two["makespan"] + 1e-9
    late = summary(run, *words, "--latency", 0.5)
    for order in late["orders"]:
        assert independent(order, 5, 1.0, 0.25, 0, 0.5) == pytest.approx(order["makespan"])


def test_a_mask_from_a_file(run: Run, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((5, 7)) < 0.4
    np.save(tmp_path / "mask.npy", mask)
    found = summary(run, "--mask", "mask.npy", "--tiles", "5x7", "--workers", 4, "--order", "safe")
    assert sum(len(q) for q in found["orders"][0]["visits"].values()) == mask.sum()


def test_text_for_people(run: Run) -> None:
    code, out, err = run("--mask", "causal", "--tiles", "6x6", "--heads", 2, "--workers", 40)
    assert code == 0, err
    assert all(name in out for name in NAMES)
    assert "no shift: needs a full mask" in out
    assert "░" in out  # stalls can be seen
    rows = [line for line in out.splitlines() if "█" in line]
    assert max(map(len, rows)) <= 110


def test_svg(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--mask", "causal", "--tiles", "6x6", "--heads", 2, "--workers", 6, "--plot", "a.svg")
    assert code == 0, err
    assert "drawn: a.svg" in out
    root = ET.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    panels = root.findall("{http://www.w3.org/2000/svg}g")
    assert len(panels) == 7
    waits = [panel for panel in panels if any(path.get("fill") == "#d7263d" for path in panel)]
    assert {next(panel.iter("{http://www.w3.org/2000/svg}tspan")).text for panel in waits} >= {"ascending", "descending"}
    assert "zigzag" not in {next(panel.iter("{http://www.w3.org/2000/svg}tspan")).text for panel in waits}


def test_svg_rectangles_are_where_the_work_is(run: Run, tmp_path: Path) -> None:
    """One worker, two visits: computing from 0 to 1 and 2 to 3, sums from 1 to 2 and 3 to 4."""
    words = ("--mask", "full", "--tiles", "2x1", "--workers", 1, "--reduce", 1, "--order", "ascending")
    assert run(*words, "--plot", "a.svg")[0] == 0
    root = ET.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))
    paths = {path.get("fill"): path.get("d") for path in root.iter("{http://www.w3.org/2000/svg}path")}
    assert paths["#7aa6d8"] == "M46.00 34.5h225.00v15h-225.00zM496.00 34.5h225.00v15h-225.00z"
    assert paths["#33475b"] == "M271.00 34.5h225.00v15h-225.00zM721.00 34.5h225.00v15h-225.00z"


def test_html_needs_nothing_else(run: Run, tmp_path: Path) -> None:
    assert run("--mask", "causal", "--tiles", "4x4", "--workers", 4, "--plot", "a.html")[0] == 0
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "No shift: needs a full mask." in page
    assert "src=" not in page
    assert page.count("http") == 1  # the name space of SVG


BASE = ("--tiles", "4x4", "--workers", 4)
BAD: list[tuple[tuple[object, ...], str]] = [
    (("--mask", "causl", *BASE), "mask 'causl': wanted causal, full, window:W, document:L1,L2,… or FILE.npy"),
    (("--mask", "window:-1", *BASE), "mask 'window:-1': wanted"),
    (("--mask", "document:", *BASE), "mask 'document:': wanted"),
    (("--mask", "document:2,3", *BASE), "add up to both of 4x4 tiles; they add up to 5"),
    (("--mask", "document:4,0", *BASE), "wanted lengths of at least 1"),
    (("--mask", "causal", "--tiles", "4"), "tiles '4': wanted NQxNK, such as 32x32"),
    (("--mask", "causal", "--tiles", "0x4"), "tiles '0x4': wanted 1 to 32768 a side"),
    (("--mask", "causal", "--tiles", "4x999999"), "take larger tiles"),
    (("--mask", "causal", *BASE, "--heads", 0), "heads 0: wanted a whole number"),
    (("--mask", "causal", "--tiles", "4x4", "--workers", 0), "workers 0: wanted a whole number"),
    (("--mask", "causal", *BASE, "--order", "best"), "--order 'best': wanted all or one of ascending"),
    (("--mask", "causal", *BASE, "--order", "shift"), "--order shift: needs a full mask"),
    (("--mask", "causal", *BASE, "--reduce", -1), "reduce cost -1.0: wanted a finite number"),
    (("--mask", "causal", *BASE, "--compute", "nan"), "a compute cost is not a finite number"),
    (("--mask", "causal", *BASE, "--overlap", 99), "overlap 99: wanted a whole number from 0 to 64"),
    (("--mask", "causal", *BASE, "--jitter", 2), "jitter 2.0: wanted a fraction"),
    (("--mask", "causal", *BASE, "--plot", "a.png"), "--plot a.png: wanted a name that ends in .svg or .html"),
    (("--mask", "causal", *BASE, "--plot", "no/a.svg"), "--plot no/a.svg: No such file or directory"),
    (("--mask", "causal", "--tiles", "99x99", "--heads", 8, "--plot", "a.svg"), "wanted at most 40000; take one --order"),
    (("--mask", "none.npy", *BASE), "none.npy: No such file or directory"),
    (("--mask", "text.npy", *BASE), "text.npy: no array that can be read safely"),
    (("--mask", "pickle.npy", *BASE), "pickle.npy: no array that can be read safely"),
    (("--mask", "floats.npy", *BASE), "floats.npy: float64 [4, 4]; wanted bool [4, 4] as --tiles says"),
    (("--mask", "small.npy", *BASE), "small.npy: bool [3, 4]; wanted bool [4, 4] as --tiles says"),
    (("--mask", "many.npy", *BASE), "many.npy: NpzFile; wanted bool [4, 4]"),
    (("--mask", "empty.npy", *BASE), "empty.npy: no array that can be read safely"),
    (("--mask", "folder.npy", *BASE), "folder.npy: "),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_one_message(run: Run, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "floats.npy", np.ones((4, 4)))
    np.save(tmp_path / "small.npy", np.ones((3, 4), dtype=bool))
    with (tmp_path / "many.npy").open("wb") as file:
        np.savez(file, a=np.ones(2))
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert "Traceback" not in err


def test_a_large_file_is_not_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "mask.npy", np.ones((4, 4), dtype=bool))
    monkeypatch.setattr("tilewright.schedules.masks.MAX_FILE_BYTES", 100)
    code, _, err = run("--mask", "mask.npy", *BASE)
    assert code == 2
    assert "mask.npy: more than" in err
