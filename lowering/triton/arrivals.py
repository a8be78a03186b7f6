"""Two grids as one launch: of the instances that write what one of the second grid reads, the last to arrive runs it.

Each stores its part, waits for its own threads and adds one to a counter of its group, releasing what it stored and
acquiring what the others did. Who finds all others there does the second grid's work, which reads the parts in the
order of the program's text: bits do not depend on who it was. It sets the counter back for the next launch.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.dtypes import DType
from ...ir.edit import references
from ...ir.expr import Expr, Op, const, free_vars, loads, var
from ...ir.program import Alloc, Grid, Load, ReduceAdd, Ref, Store, TileAxis, statements
from .bound import expressions_of
from .context import Context
from .expressions import folded
from .kernel import Kernel, KernelWriter
from .layout import wrapped


def merge_arguments(context: Context, merge: Kernel) -> list[str]:
    """What the function of the second grid takes, by the names that the kernel has for it."""
    strides = [stride for name in merge.tensors for stride in context.stride_parameters(name)]
    return [*map(context.names, merge.tensors), *strides, *merge.sizes, *map(context.names, merge.grid.names)]


def are_joined(context: Context, first: Grid, second: Grid) -> bool:
    """Whether every instance of `second` reads only what those of `first` with the same variables wrote.

    `first` has further variables, at least one instance of each; all else is the same, and no memory is touched by
    both but the buffers that one writes and the other reads.
    """
    outer, inner = (dict(zip(g.names, g.extents, strict=True)) for g in (first, second))
    further = [outer[name] for name in first.names if name not in inner]
    if not further or any(outer.get(name) != extent for name, extent in inner.items()):
        return False
    if not all(isinstance(extent, Expr) and _is_at_least_one(context, extent) for extent in further):
        return False
    if second.warps not in (None, first.warps) or any(isinstance(s, ReduceAdd) for s in statements((first, second))):
        return False
    parts = _touched(first, Store) & {s.name for s in context.program.body if isinstance(s, Alloc)}
    shared = (_touched(first) & _touched(second, Store)) | (_touched(first, Store) & _touched(second))
    if not parts or shared - parts or parts & (_touched(second, Store) | _touched(first, Load)):
        return False
    return all(_is_own(name, context, first, second) for name in parts)


def _is_at_least_one(context: Context, extent: Expr) -> bool:
    count = folded(context.inline(extent), context.shapes.sizes)
    terms = count.args if count.op is Op.MAX else (count,)
    return not free_vars(count) - set(context.sizes) and any(
        term.op is Op.CONST and int(str(term.attr)) >= 1 for term in terms
    )


def _touched(grid: Grid, *kinds: type) -> set[str]:
    """Tensors that statements of these kinds (all, if none is named) name, elements in expressions included."""
    found = {r.name for s in statements(grid.body) if not kinds or isinstance(s, kinds) for r in references(s)}
    if not kinds or Load in kinds:
        found |= {str(node.attr) for e in expressions_of(grid.body) for node in loads(e)}
    return found


def _is_own(name: str, context: Context, first: Grid, second: Grid) -> bool:
    """Whether all references to a buffer have each of the shared variables at a place of its own."""
    if any(str(node.attr) == name for e in expressions_of(second.body) for node in loads(e)):
        return False
    refs = [r for s in statements((first, second)) for r in references(s) if r.name == name]
    return all(any(_has(refs, place, variable) for place in range(len(refs[0].indices))) for variable in second.names)


def _has(refs: list[Ref], place: int, variable: str) -> bool:
    return all(ref.indices[place] in (var(variable), TileAxis(variable)) for ref in refs)


def joined(context: Context, writer: KernelWriter, kernel: Kernel, second: Grid, at: int) -> Kernel:
    """The kernel of the first grid, which `writer` wrote, with the second grid's work at its end."""
    part = KernelWriter(context, second, (at,), is_merge=True)
    merge = part.kernel(context.names.fresh(f"{context.program.name}_merge"))
    counter = context.names.fresh("arrivals")
    context.counters[counter] = second.extents
    context.shapes.tensors[counter] = Alloc(counter, DType.I32, (const(1),))
    group, arrived = context.names.fresh("group"), context.names.fresh("arrived")
    others = " * ".join(writer.counts[name] for name in writer.grid.names if name not in second.names)
    place = f"{counter} + {group} * {context.strides(counter)[0]}"
    arguments = merge_arguments(context, merge)
    lines = [
        f"{group} = {writer.instance(second.names)}",
        "tl.debug_barrier()  # every thread of this block has stored its part",
        f'{arrived} = tl.atomic_add({place}, 1, sem="acq_rel", scope="gpu")',
        f"if {arrived} == {others} - 1:  # the last of its group",
        f"    tl.store({place}, 0)",
        *(f"    {line}" for line in [f"{merge.name}(", *(f"    {row}" for row in wrapped(arguments)), ")"]),
    ]
    tensors = {*kernel.tensors, *merge.tensors}
    params = [*(p.name for p in context.program.params), *context.shapes.tensors]
    return replace(
        kernel,
        tensors=(*(name for name in dict.fromkeys(params) if name in tensors), counter),
        sizes=tuple(size for size in context.sizes if size in {*kernel.sizes, *merge.sizes}),
        body=(*kernel.body, *(f"    {line}" for line in lines)),
        merge=merge,
    )
