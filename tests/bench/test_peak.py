"""The peak's library builds, loads and counts its operations; which unit is the peak of a type."""

from __future__ import annotations

import pytest

from tilewright.bench import peak
from tilewright.bench.rows import PEAK, VECTOR_PEAK


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_peak_counts_the_work_it_does(dtype: str) -> None:
    for work in peak.peaks_for("cpu", dtype).values():
        assert work.flops > 0
        assert work.run() == work.flops


def test_the_fastest_unit_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def units(*there: str):
        known = {name: peak.Peak(lambda: None, float(i)) for i, name in enumerate(there)}
        monkeypatch.setattr(peak, "_unit", known.get)
        return known

    known = units("peak_tile", "peak_dot", "peak_fma")
    assert peak.peaks_for("cpu", "bf16") == {PEAK: known["peak_tile"], VECTOR_PEAK: known["peak_dot"]}
    assert peak.peaks_for("cpu", "f32") == {PEAK: known["peak_fma"]}
    known = units("peak_dot", "peak_fma")
    assert peak.peaks_for("cpu", "bf16") == {PEAK: known["peak_dot"]}
    known = units("peak_fma")
    assert peak.peaks_for("cpu", "bf16") == {PEAK: known["peak_fma"]}
