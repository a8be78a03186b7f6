"""Programs in other words than ours, what each computes, and specs that their orchestration is transferred to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.expr import Op, apply, const, load, var
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.spec import (
    BATCH,
    COLUMN,
    HEAD,
    ROW,
    AttentionSpec,
    Normaliser,
    NormaliserKind,
    S,
    TensorSpec,
)

PROGRAMS = Path(__file__).parent / "programs"
F16, F32, I32 = DType.F16, DType.F32, DType.I32
SQUARE = apply(Op.EQ, var("M"), var("N"))


def program(name: str, *changes: tuple[str, str]) -> Program:
    """The program of that name, with parts of its text exchanged; every part must occur."""
    text = (PROGRAMS / f"{name}.txt").read_text()
    for old, new in changes:
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return parse_program(text)


def document(axis: object) -> object:
    return load("doc", (BATCH, axis), Kind.INT)  # type: ignore[arg-type]


def scaled(name: str, **others: object) -> AttentionSpec:
    return AttentionSpec(name, F32, 64, 64, **{"score": S * 0.125, **others})  # type: ignore[arg-type]


COMPUTED = {
    "causal_two_loops": replace(scaled("tutorial", keep=COLUMN <= ROW, requires=SQUARE), dtype=F16),
    "window_gqa": scaled("window_kernel", keep=(COLUMN <= ROW) & (ROW <= COLUMN + 20), requires=SQUARE),
    "bias_descending": scaled(
        "biased", captured=(TensorSpec("Bias", F32, ("Hq", "M", "N")),),
        score=S * 0.125 + load("Bias", (HEAD, ROW, COLUMN), Kind.FLOAT),
    ),
    "sigmoid_bnhd": AttentionSpec(
        "sigmoid_attention", F32, 64, 32, captured=(TensorSpec("shift", F32, ()),),
        score=S * 0.125 + load("shift", (), Kind.FLOAT),
        normaliser=Normaliser(NormaliserKind.ELEMENTWISE, weight=apply(Op.SIGMOID, S)),
    ),
    "softcap_alibi": AttentionSpec(
        "capped", F32, 32, 32, captured=(TensorSpec("slopes", F32, ("Hq",)),),
        score=apply(Op.TANH, S * 0.005892556509887896) * 30.0 + load("slopes", (HEAD,), Kind.FLOAT) * (COLUMN - ROW),
    ),
    "two_pass": scaled(
        "two_pass", captured=(TensorSpec("doc", I32, ("B", "N")),), keep=apply(Op.EQ, document(ROW), document(COLUMN))
    ),
    "sink_start": scaled(
        "with_sinks", group=4, captured=(TensorSpec("sinks", F32, ("Hq",)),), keep=COLUMN <= ROW,
        normaliser=Normaliser(sink=load("sinks", (HEAD,), Kind.FLOAT)),
    ),
    "relu_squared": scaled(
        "relu_squared", keep=COLUMN <= ROW,
        normaliser=Normaliser(
            NormaliserKind.ROW_SUM, weight=apply(Op.MAX, S, 0.0) * apply(Op.MAX, S, 0.0), epsilon=1e-6
        ),
    ),
    "running_lse": scaled("flash_one"),
    "normalised_steps": scaled("divided", keep=COLUMN <= ROW),
    "split_lse": scaled("split_kv"),
    "varlen_causal": scaled("varlen", keep=COLUMN <= ROW),
    "varlen_lengths": scaled("by_lengths", keep=COLUMN <= ROW),
    "if_mask": scaled("if_mask", keep=COLUMN <= ROW, requires=SQUARE),
    "mask_tensor": scaled(
        "mask_tensor", captured=(TensorSpec("mask", DType.BOOL, ("B", "M", "N")), TensorSpec("lens", I32, ("B",))),
        keep=load("mask", (BATCH, ROW, COLUMN), Kind.BOOL)
        & apply(Op.LT, COLUMN, apply(Op.MIN, var("N"), load("lens", (BATCH,), Kind.INT))),
    ),
    "head_loop": scaled("head_loop"),
    "dropout_after": scaled(
        "after", captured=(TensorSpec("w", F32, ("M", "N")),),
        normaliser=Normaliser(after=load("w", (ROW, COLUMN), Kind.FLOAT)),
    ),
    "window_three": scaled("window_three", keep=(ROW <= COLUMN + 200) & (COLUMN <= ROW), requires=SQUARE),
    "no_maximum": scaled(
        "no_maximum", group=2, captured=(TensorSpec("prefix", I32, ("B",)),),
        keep=(COLUMN <= ROW) | apply(Op.LT, COLUMN, load("prefix", (BATCH,), Kind.INT)),
    ),
}  # fmt: skip

SLOPES = TensorSpec("slope", F32, ("Hq",))
TARGETS = {
    "softcap-window-alibi": AttentionSpec(
        "swa", F32, 64, 64, group=2, captured=(SLOPES,),
        score=apply(Op.TANH, S * 0.005) * 25.0 + load("slope", (HEAD,), Kind.FLOAT) * (COLUMN - ROW),
        keep=(COLUMN <= ROW) & (ROW < COLUMN + 40),
    ),
    "sigmoid": AttentionSpec(
        "sigmoid", F32, 64, 32, score=S * 0.125 - 1.0,
        normaliser=Normaliser(NormaliserKind.ELEMENTWISE, weight=apply(Op.SIGMOID, S)),
    ),
    "documents": AttentionSpec(
        "documents", F32, 64, 64, captured=(TensorSpec("doc", I32, ("B", "N")),), score=S * 0.125,
        keep=apply(Op.EQ, document(ROW), document(COLUMN)) & (COLUMN <= ROW), requires=SQUARE,
    ),
    "prefix": AttentionSpec(
        "prefix_lm", F32, 64, 64, captured=(TensorSpec("length", I32, ("B",)),), score=S * 0.125,
        keep=(COLUMN <= ROW) | apply(Op.LT, COLUMN, load("length", (BATCH,), Kind.INT)),
    ),
    "sink": AttentionSpec(
        "sink", F32, 64, 64, group=4, captured=(TensorSpec("logit", F32, ("Hq",)),), score=S * 0.125,
        keep=apply(Op.LE, var("M") + COLUMN, var("N") + ROW), normaliser=Normaliser(sink=load("logit", (HEAD,), Kind.FLOAT)),
    ),
    "full": AttentionSpec("full", F32, 64, 64, score=S * 0.125, keep=const(True)),
}  # fmt: skip
