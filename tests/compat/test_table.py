"""docs/compat.md is what the tables say, and the tables leave out no argument of the real signatures."""

from __future__ import annotations

import inspect
from collections import defaultdict
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from torch.nn.attention import flex_attention as peer

from tilewright.compat import flash_attn, flex_attention, table

LISTED: dict[tuple[str, str], list[str]] = defaultdict(list)
for row in table.arguments():
    LISTED[row.interface, row.function].append(row.name)

FLEX = ("flex_attention", "create_block_mask", "create_mask", "BlockMask.from_kv_blocks", "AuxRequest")
FLASH = tuple(name for name in flash_attn.__all__ if name.startswith("flash_attn"))


def parameters(module: Any, path: str) -> list[str]:
    function = reduce(getattr, path.split("."), module)
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("function", FLEX)
def test_flex_attention(function: str) -> None:
    """Ours has PyTorch's parameters, in PyTorch's order, and all are listed."""
    assert parameters(flex_attention, function) == parameters(peer, function)
    assert LISTED["flex_attention", function] == parameters(peer, function)


def test_kernel_options() -> None:
    assert set(LISTED["flex_attention", "kernel_options"]) == set(peer.FlexKernelOptions.__annotations__)


@pytest.mark.parametrize("function", FLASH)
def test_flash_attn(function: str) -> None:
    assert sorted(LISTED["flash_attn", function]) == sorted(parameters(flash_attn, function))


def test_each_argument_is_listed_once() -> None:
    for place, names in LISTED.items():
        assert len(names) == len(set(names)), place


def test_the_document_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["--check"]) == 0, capsys.readouterr().err


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(table, "DOCUMENT", tmp_path / "compat.md")
    assert table.main(["--check"]) == 1
    assert "run python -m tilewright.compat.table" in capsys.readouterr().err
    assert table.main([]) == 0
    assert table.main(["--check"]) == 0
    assert table.main(["--help"]) == 2
    assert (tmp_path / "compat.md").read_text(encoding="utf-8") == table.render()
