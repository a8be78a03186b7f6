"""Which expression of the tensors' sizes every integer of a launch is: found by agreement over several examples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...errors import UnsupportedKernel
from ...expr import Expr, Op, apply, const, var

Values = tuple[int, ...]
MAX_DEGREE = 4
USUAL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
SHIFTS = (1, -1)


@dataclass(frozen=True, slots=True)
class Monomial:
    """coefficient * product of sizes (names, sorted, with repetition)."""

    coefficient: int
    names: tuple[str, ...] = ()

    def expr(self) -> Expr:
        """The product as an expression."""
        factors = [var(name) for name in self.names]
        if self.coefficient != 1 or not factors:
            factors.insert(0, const(self.coefficient))
        return math.prod(factors[1:], start=factors[0])


class SizeTable:
    """Names of sizes and their values in every example."""

    def __init__(self) -> None:
        self.values: dict[str, Values] = {}
        self.blocks: list[int] = list(USUAL_BLOCKS)
        self._found: dict[Values, Expr] = {}
        self._strides: dict[Values, Expr] = {}

    def dimension(self, values: Values, name: str, *, is_product: bool = False) -> Expr:
        """The size of a dimension: a number where all examples agree, else a name (one name for equal values).

        is_product: memory of the launcher's own may have dimensions that are products of other sizes.
        """
        if len(set(values)) == 1:
            return const(values[0])
        for known, there in self.values.items():
            if there == values:
                return var(known)
        product = self.monomial(values) if is_product else None
        if product is not None and product.coefficient == 1:
            return product.expr()
        self.values[name] = values
        self._found.clear()
        return var(name)

    def identify(self, values: Values, what: str) -> Expr:
        """The expression of the sizes that has these values. Raises UnsupportedKernel, naming `what`."""
        found = self._strides.get(values, self._found.get(values))
        if found is None:
            found = self._search(values)
            if found is None:
                raise UnsupportedKernel(
                    f"{what} is {list(values)} in the examples, which is no expression of the tensors' sizes that is "
                    f"looked for; sizes: { ({name: list(v) for name, v in self.values.items()}) }"
                )
            self._found[values] = found
        return found

    def prefer(self, blocks: Iterable[int]) -> None:
        """Constants of a launch: counts of blocks are looked for with these first."""
        first = sorted({block for block in blocks if block > 1}, reverse=True)
        self.blocks = [*first, *(block for block in self.blocks if block not in first)]
        self._found.clear()

    def stride(self, values: Values, dims: Sequence[Expr]) -> Monomial | None:
        """coefficient * sizes with these values: sizes of the tensor's own where they explain it. Arguments follow."""
        own = {str(dim.attr) for dim in dims if dim.op is Op.VAR}
        products = ((names, there) for names, there in self._monomials() if names and own.issuperset(names))
        for names, product in products if len(set(values)) > 1 else ():
            ratio = _ratio(values, product)
            if ratio:
                found = Monomial(ratio, names)
                self._strides.setdefault(values, found.expr())
                return found
        return self.monomial(values)

    def monomial(self, values: Values) -> Monomial | None:
        """coefficient * sizes with these values."""
        if len(set(values)) == 1:
            return Monomial(values[0])
        for names, product in self._monomials():
            if product == values:
                return Monomial(1, names)
        for names, product in self._monomials():
            if all(p and v % p == 0 for v, p in zip(values, product, strict=True)):
                ratios = {v // p for v, p in zip(values, product, strict=True)}
                if len(ratios) == 1 and 0 not in ratios:
                    return Monomial(ratios.pop(), names)
        return None

    def rounded(self, values: Values, known: Iterable[str]) -> str | None:
        """The size of which these values are the next multiples of a block."""
        for name in sorted(known):
            for block in USUAL_BLOCKS:
                if tuple(-(-v // block) * block for v in self.values.get(name, ())) == values:
                    return name
        return None

    def quotients(self) -> dict[tuple[str, int], str]:
        """(size, ratio) -> the size that it is a multiple of, where all examples have one ratio."""
        pairs = itertools.permutations(self.values.items(), 2)
        found = {(a, _ratio(x, y)): b for (a, x), (b, y) in pairs}
        return {(a, ratio): b for (a, ratio), b in found.items() if ratio and ratio > 1}

    def _monomials(self) -> Iterator[tuple[tuple[str, ...], Values]]:
        for degree in range(1, MAX_DEGREE + 1):
            for names in itertools.combinations_with_replacement(sorted(self.values), degree):
                yield names, tuple(math.prod(column) for column in zip(*(self.values[n] for n in names), strict=True))

    def _search(self, values: Values) -> Expr | None:
        simple = self.monomial(values)
        if simple is not None:
            return simple.expr()
        for expr, there in self._shifted():
            if there == values:
                return expr
        for expr, there in self._quotients():
            scaled = _ratio(values, there)
            if scaled is not None:
                return expr if scaled == 1 else expr * scaled
        for expr, there in self._quotients():
            if len(set(there)) > 1 and all(t and v % t == 0 for v, t in zip(values, there, strict=True)):
                rest = self.monomial(tuple(v // t for v, t in zip(values, there, strict=True)))
                if rest is not None:
                    return expr * rest.expr()
        return self._combination(values)

    def _combination(self, values: Values) -> Expr | None:
        """A sum, a difference, the least or the largest of two sizes, by some more or fewer; a count of blocks of one.

        None where several are as simple: the examples do not tell which it is.
        """
        pairs = list(self._pairs())
        near = [(_plus(e, s), _added(x, s)) for (e, x), s in itertools.product(pairs, SHIFTS)]
        counts = [
            (ceil_div(e, block), tuple(-(-v // block) for v in x))
            for (e, x), block in itertools.product(pairs, self.blocks)
        ]
        for level in (pairs, near, counts):
            found = {expr for expr, there in level if there == values}
            if found:
                return found.pop() if len(found) == 1 else None
        return None

    def _pairs(self) -> Iterator[tuple[Expr, Values]]:
        for (a, x), (b, y) in itertools.combinations(self.values.items(), 2):
            yield var(a) + var(b), tuple(p + q for p, q in zip(x, y, strict=True))
            yield var(a) - var(b), tuple(p - q for p, q in zip(x, y, strict=True))
            yield var(b) - var(a), tuple(q - p for p, q in zip(x, y, strict=True))
            yield apply(Op.MIN, var(a), var(b)), tuple(map(min, x, y))
            yield apply(Op.MAX, var(a), var(b)), tuple(map(max, x, y))

    def _shifted(self) -> Iterator[tuple[Expr, Values]]:
        for name, there in self.values.items():
            for offset in (-1, 1):
                yield var(name) + offset, tuple(v + offset for v in there)

    def _ratios(self) -> list[tuple[Expr, Values]]:
        """Sizes divided by sizes that divide them: query heads of a key head."""
        return [
            (var(a) // var(b), tuple(p // q for p, q in zip(x, y, strict=True)))
            for (a, x), (b, y) in itertools.permutations(self.values.items(), 2)
            if all(q and p % q == 0 for p, q in zip(x, y, strict=True))
        ]

    def _quotients(self) -> Iterator[tuple[Expr, Values]]:
        """Ratios of sizes, counts of blocks, counts of blocks of parts, rounded-up sizes."""
        yield from self._ratios()
        blocks = self.blocks
        bases = [(var(name), there) for name, there in self.values.items()]
        bases += [(ratio * size, _times(x, y)) for (ratio, x), (size, y) in itertools.product(self._ratios(), bases)]
        for (expr, there), block in itertools.product(bases, blocks):
            yield ceil_div(expr, block), tuple(-(-v // block) for v in there)
        for (expr, there), parts, block in itertools.product(bases, blocks, blocks):
            part = tuple(-(-v // parts) for v in there)
            yield ceil_div(ceil_div(expr, parts), block), tuple(-(-v // block) for v in part)
        for (expr, there), parts in itertools.product(bases, blocks):
            yield expr // parts, tuple(v // parts for v in there)


def ceil_div(value: Expr, block: int) -> Expr:
    """The number of blocks of `block` that cover `value`."""
    return (value + (block - 1)) // const(block)


def _plus(expr: Expr, offset: int) -> Expr:
    return expr + offset if offset > 0 else expr - (-offset)


def _added(x: Values, offset: int) -> Values:
    return tuple(v + offset for v in x)


def _times(x: Values, y: Values) -> Values:
    return tuple(p * q for p, q in zip(x, y, strict=True))


def _ratio(values: Values, there: Values) -> int | None:
    if any(t == 0 or v % t for v, t in zip(values, there, strict=True)):
        return None
    ratios = {v // t for v, t in zip(values, there, strict=True)}
    return ratios.pop() if len(ratios) == 1 else None


def columns(rows: Sequence[Sequence[int]]) -> list[Values]:
    """Transpose: one tuple of values over the examples for each position."""
    return [tuple(column) for column in zip(*rows, strict=True)]
