"""The bench of constructed ensembles: its candidates, its draws, what it counts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tilewright.bench import uncertainty
from tilewright.bench.candidates import EDITS, SPECS, edited_texts, spec_of
from tilewright.bench.uncertainty import Candidate, Draw, Policy, Task, adaptive, always, draw, foretell, measure
from tilewright.ir.errors import TilewrightError
from tilewright.ir.transfer import transfer
from tilewright.kernels.references import reference_program

TILES = (32, 32)
RIGHT = Candidate("right", TILES, ("ok", "ok"))
HIDDEN = Candidate("hidden", TILES, ("off:1e2:1", "ok"))
SEEN = Candidate("seen", TILES, ("off:1e1:1", "off:1e1:1"))
OTHER = Candidate("other", TILES, ("off:1e1:2", "off:1e1:2"))


def toy(number: int = 0) -> Task:
    return Task(f"toy {number}", (RIGHT,), ((HIDDEN,), (SEEN,), (OTHER,)))


def of(strong: list, medium: list, weak: list) -> Draw:
    return Draw("toy", {"strong": tuple(strong), "medium": tuple(medium), "weak": tuple(weak)})


def test_every_edit_applies_somewhere():
    texts = [str(transfer(reference_program(), spec_of(name))) for name in SPECS]
    assert {kind for text in texts for kind in edited_texts(text)} == set(EDITS)


def test_real_candidates_are_judged_by_what_they_do(monkeypatch):
    monkeypatch.setattr(uncertainty, "TILES", ((64, 64),))
    (task,) = uncertainty.tasks(["sigmoid"])
    kinds = {found[0].kind: found[0] for found in task.wrong}
    assert all(candidate.is_right for candidate in task.right)
    assert {"scale doubled", "wrong group", "length of the rows"} <= set(kinds)
    assert not kinds["scale doubled"].passes
    assert {kind for kind, found in kinds.items() if found.passes} == {
        "batch forgotten", "wrong group", "first group", "length of the rows",
    }  # fmt: skip


def test_transfer_that_is_wrong_is_no_task(monkeypatch):
    monkeypatch.setattr(uncertainty, "TILES", ((64, 64),))
    monkeypatch.setattr(uncertainty, "transfer", lambda *_: str(transfer(reference_program(), spec_of("relu"))))
    with pytest.raises(TilewrightError, match="what transfer makes of sigmoid is not right"):
        uncertainty.tasks(["sigmoid"])


def test_draws_follow_the_model():
    rng = np.random.default_rng(0)
    found = [draw(toy(), rng) for _ in range(600)]
    shares = {}
    for model, (_, blank) in uncertainty.MODELS.items():
        samples = [sample for one in found for sample in one.answers[model]]
        assert np.mean([s is None for s in samples]) == pytest.approx(blank, abs=0.02)
        shares[model] = np.mean([s is RIGHT for s in samples if s is not None])
    assert shares["strong"] > shares["medium"] > shares["weak"] > 0.4


def test_what_is_foretold():
    one = foretell(of([SEEN, RIGHT], [None, HIDDEN], [HIDDEN, SEEN]))
    assert one.is_wrong  # the weak model's first answer is the first that passes
    assert one.scores["entropy of strong"] == pytest.approx(math.log(2))
    assert one.scores["entropy of medium"] == 0
    assert one.scores["CoE"] == pytest.approx(one.scores["U_A"] + one.scores["U_E"])
    assert not foretell(of([RIGHT], [HIDDEN], [HIDDEN])).is_wrong
    assert foretell(of([SEEN], [None], [SEEN])) is None
    assert foretell(of([RIGHT], [None], [SEEN])).scores["entropy of medium"] == pytest.approx(math.log(5))


def test_what_is_spent():
    agreed = of([RIGHT] * 5, [RIGHT] * 5, [RIGHT] * 5)
    end = adaptive(agreed, Policy())
    assert (end.samples, end.is_accepted, end.is_wrong) == (3, True, False)
    assert always(agreed, Policy()).samples == 15
    fooled = adaptive(of([HIDDEN] * 5, [HIDDEN] * 5, [HIDDEN] * 5), Policy())
    assert (fooled.is_accepted, fooled.is_wrong) == (True, True)
    rejected = adaptive(of([SEEN] * 5, [SEEN] * 5, [SEEN] * 5), Policy())
    assert (rejected.samples, rejected.is_accepted) == (15, False)


def test_a_search_finds_what_the_weak_set_hides():
    """Two models are sure of answers that pass, one of another: the search tells the right from the hidden ones."""
    one = of([RIGHT] * 5, [HIDDEN] * 5, [SEEN] * 5)
    assert not adaptive(one, Policy(searches=1)).is_wrong
    assert adaptive(one, Policy(searches=1)).is_accepted
    assert always(one, Policy(searches=1)).is_accepted


def test_all_numbers_are_there_and_the_same_every_time(monkeypatch, tmp_path):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 50)
    numbers = measure([toy(n) for n in range(4)], draws=20)
    assert numbers == measure([toy(n) for n in range(4)], draws=20)
    assert json.loads(json.dumps(numbers))["draws"] == 80
    assert set(numbers["areas"]) == {"CoE", "U_E", "U_A", *(f"entropy of {model}" for model in uncertainty.MODELS)}
    assert numbers["areas"]["CoE"]["gain_of_coe"] == 0
    for found in numbers["spending"]:
        assert found["adaptive"]["mean_samples"] < found["always"]["mean_samples"] == 15
        assert found["always_as_many"]["accepted"] == pytest.approx(found["adaptive"]["accepted"], abs=0.05)
    assert "AUROC of CoE" in uncertainty.summary(numbers)

    monkeypatch.setattr(uncertainty, "tasks", lambda say: [toy(n) for n in range(4)])
    assert uncertainty.main([str(tmp_path / "new" / "file.json"), "--draws", "20"]) == 0
    written = json.loads((tmp_path / "new" / "file.json").read_text())
    assert written["areas"] == json.loads(json.dumps(numbers["areas"]))
