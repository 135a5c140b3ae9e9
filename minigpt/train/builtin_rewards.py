"""The built-in reward functions, one row of REWARDS each; see rewards for what a function takes and returns.

None of them pays for an empty answer: a reward that does is learned before anything else.
"""

import ast
import operator
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from minigpt.errors import DataError, UsageError

Function = Callable[[list[str], list[str], list[dict]], list[float]]


@dataclass(frozen=True)
class BuiltIn:
    """A row of the table: `make` builds the function, from the argument after the colon where there is one."""

    make: Callable[..., Function]
    argument: str = ""  # what the argument says; empty: none is taken
    example: str = ""


def exact() -> Function:
    """1 when the answer is the row's `answer`, apart from spaces at the ends and between words."""
    return _each(lambda prompt, answer, row: float(_spaced(answer) == _expected(row)))


def contains() -> Function:
    """1 when the row's `answer` stands in the answer as a whole word or number ("12" is not in "312")."""

    def found(prompt: str, answer: str, row: dict) -> float:
        expected = re.escape(_expected(row))
        return float(re.search(rf"(?<!\w){expected}(?!\w)", _spaced(answer)) is not None)

    return _each(found)


def regex(pattern: str) -> Function:
    """1 when the regular expression is found in the answer."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UsageError(f"The regular expression {pattern!r} of a reward is not valid: {error}.") from None
    if compiled.search(""):
        raise UsageError(f"The regular expression {pattern!r} of a reward also matches an empty answer.",
                         "Ask for at least one character: an empty answer would earn the reward.")  # fmt: skip
    return _each(lambda prompt, answer, row: float(compiled.search(answer) is not None))


def length(target: str) -> Function:
    """1 for answers of `target` characters, falling evenly to 0 at none and at twice as many."""
    if not target.isdigit() or int(target) < 1:
        raise UsageError(f"The reward length wants a number of characters, not {target!r}.", "Write length:80")
    wanted = int(target)
    return _each(lambda prompt, answer, row: max(0.0, 1.0 - abs(len(answer.strip()) - wanted) / wanted))


def language(name: str) -> Function:
    """The share of the answer's evidence that speaks for the language `name`; 0 without any.

    Evidence are letters of its script; for languages in Latin letters, its most frequent words among all frequent ones.
    """
    if name in SCRIPTS:
        return _each(lambda prompt, answer, row: _script_share(answer, SCRIPTS[name]))
    if name not in FREQUENT_WORDS:
        known = ", ".join([*FREQUENT_WORDS, *SCRIPTS])
        raise UsageError(f"The reward language does not know {name!r}.", f"Choose one of {known}.")
    return _each(lambda prompt, answer, row: _word_share(answer, name))


def arithmetic() -> Function:
    """1 when the last number in the answer is the value of the first calculation in the prompt ("17 + 4", "3 * 5").

    A prompt without a calculation is checked against the row's `answer`, when that holds a number.
    """

    def checked(prompt: str, answer: str, row: dict) -> float:
        value = _calculation(prompt)
        if value is None:
            value = _last_number(str(row.get("answer", "")))
        if value is None:
            raise DataError(f"The reward arithmetic finds no calculation in the prompt {prompt!r}.",
                            "Give prompts with one, or rows with an answer that holds a number.")  # fmt: skip
        found = _last_number(answer)
        return float(found is not None and abs(found - value) <= 1e-9 * max(1.0, abs(value)))

    return _each(checked)


REWARDS: dict[str, BuiltIn] = {
    "exact": BuiltIn(exact),
    "contains": BuiltIn(contains),
    "regex": BuiltIn(regex, "a regular expression", "[0-9]+"),
    "length": BuiltIn(length, "a number of characters", "80"),
    "language": BuiltIn(language, "a language", "de"),
    "arithmetic": BuiltIn(arithmetic),
}

FREQUENT_WORDS = {
    "en": "the of and to in is that it was for on are with as his they be at this have from not but what all were we "
          "when your can said there she which their if will how he you has do does",
    "de": "der die das und ist nicht ein eine einen dem den des zu von mit sich auf für im auch als an es wie aus sind "
          "wird oder hat war ich sie er wir ihr was wenn bei kein keine",
    "fr": "le la les de des et est un une dans que qui pour pas sur avec ce cette il elle sont au aux du nous vous ne "
          "je ou mais plus par se son sa ses quoi",
    "es": "el la los las de y es un una en que por para con no se su al lo como más pero sus le ya o este sí porque "
          "esta entre cuando muy sin sobre son está del",
    "it": "il lo la i gli le di e è un una in che per con non si da come ma più sono del della dei nel al alla anche "
          "questo quando ha ho cosa chi",
}  # fmt: skip
SCRIPTS = {"ru": ("CYRILLIC",), "el": ("GREEK",), "ar": ("ARABIC",), "he": ("HEBREW",), "hi": ("DEVANAGARI",),
           "zh": ("CJK",), "ja": ("HIRAGANA", "KATAKANA", "CJK"), "ko": ("HANGUL",)}  # fmt: skip
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
NUMBER = r"\d+(?:\.\d+)?"


def _each(function: Callable[[str, str, dict], float]) -> Function:
    """A reward of one answer as one of lists."""
    return lambda prompts, answers, rows: [function(*one) for one in zip(prompts, answers, rows, strict=True)]


def _expected(row: dict) -> str:
    expected = _spaced(str(row.get("answer") or ""))
    if not expected:
        raise DataError(f"A row has no answer to compare with: {str(row)[:120]}",
                        'This reward needs rows with a field "answer" that is not empty.')  # fmt: skip
    return expected


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _script_share(text: str, scripts: tuple[str, ...]) -> float:
    letters = [unicodedata.name(c, "") for c in text if c.isalpha()]
    return sum(name.startswith(scripts) for name in letters) / len(letters) if letters else 0.0


def _word_share(text: str, name: str) -> float:
    """Frequent words of this language among the frequent words of any; a word of n languages counts 1/n for each."""
    lists = {key: set(words.split()) for key, words in FREQUENT_WORDS.items()}
    own = seen = 0.0
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        owners = [key for key, words in lists.items() if word in words]
        if owners:
            seen += 1.0
            own += (name in owners) / len(owners)
    return own / seen if seen else 0.0


def _last_number(text: str) -> float | None:
    found = re.findall(rf"(?<![\w.])-?{NUMBER}|{NUMBER}", text.replace("−", "-").replace(",", ""))
    return float(found[-1]) if found else None


def _calculation(prompt: str) -> float | None:
    """The value of the first run of numbers and operators, longest first; None without one."""
    text = prompt.replace("−", "-").replace("×", "*").replace("÷", "/")
    for run in re.findall(rf"[(\s]*{NUMBER}[\s()]*(?:[-+*/][\s()]*{NUMBER}[\s()]*)+", text):
        try:
            return _value(ast.parse(run.strip(), mode="eval").body)
        except (SyntaxError, ZeroDivisionError, KeyError, AttributeError):
            continue
    return None


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
