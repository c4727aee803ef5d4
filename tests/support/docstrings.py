"""Count the docstrings whose first sentence is a fragment.

python tests/support/docstrings.py [--list] [PATH ...]

It counts docstrings of modules, classes and functions, and attribute docstrings: a string expression right after an
assignment, in a module or a class. Paths are files or folders, `plexp` and `plugins` by default; `plexp/templates` is
left out.

The first sentence ends with the first period, question mark or exclamation mark before a space, or with the first
paragraph. It is a fragment if one of these is true:

- its paragraph ends without a period, colon, question mark or exclamation mark;
- it has fewer than three words;
- it begins with a preposition, a conjunction, a relative or interrogative word, or a word that refers to something not
  named (`OPENERS`: "Of now.", "Why it cannot.", "The same from a resolved configuration.");
- it begins with a lower-case word that is neither code in backticks, nor a name of the code, nor part of an equation.

Two such openers are allowed: that of a question, which ends with a question mark, and that of a clause that a comma
separates from the main clause ("If set, …").
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

PREPOSITIONS = """about above across after against along among around as at because before behind below beneath beside
besides between beyond but by despite down during except for from in inside instead into like near of off on onto out
outside over past per since than through throughout till to toward towards under until up upon via with within without"""
CONJUNCTIONS = "although and if nor once or so than then though unless whereas while yet"
RELATIVES = "how what whatever when whenever where wherever whether which whichever who whoever whom whose why"
POINTERS = (
    "also he here hers his it its likewise otherwise same she such that their theirs them there these they this those"
)
OPENERS = frozenset(f"{PREPOSITIONS} {CONJUNCTIONS} {RELATIVES} {POINTERS}".split())
"""Words, in lower case, that never begin a complete sentence of a reference."""

POINTED = frozenset(["former", "latter", "one", "ones", "other", "others", "same"])
"""Words after an opening “the” that refer to something not named."""

QUESTIONS = frozenset(RELATIVES.split())
CLAUSES = frozenset(["after", "because", "before", "if", "once", "since", "unless", "until", "when", "while"])
"""Openers after which a complete sentence may follow, behind a comma."""

FEWEST_WORDS = 3
END = r"[.?!…][\"'”’)\]`]*"
SENTENCE = re.compile(rf"(.*?{END})(?:\s|$)", re.DOTALL)
ABBREVIATION = re.compile(r"\b(?:al|cf|e\.g|eqs?|etc|fig|i\.e|no|pp?|sec|vs)\.$", re.IGNORECASE)
NAME = re.compile(r"[b-z]|[a-z]\w*(?:[._([/{=]\S*|\d\w*)|\w*_\w*")
"""A lower-case word that is a name of the code or a variable: `x`, `env.step(…)`, `w0`, `num_steps`."""
SYMBOLS = frozenset("=≤≥<>−+·×/∈→←↦Σ∏∇√∂~≈|")


@dataclass(frozen=True)
class Docstring:
    file: Path
    line: int
    name: str
    text: str

    @property
    def paragraph(self) -> str:
        return " ".join(self.text.strip().partition("\n\n")[0].split())

    @property
    def sentence(self) -> str:
        """First sentence, or the whole first paragraph where no sentence ends."""
        end = 0
        while match := SENTENCE.match(self.paragraph, end):
            end = match.end()
            sentence = self.paragraph[: match.end(1)]
            if not ABBREVIATION.search(sentence):
                return sentence
        return self.paragraph


def docstrings(file: Path) -> Iterator[Docstring]:
    """Yield every docstring of a file, attribute docstrings included."""

    def text_of(node: ast.AST) -> str | None:
        value = node.value if isinstance(node, ast.Expr) else None
        return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None

    def walk(node: ast.AST, name: str) -> Iterator[Docstring]:
        body = getattr(node, "body", [])
        is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_documented and body and (text := text_of(body[0])) is not None:
            yield Docstring(file, body[0].lineno, name, text)
        if isinstance(node, ast.Module | ast.ClassDef):
            for statement, following in pairwise(body):
                if isinstance(statement, ast.Assign | ast.AnnAssign) and (text := text_of(following)) is not None:
                    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
                    yield Docstring(file, following.lineno, f"{name}.{ast.unparse(targets[0])}", text)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, f"{name}.{child.name}" if hasattr(child, "name") else name)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), file.stem)


def flaw(docstring: Docstring) -> str | None:
    """Return why the first sentence is a fragment, or None if it is complete."""
    sentence = docstring.sentence
    words = sentence.split()
    if not words:
        return "is empty"
    if not re.search(f"(?:{END}|:)$", sentence):
        return "does not end"
    if len(words) < FEWEST_WORDS:
        return f"has fewer than {FEWEST_WORDS} words"
    first, rest = words[0], words[1:]
    bare = first.strip("\"'“”‘’(),.:;?!").lower()
    second = rest[0].strip(",.:;").lower()
    if bare == "the" and second in POINTED:
        return f"begins with “the {second}”"
    if bare in OPENERS:
        is_question = sentence.endswith("?") and bare in QUESTIONS
        has_main_clause = bare in CLAUSES and ", " in sentence
        if not is_question and not has_main_clause:
            return f"begins with “{bare}”"
    is_equation = bool(SYMBOLS & set(" ".join(words[:3])))
    is_lower = first[0].isascii() and first[0].islower()  # a Greek letter is a symbol
    if is_lower and not is_equation and not NAME.fullmatch(first.rstrip(",.:;")):
        return "begins in lower case"
    return None


def package_of(file: Path) -> str:
    """Return the package a file is counted in: "plexp/training" or "plugins/algo", two levels at most."""
    relative = file.resolve().relative_to(CHECKOUT) if file.resolve().is_relative_to(CHECKOUT) else file
    return "/".join(relative.parts[:-1][:2]) or str(relative)


def files_below(paths: Iterable[Path]) -> list[Path]:
    """Return the Python files of files and folders, templates left out."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("**/*.py")))]
    return [file for file in files if "templates" not in file.parts]


def main() -> None:
    """Print the counts by package, and with --list the fragments."""
    parser = argparse.ArgumentParser(description="Count the docstrings whose first sentence is a fragment.")
    parser.add_argument("paths", nargs="*", type=Path, default=[CHECKOUT / "plexp", CHECKOUT / "plugins"])
    parser.add_argument("--list", action="store_true", help="list the fragments, with file, line and reason")
    arguments = parser.parse_args()
    fragments: dict[str, int] = defaultdict(int)
    numbers: Counter[str] = Counter()
    for file in files_below(arguments.paths):
        for docstring in docstrings(file):
            package = package_of(file)
            numbers[package] += 1
            if reason := flaw(docstring):
                fragments[package] += 1
                if arguments.list:
                    print(f"{file}:{docstring.line}: {docstring.name} {reason}: {docstring.sentence[:90]}")
    for package in sorted(numbers):
        print(
            f"{package:24} {fragments[package]:4} of {numbers[package]:4}  {fragments[package] / numbers[package]:6.1%}"
        )
    total, count = sum(fragments.values()), sum(numbers.values())
    print(f"{'total':24} {total:4} of {count:4}  {total / max(count, 1):6.1%}")


if __name__ == "__main__":
    main()
