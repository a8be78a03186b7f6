"""Texts that no one should send: random, mutated, nested too deep, with numbers too large."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from tilewright.kernels.references import FOLDER

STAGED = """@program(D=64, Dv=64)
def staged(
    q: f32[B, Hq, M, D],
    k: f32[B, Hkv, N, D],
    v: f32[B, Hkv, N, Dv],
    o: out(f32[B, Hq, M, Dv]),
):
    total = alloc(f32[B, Hq, M, Dv], space="global")
    for b, h, m in grid(B, Hq, tiles(M, 16)):
        ring = alloc(f32[2, 16, D], space="shared")
        bar = barriers(2, arrivals=1)
        q_tile = load(q[b, h, m, :])
        acc = zeros(f32[m, Dv])
        with role("producer", warps=1):
            for step in range(0, (N + 15) // 16):
                n = tile(N, 16, step)
                if step >= 2:
                    sync()
                copy_async(ring[step % 2, n, :], k[b, h, n, :], signal=bar[step % 2])
        with role("consumer", warps=4, count=1) as w:
            for step in range(0, (N + 15) // 16):
                n = tile(N, 16, step)
                wait(bar[step % 2], phase=step // 2 % 2)
                k_tile = load(ring[step % 2, n, :])
                s = gemm_async(q_tile, k_tile)
                commit()
                wait_group(0)
                p = where(index(n) < N, sigmoid(s), 0.0)
                v_tile = load(v[b, h, n, :])
                acc = gemm(p, v_tile, into=acc)
                if step + 2 < (N + 15) // 16:
                    sync()
            store(total[b, h, m, :], acc)
    for b, h, m in grid(B, Hq, tiles(M, 16)):
        part = load(total[b, h, m, :])
        store(o[b, h, m, :], part)
"""
FORWARD = [(FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in ("flash_forward", "flash_split")]
OTHER = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt"))]
VALID = [*[*FORWARD, STAGED] * (2 * len(OTHER) // 3), *OTHER]
TOKEN = re.compile(r"[A-Za-z_]\w*|\d+\.?\d*|==|<=|>=|!=|//|<<|>>|\S|\n| +")
OPERATORS = ["+", "-", "*", "/", "//", "%", "<", "<=", "==", "!=", "&", "|", "^", "<<", ">>"]
NUMBERS = ["0", "1", "-1", "2147483648", "9223372036854775807", "9223372036854775808", "1000000000", "1" + "0" * 400,
           "1" + "0" * 5000, "1e400", "1e-400", "0.0", "inf", "nan", "-inf", "0x7fffffffffffffff", "1_000", "1j", "10**400"]  # fmt: skip
WORDS = sorted({token for text in VALID for token in TOKEN.findall(text) if token.strip()}) + NUMBERS + [
    "lambda", "import os", "__import__('os')", "exec('1')", "eval", "class A: pass", "def f(): return 1", "yield", "await x",
    "async def f(): pass", "try:", "while True:", "if True:", "with open('x') as f:", "@program()", "@program(D=1000000000)",
    "@attention(D=16, Dv=16, group=1)", "'text'", '"""', "f'{x}'", "b'x'", "...", "\\", "\t", "\x00", "é", "变量", "𝐱", "\u202e",
    "out(", "f32[()]", "f32[", "grid(", "tiles(", "range(0, 1000000000)", "role(", "barriers(2147483647)", "alloc(", "load(",
    "store(", "where=", "after=", "shared", "register", "copy_async(", "scatter_add(", "gemm(", "gemm_async(", "index(m)",
]  # fmt: skip


def soup(random: Random) -> str:
    """Words of the language and others, in any order."""
    return "".join(random.choice(WORDS) + random.choice([" ", " ", "\n", "\n    ", ", ", ""])
                   for _ in range(random.randrange(1, 80)))  # fmt: skip


def noise(random: Random) -> str:
    """Characters."""
    high = random.choice([128, 256, 0x3000, 0xD7FF, 0x10FFFF])
    return "".join(chr(random.randrange(high)) for _ in range(random.randrange(200)))


def mutated(random: Random) -> str:
    """A valid text with a few tokens or lines changed."""
    text = random.choice(VALID)
    for _ in range(random.choice([1, 1, 1, 2, 3, 8])):
        text = random.choice(MUTATIONS)(text, random)
    return text


def _lines(text: str, random: Random) -> str:
    lines = text.split("\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    change = random.randrange(5)
    if change == 0:
        del lines[first]
    elif change == 1:
        lines.insert(second, lines[first])
    elif change == 2:
        lines[first], lines[second] = lines[second], lines[first]
    elif change == 3:
        lines[first] = "    " * random.randrange(3) + lines[first]
    else:
        lines[first] = lines[first].removeprefix("    ")
    return "\n".join(lines)


def _token(text: str, random: Random) -> str:
    tokens = TOKEN.findall(text)
    place = random.randrange(len(tokens))
    tokens[place] = random.choice([random.choice(WORDS), random.choice(tokens), "", tokens[place] * 2])
    return "".join(tokens)


def _number(text: str, random: Random) -> str:
    places = [found.span() for found in re.finditer(r"\b\d+(\.\d+)?\b", text)]
    start, end = random.choice(places) if places else (0, 0)
    return text[:start] + random.choice(NUMBERS) + text[end:]


def _name(text: str, random: Random) -> str:
    names = sorted(set(re.findall(r"[A-Za-z_]\w*", text)))
    old, new = random.choice(names), random.choice(names)
    return re.sub(rf"\b{old}\b", new, text, count=random.randrange(3))


def _operator(text: str, random: Random) -> str:
    places = [found.span() for found in re.finditer(r" (\+|-|\*|/|//|%|<=?|>=?|==|&|\||<<|>>) ", text)]
    start, end = random.choice(places) if places else (0, 0)
    return text[:start] + " " + random.choice(OPERATORS) + " " + text[end:]


MUTATIONS: list[Callable[[str, Random], str]] = [_lines, _token, _number, _name, _operator]


def nested(random: Random) -> str:
    """Something that goes deep, or doubles at every step, in a program that is valid otherwise."""
    depth = random.choice([3, 30, 79, 100, 1000, 20000])
    kinds: list[Callable[[int], str]] = [
        lambda n: "(" * n + "s" + ")" * n,
        lambda n: "-" * n + "s",
        lambda n: "s" + " + s" * n,
        lambda n: "s" + " * 2.0 + s" * min(n, 3000),
        lambda n: "exp(" * n + "s" + ")" * n,
        lambda n: "~" * n + "True",
        lambda n: "where(s < 0.0, " * n + "s" + ", s)" * n,
        lambda n: "not " * n + "True",
        lambda n: "s[" * n + "]" * n,
    ]
    value = random.choice(kinds)(depth)
    parts = "".join(f"        t{n + 1} = {random.choice(('t{0} + t{0}', 't{0} * t{0} + s', 'exp(t{0})'))}\n".format(n)
                    for n in range(min(depth, 400)))  # fmt: skip
    steps = min(depth, 60)
    chain = "".join(
        f"    def fn{n + 1}(s: float):\n        return fn{n}(s + 1.0) + fn{n}(s + {n}.5)\n\n" for n in range(steps)
    )
    text = random.choice(VALID).replace("        return s\n", random.choice([
        f"        return {value}\n",
        f"        t0 = s\n{parts}        return t{min(depth, 400)}\n",
        f"        return fn{steps}(s)\n",
    ]))  # fmt: skip
    text = text.replace("):\n    def ", f"):\n    def fn0(s: float):\n        return s\n\n{chain}    def ", 1)
    if random.random() < 0.2:
        text += "".join("    " * (level + 1) + "if True:\n" for level in range(min(depth, 99)))
    return text


GENERATORS: list[Callable[[Random], str]] = [soup, noise, mutated, mutated, mutated, mutated, nested]


def malformed(random: Random) -> str:
    """Any of them."""
    return random.choice(GENERATORS)(random)
