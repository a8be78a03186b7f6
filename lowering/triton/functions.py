"""Functions that Triton's language lacks or defines differently, as the text that generated files carry.

Generated files hold only those they call. `tl.maximum` drops NaN and `//` truncates; ours follow the IR (and PyTorch).
"""

from __future__ import annotations

FUNCTIONS: dict[str, str] = {
    "maximum": '''\
@triton.jit
def maximum(x, y):
    """The greater of two floats; NaN if either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
''',
    "minimum": '''\
@triton.jit
def minimum(x, y):
    """The lesser of two floats; NaN if either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
''',
    "tanh": '''\
@triton.jit
def tanh(x):
    """Hyperbolic tangent: 1 - 2 / (e^2x + 1), and its series near zero, where that would cancel."""
    square = x * x
    series = ((0.021869488536155203 * square - 0.05396825396825397) * square + 0.13333333333333333) * square
    near = x + x * square * (series - 0.3333333333333333)
    far = 1.0 - 2.0 / (tl.exp2(x * 2.8853900817779268) + 1.0)
    return tl.where(square < 0.0625, near, far)
''',
    "power": '''\
@triton.jit
def power(x, y):
    """x to the power y; NaN for a negative x and a y that is not whole."""
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    half = y * 0.5
    sign = tl.where(tl.floor(half) == half, 1.0, -1.0)
    negative = tl.where(tl.floor(y) == y, sign * size, float("nan"))
    return tl.where(y == 0.0, 1.0, tl.where(x < 0.0, negative, size))
''',
    "floor_divide": '''\
@triton.jit
def floor_divide(x, y):
    """x // y rounded towards minus infinity."""
    rest = x % y
    return x // y - tl.where((rest != 0) & ((rest < 0) != (y < 0)), 1, 0)
''',
    "floor_modulo": '''\
@triton.jit
def floor_modulo(x, y):
    """The remainder of floor_divide: it has the sign of y."""
    rest = x % y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)
''',
    "wait_for_turn": '''\
@triton.jit
def wait_for_turn(turn, rank, target, tile, instance, report, MOST_SPINS: tl.constexpr):
    """Wait until `rank` additions have been made to a tile, and see what they stored.

    One thread looks, acquiring; all others meet it. Loops that hold this are pipelined, and would not be if it were a
    loop of this language. With MOST_SPINS it is one: give up after so many looks, or when another wait has, and report
    the first that did.
    """
    if MOST_SPINS == 0:
        tl.inline_asm_elementwise(
            """{
                .reg .pred first, waits;
                .reg .b32 number;
                mov.u32 number, %tid.x;
                setp.eq.u32 first, number, 0;
                @!first bra MEET;
                LOOK:
                ld.acquire.gpu.global.b32 number, [$1];
                setp.ne.b32 waits, number, $2;
                @waits bra LOOK;
                MEET:
                bar.sync 0;
                mov.b32 $0, $2;
            }""",
            "=r,l,r",
            [turn, rank],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        made = tl.atomic_add(turn, 0, sem="acquire", scope="gpu")
        spins = 1
        while (made != rank) & (spins < MOST_SPINS):
            made = tl.atomic_add(turn, 0, sem="acquire", scope="gpu")
            spins = tl.where(tl.atomic_add(report, 0, sem="relaxed") == 0, spins + 1, MOST_SPINS)
        if made != rank:
            if tl.atomic_add(report, 1, sem="relaxed") == 0:
                tl.store(report + 1, target)
                tl.store(report + 2, tile)
                tl.store(report + 3, rank)
                tl.store(report + 4, made)
                tl.store(report + 5, instance)
        tl.debug_barrier()
''',
    "pass_turn": '''\
@triton.jit
def pass_turn(turn, MOST_SPINS: tl.constexpr):
    """Let the next rank add to a tile, and see what this one stored: all threads meet, then one releases."""
    if MOST_SPINS == 0:
        tl.inline_asm_elementwise(
            """{
                .reg .pred first;
                .reg .b32 number;
                mov.u32 number, %tid.x;
                setp.eq.u32 first, number, 0;
                bar.sync 0;
                @first red.release.gpu.global.add.s32 [$1], 1;
                mov.b32 $0, 0;
            }""",
            "=r,l",
            [turn],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        tl.debug_barrier()
        tl.atomic_add(turn, 1, sem="release", scope="gpu")
''',
}
