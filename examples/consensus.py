"""How far to trust what several language models say: collaborative entropy of ordinary answers.

Run it: `python examples/consensus.py`. The answers below were written for this example; put in those of your models.
Two answers mean the same here if they name the same things once case, punctuation and small words are left out, or if
one is part of the other; for longer texts, ask a model of entailment in both directions instead.
"""

import re

import tilewright as tw
from tilewright.ir.transfer.consensus_decision import Budget, ambiguity, decide

SMALL_WORDS = {"a", "an", "and", "about", "at", "by", "in", "is", "it", "of", "on", "the", "was", "were"}

# question -> model -> its answers, sampled at a temperature above zero; None where it declined
ANSWERS = {
    "Who wrote The Master and Margarita?": {
        "north": ["Mikhail Bulgakov", "Bulgakov", "It was Mikhail Bulgakov.", "Mikhail Bulgakov"],
        "south": ["Bulgakov", "Mikhail Bulgakov", "Bulgakov", None],
        "west": ["Mikhail Bulgakov.", "Mikhail Bulgakov", "Bulgakov", "Bulgakov"],
    },
    "When does the film begin?": {
        "north": ["In 1936", "1936", "1936", "In 1936."],
        "south": ["At 20:15", "20:15", "It is at 20:15.", "20:15"],
        "west": ["1936", "In 1936", "1936", "in 1936"],
    },
    "How many windows has the winter palace?": {
        "north": ["1945", "About 2000", "1500", "1786"],
        "south": ["1786", "1500", "1945", "About 2000"],
        "west": ["2000", "1945", "1786", "1500"],
    },
    "What did the mayor of Ulm eat on 3 May 1612?": {
        "north": ["Dumplings", "Roast", "Fish", "Soup"],
        "south": [None, "Bread", None, "Cheese"],
        "west": ["Trout", "Lentils", "Sausage", "Cabbage"],
    },
}


def words(text: str) -> frozenset[str]:
    """What an answer names."""
    return frozenset(re.findall(r"[\w:]+", text.lower())) - SMALL_WORDS


def same(one: str, other: str) -> bool:
    """Whether two answers mean the same; it need not be transitive."""
    return words(one) <= words(other) or words(other) <= words(one)


def main() -> None:
    """A line of numbers and one of advice for each question."""
    for question, answers in ANSWERS.items():
        found = tw.consensus(answers, same)
        step = decide(found, Budget(samples=12))
        terms = found.normalised()
        print(f"{question}\n  U_A {terms.aleatoric:.2f}  U_E {terms.epistemic:.2f}  ->  {step.action.value}")
        print(f"  {ambiguity(found, lambda answer: answer.rstrip('.'))}")
        if found.most_divergent is not None:
            print(f"  furthest from the others: {found.most_divergent}")


if __name__ == "__main__":
    main()
