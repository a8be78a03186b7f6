"""From the element of a function's result to the attention in it, what that is given, and what comes after."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...dtypes import Kind
from ...errors import UnsupportedSpec
from ...expr import Expr, Op, apply, load, rebuild, substitute, var, walk
from ...spec import BATCH, COLUMN, HEAD, ROW, S
from ..factor import Factors, factors
from ..recognise import Recognised, Recogniser, rewrite_zeros
from ..reduce import SCORES
from ..weights import plain
from .loops import without_loop
from .products import Product, by_key_head, deep_loads, renamed

if TYPE_CHECKING:
    from ..tracer import Tracer

ARGUMENTS = ("q", "k", "v")
INDICES = (BATCH, HEAD, ROW, COLUMN)
TABLE = "@t"
DENSE = "compute it before the call and pass it as a further argument: kernels hold no matrix of rows x columns"


class CoreReader(Recogniser):
    """Reads one attention whose q, k, v and biases are made of the function's arguments.

    made: names of tensors that the kernel is to be given, by their elements; their indices are in `indices`.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.t, reader.group, reader.element, reader.where)
        self.reader = reader
        self.product: Product | None = None
        self.value: Expr | None = None
        self.made: dict[Expr, Expr] = {}

    def _weights(self, total: Expr, body: Expr) -> Factors:
        """The factors of the body without those over v's elements, which make a v of their own."""
        product = factors(plain(body))
        element = str(self.element.attr)
        inside, rest = product.split(lambda e: element in self.t.free(e))
        value = inside.product()
        if any(self._reads_deep(e, "v") for e in (*rest.over, *rest.under)) or self._reads_deep(value, SCORES):
            raise self._refusal(total, "v is changed before it is summed by something that depends on scores")
        value = renamed(self.t, value, {str(self.bound.attr): COLUMN})
        if str(ROW.attr) in self.t.free(value):
            raise self._refusal(total, "v is changed by something that depends on the row")
        self.value = by_key_head(value, self.group)
        self.columns = self.t.ranges[str(self.bound.attr)]
        return rest

    def _in_spec_terms(self, e: Expr) -> Expr:
        return super()._in_spec_terms(self._given(e))

    def _score_variable(self, node: Expr) -> Expr | None:
        product = self.reader.by_name.get(str(node.attr)) if node.op is Op.LOAD else None
        if product is None:
            return None
        if node.args[-1] is not self.bound:
            raise self._refusal(node, "the scores are read in another order than v")
        if self.product not in (None, product):
            raise self._refusal(node, "the score combines two products of rows and columns")
        self.product = product
        return S

    def _reads_deep(self, e: Expr, tensor: str) -> bool:
        names = tuple(self.reader.by_name) if tensor == SCORES else (tensor,)
        return any(node.attr in names for node in deep_loads(self.t, e))

    # tensors that are made before the kernel

    def _given(self, e: Expr) -> Expr:
        """The expression with everything that kernels cannot compute read from tensors."""
        if not any(self._is_foreign(node) for node in walk(e)):
            return e
        is_score = self._reads_deep(e, SCORES)
        free = self.t.free(e)
        is_dense = str(ROW.attr) in free and str(self.bound.attr) in free
        if not is_score and not is_dense:
            return self._tensor(e)
        if not self._is_foreign(e):
            return rebuild(e, tuple(self._given(arg) for arg in e.args))
        if is_score:
            return e  # refused by whoever looks at it next
        return self._table(e)

    def _is_foreign(self, node: Expr) -> bool:
        return node in self.t.reductions or (node.op is Op.LOAD and node.attr in ARGUMENTS)

    def _tensor(self, e: Expr, *further: Expr) -> Expr:
        """A tensor over the indices that an expression depends on; further: (variable, index) pairs' variables."""
        body = renamed(self.t, e, {str(self.bound.attr): COLUMN})
        free = self.t.free(body)
        indices = [index for index in (*INDICES, *further) if str(index.attr) in free]
        name = self.reader.name_of(body)
        found = load(name, tuple(indices), e.kind)
        self.made[found] = body
        return substitute(found, {str(COLUMN.attr): self.bound})

    def _table(self, e: Expr) -> Expr:
        """sum over d of q[i, d] * table[f(i, j), d] -> x[i, f(i, j)], with a tensor x over i and the table's rows."""
        places = {arg: size for node in deep_loads(self.t, e) for arg, size in self._mixed(node)}
        if len(places) != 1 or e not in self.t.reductions:
            raise self._refusal(e, "a tensor of rows x columns enters the score", DENSE)
        ((place, size),) = places.items()
        row = var(f"{TABLE}{size!r}")
        self.t.ranges[str(row.attr)] = size
        reduction = self.t.reductions[e]
        body = self._replaced(reduction.body, place, row)
        if {str(ROW.attr), str(self.bound.attr)} <= self.t.free(body):
            raise self._refusal(e, "a tensor of rows x columns enters the score", DENSE)
        atom = self.t.atom(reduction.op, body, reduction.bound, reduction.length)
        found = self._tensor(atom, row)
        return substitute(found, {str(row.attr): place})

    def _replaced(self, e: Expr, place: Expr, row: Expr) -> Expr:
        if e is place:
            return row
        return rebuild(e, tuple(self._replaced(arg, place, row) for arg in e.args))

    def _mixed(self, node: Expr) -> list[tuple[Expr, Expr]]:
        """Indices of a load that depend on row and column, with the size of the dim."""
        both = {str(ROW.attr), str(self.bound.attr)}
        sizes = self.reader.dims.get(str(node.attr), ())
        return [(arg, size) for arg, size in zip(node.args, sizes, strict=False) if both <= self.t.free(arg)]


class Reader:
    """Reads one result: the cores in it, and the result over their outputs `@o0`, `@o1`, …"""

    def __init__(self, tracer: Tracer, group: int, element: Expr, dims: dict[str, tuple[Expr, ...]]) -> None:
        self.t = tracer
        self.group = group
        self.element = element
        self.dims = dims  # sizes of the arguments
        self.where = tracer.last
        assert tracer.products is not None
        self.products = tracer.products
        self.cores: list[tuple[CoreReader, Recognised]] = []
        self.names: dict[Expr, str] = {}
        self.refusal: UnsupportedSpec | None = None
        self.outputs: dict[Expr, Expr] = {}

    @property
    def by_name(self) -> dict[str, Product]:
        """The products found so far."""
        return {product.name: product for product in self.products.found.values()}

    def name_of(self, body: Expr) -> str:
        """A name for a tensor of such elements, the same for equal ones."""
        number = len(self.names)
        while f"x{number}" in self.dims:
            number += 1
        return self.names.setdefault(body, f"x{number}")

    def read(self, e: Expr) -> Expr:
        """The result over the outputs of the attentions in it. Raises UnsupportedSpec."""
        return self._read(without_loop(self.t, rewrite_zeros(e)))

    def _read(self, e: Expr) -> Expr:
        if not self._attends(e):
            return e
        try:
            return self._core(e)
        except UnsupportedSpec as error:
            inner = self._inner(e)
            if inner is None:
                raise
            try:
                return inner()
            except UnsupportedSpec:
                raise error from None

    def _attends(self, e: Expr) -> bool:
        """Whether an expression depends on scores."""
        return any(node.attr in self.by_name for node in deep_loads(self.t, e))

    def _core(self, e: Expr) -> Expr:
        if e not in self.outputs:
            reader = CoreReader(self)
            found = reader.read(e)
            if reader.product is None or reader.value is None:
                raise UnsupportedSpec("the weights do not depend on the product of q and k")
            self.outputs[e] = load(f"@o{len(self.cores)}", (BATCH, HEAD, ROW, self.element), Kind.FLOAT)
            self.cores.append((reader, found))
        return self.outputs[e]

    def _inner(self, e: Expr) -> Callable[[], Expr] | None:
        """How to read an expression by its parts; None where it has none."""
        product = factors(e)
        apart = [f for f in product.over if self._attends(f)]
        if len(product.over) + len(product.under) > 1 and apart:
            return lambda: self._factors(product)
        if e in self.t.reductions:
            return self._summed(e)
        if e.op in (Op.CONST, Op.VAR, Op.LOAD) or (e.op is Op.SELECT and sum(map(self._attends, e.args)) > 1):
            return None
        return lambda: rebuild(e, tuple(self._read(arg) for arg in e.args))

    def _factors(self, product: Factors) -> Expr:
        """Factors that do not depend on scores are left for afterwards."""
        inside, outside = product.split(self._attends)
        if outside.over or outside.under:
            return (Factors([self._read(inside.product())]) * outside).product()
        return (Factors([self._read(f) for f in inside.over], [self._read(f) for f in inside.under])).product()

    def _summed(self, e: Expr) -> Callable[[], Expr] | None:
        """sum of (x + y) * v -> sum of x * v + sum of y * v."""
        reduction = self.t.reductions[e]
        product = factors(reduction.body)
        mixed = next((f for f in product.over if f.op in (Op.ADD, Op.SUB)), None)
        if reduction.op != "sum" or mixed is None:
            return None
        rest = Factors([f for f in product.over if f is not mixed], product.under)

        def distributed() -> Expr:
            terms = []
            for arg in mixed.args:
                body = factors(arg) * rest
                inside, outside = body.split(lambda f: self.t.depends(f, reduction.bound))
                atom = self.t.atom("sum", inside.product(), reduction.bound, reduction.length)
                terms.append(self._read((Factors([atom]) * outside).product()))
            return apply(mixed.op, *terms)

        return distributed
