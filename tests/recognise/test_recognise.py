"""Foreign programs are understood: their spec, their canonical program, and both agree with the program itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from foreign import COMPUTED, TARGETS, program

from tilewright.ir.errors import VerificationError
from tilewright.ir.parser import parse_program
from tilewright.ir.printer import print_expr, print_spec
from tilewright.ir.spec import AttentionSpec, NormaliserKind
from tilewright.ir.transfer import recognise, transfer
from tilewright.ir.transfer.confirm import confirm
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program
from tilewright.kernels.verification import Subject, verify_program

DENSE = [name for name in COMPUTED if not name.startswith("varlen")]
CANONICAL = [
    "flash_forward", "flash_split", "flash_ragged", "flash_paged", "flash_decode", "flash_decode_paged",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_the_spec_is_what_the_program_computes(name: str) -> None:
    assert print_spec(recognise(program(name)).spec) == print_spec(COMPUTED[name])


@pytest.mark.parametrize("name", COMPUTED)
def test_the_canonical_program_is_a_valid_reference(name: str) -> None:
    found = recognise(program(name))
    for made in (found.program, found.reference):
        verify(made)
        assert parse_program(str(made)) == made
        assert {"score", "keep"} & {region.name for region in made.regions}
    again = recognise(found.program)
    assert again.program == found.program
    assert print_spec(with_sizes_of(again.spec, found.spec)) == print_spec(found.spec)


def with_sizes_of(spec: AttentionSpec, other: AttentionSpec) -> AttentionSpec:
    """The spec with what canonical programs do not hold, because they do for all, taken from the other."""
    return replace(spec, requires=other.requires, group=other.group)


@pytest.mark.parametrize("name", COMPUTED)
def test_program_canonical_program_and_spec_agree(name: str) -> None:
    raw = program(name)
    assert confirm(raw, recognise(raw)) is not None


@pytest.mark.parametrize("name", DENSE)
def test_canonical_programs_verify(name: str) -> None:
    found = recognise(program(name))
    assert verify_program(found.program, Subject(found.spec)).verified


@pytest.mark.parametrize("name", CANONICAL)
def test_canonical_programs_stay_as_they_are(name: str) -> None:
    reference = reference_program(name)
    found = recognise(reference)
    assert found.program is reference
    assert found.reference is reference
    spec = found.spec
    assert (str(spec.score), str(spec.keep), spec.captured) == ("s", "True", ())
    assert spec.normaliser.kind is NormaliserKind.SOFTMAX
    assert spec.normaliser.sink is None


def test_lengths_that_a_tensor_holds_are_those_of_the_canonical_program() -> None:
    regions = {region.name: print_expr(region.body) for region in recognise(program("varlen_lengths")).program.regions}
    assert (regions["rows"], regions["columns"]) == ("count[b]", "count[b]")


@pytest.mark.parametrize("spec", TARGETS)
def test_generated_programs_are_read_back(spec: str) -> None:
    made = transfer(reference_program(), TARGETS[spec])
    assert print_spec(with_sizes_of(recognise(made).spec, TARGETS[spec])) == print_spec(TARGETS[spec])


def test_a_spec_that_is_not_the_programs_is_not_confirmed() -> None:
    raw = program("window_gqa")
    found = recognise(raw)
    wrong = replace(found, spec=replace(found.spec, keep=COMPUTED["causal_two_loops"].keep))
    with pytest.raises(VerificationError, match=r"the program gives .* where the spec window_kernel gives"):
        confirm(raw, wrong)


def test_a_canonical_program_that_is_not_the_programs_is_not_confirmed() -> None:
    raw = program("window_gqa")
    found = recognise(raw)
    wrong = replace(found, program=transfer(raw, replace(found.spec, score=found.spec.score * 2.0)))
    with pytest.raises(VerificationError, match="its canonical program gives"):
        confirm(raw, wrong)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("causal_two_loops", "log-sum-exp is in base 2"),
        ("no_maximum", "no running maximum"),
        ("split_lse", "parts of the keys that have none"),
        ("window_three", "1 of 3 loops over keys are joined"),
    ],
)
def test_what_is_not_in_the_spec_is_noted(name: str, note: str) -> None:
    assert any(note in one for one in recognise(program(name)).notes)
