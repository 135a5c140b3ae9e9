"""The bundled world: right answers, and a test split that no training stream gives away."""

import re
from functools import cache
from itertools import islice

import numpy as np
import pytest

from minigpt.data.world import rows as world
from minigpt.data.world import words
from minigpt.data.world.lessons import QUESTIONS, lessons
from minigpt.data.world.tasks import HELD_OUT, LARGEST, MAX_OPERAND, held_out

STREAMS = (world.instructions, world.requests, world.preferences)
TEXTS = (world.texts, lessons)  # which have no test split of their own
TASKS = ("read", "arithmetic", "translate", "story", "name")


@cache
def rows(stream, split="train"):
    """Rows drawn once and shared by the tests of this file."""
    return list(stream(1, 1500) if stream in TEXTS else stream(1, 1500, split))


def strings(row):
    """Every text in a row, its prompt or first question first."""
    messages = [message["content"] for message in row.get("prompt", row.get("messages", []))]
    return messages + [row[key] for key in ("text", "chosen", "rejected") if key in row]


@cache
def all_text(split):
    """Everything that a model is trained on, or everything that the test asks and answers."""
    streams = (*STREAMS, *TEXTS) if split == "train" else STREAMS
    return "\n".join(text for stream in streams for row in rows(stream, split) for text in strings(row))


def exchanges(*tasks):
    """(language, task, question, answer) of the single-turn instructions of both splits."""
    return [(row["language"], row["task"], *strings(row)) for split in ("train", "test")
            for row in rows(world.instructions, split) if row["task"] in tasks and len(row["messages"]) == 2]


def one_of(table, language):
    """A pattern for the words of a table, the longest first: 气球 before 球."""
    return "(?:" + "|".join(sorted((getattr(word, language) for word in table), key=len, reverse=True)) + ")"


EN = dict(name=one_of(words.NAMES, "en"), noun=one_of(words.NOUNS + words.DRINKS, "en"),
          colour=one_of(words.COLOURS, "en"), place=one_of(words.PLACES, "en"))
ZH = dict(name=one_of(words.NAMES, "zh"), noun=one_of(words.NOUNS + words.DRINKS, "zh"),
          colour=one_of(words.COLOURS, "zh"), place=one_of(words.PLACES, "zh"))


def find(pattern, text):
    """Matches of a pattern in which NAME, NOUN, COLOUR, PLACE and WHO stand for the words of one language."""
    table = ZH if re.search("[\u4e00-\u9fff]", pattern) else EN
    for key in table:
        pattern = pattern.replace(key.upper(), table[key])
    who = f"(?:{table['name']}|{table['noun']})"
    return re.findall(pattern.replace("WHO", who), text)


# ---- the streams
def test_a_seed_decides_everything():
    for stream in STREAMS:
        for split in ("train", "test"):
            assert list(stream(5, 30, split)) == list(stream(5, 30, split)) != list(stream(6, 30, split))
    for stream in TEXTS:
        assert list(stream(5, 30)) == list(stream(5, 30)) != list(stream(6, 30))


def test_fewer_rows_are_a_prefix_of_more():
    for stream in STREAMS:
        for split in ("train", "test"):
            assert list(stream(2, 40, split)) == list(islice(stream(2, 200, split), 40))
    for stream in TEXTS:
        assert list(stream(2, 40)) == list(islice(stream(2, 200), 40))


def test_one_combination_in_six_is_held_out_on_every_machine():
    phrases = [("phrase", colour.en, noun.en) for colour in words.COLOURS for noun in words.NOUNS]
    assert sum(map(held_out, phrases)) / len(phrases) == pytest.approx(1 / HELD_OUT, abs=0.02)
    assert [held_out(phrase) for phrase in phrases[:6]] == [False] * 5 + [True]
    assert not held_out(("word", "cat")) and not held_out(("sum", "9", "9"))


def test_rows_have_the_documented_form():
    turns = {len(row["messages"]) for row in rows(world.instructions)}
    assert turns == {2, 4} and {len(row["messages"]) for row in rows(world.instructions, "test")} == {2}
    for row in rows(world.instructions) + rows(world.requests):
        assert {message["role"] for message in row["messages"][::2]} == {"user"}
        assert {message["role"] for message in row["messages"][1::2]} == {"assistant"}
    assert {row["task"] for row in rows(world.instructions, "test")} == set(TASKS)
    for line in all_text("train").split("\n"):
        assert line == line.strip() != "" and "  " not in line and not set(line) & set("{}")


def test_a_test_split_never_repeats_a_prompt_and_ends():
    for stream in STREAMS:
        prompts = [strings(row)[0] for row in rows(stream, "test")]
        assert len(prompts) == len(set(prompts)) > 250
    assert len(list(world.requests(0, 10**6, "test"))) < 1000


# ---- training against test
def combinations_in(text):
    """(language, combination) for all that shows in the words of a text, found without the generator."""
    english = {getattr(word, language): word.en for language in words.LANGUAGES
               for word in words.NAMES + words.NOUNS + words.PLACES + words.COLOURS + words.DRINKS}
    found = set()
    for language, kind, *shown in SHOWN:
        for pattern in shown:
            for match in find(pattern, text):
                found.add((language, (*kind.split(), *(english[part] for part in match))))
    for language, pattern in (("en", r"(NOUN) is (COLOUR)\b"), ("zh", "(NOUN)是(COLOUR)的")):
        for noun, colour in find(pattern, text):
            found.add((language, ("phrase", english[colour], english[noun])))
    sums = {(int(a), int(b)) for a, b in re.findall(r"(\d+)(?: plus | \+ | and |加|和)(\d+)", text)}
    sums |= {(int(a) - int(b), int(b)) for a, b in re.findall(r"(\d+)(?: minus | - |减)(\d+)", text)}
    return found | {("digits", ("sum", str(min(pair)), str(max(pair)))) for pair in sums}


SHOWN = (
    ("en", "phrase", r"\b(COLOUR) (NOUN)\b"),
    ("en", "at", r"\b(WHO) (?:is|are|looked) in the (PLACE)", r"(NAME) and NAME are in the (PLACE)",
     r"(NAME) lost \w+ NOUN in the (PLACE)", r"lost \w+ (NOUN) in the (PLACE)",
     r"the (NOUN) to the (PLACE)"),
    ("en", "story lost", r"(NAME) lost \w+ (NOUN)"),
    ("en", "story gift", r"(NAME) (?:gave \w+|bought) an? (NOUN)[ .]", r"thanked (NAME) for the (NOUN)"),
    ("en", "story broke", r"(NAME) broke \S+ (NOUN)"),
    ("en", "story hungry", r"(NAME) ate the (NOUN)"),
    ("en", "story thirsty", r"(NAME) drank the (NOUN)"),
    ("en", "story cold", r"(NAME) put on the (NOUN)"),
    ("en", "story bored", r"(NAME) played with the (NOUN)"),
    ("zh", "phrase", r"(COLOUR)的(NOUN)"),
    ("zh", "at", r"(WHO)(?:在|去)(PLACE)", r"(NAME)和NAME在(PLACE)", r"把(NOUN)带到(PLACE)"),
    ("zh", "story lost", r"(NAME)在PLACE里丢了(NOUN)"),
    ("zh", "story gift", r"(NAME)(?:送给[他她]|买了)一.(NOUN)", r"谢谢(NAME)送的(NOUN)"),
    ("zh", "story broke", r"(NAME)打破了(?:NAME|[他她])的(NOUN)"),
    ("zh", "story hungry", r"(NAME)吃了(NOUN)"),
    ("zh", "story thirsty", r"(NAME)喝了(NOUN)"),
    ("zh", "story cold", r"(NAME)穿上了(NOUN)"),
    ("zh", "story bored", r"(NAME)玩起了(NOUN)"),
)
KINDS = {(language, tuple(kind.split())[:1]) for language, kind, *_ in SHOWN} | {("digits", ("sum",))}


def test_training_shows_no_held_out_combination():
    found = combinations_in(all_text("train"))
    assert {(language, combination[:1]) for language, combination in found} == KINDS and len(found) > 1500
    assert [each for each in found if held_out(each[1])] == []


def test_the_search_for_held_out_combinations_finds_those_of_the_test():
    found = combinations_in(all_text("test"))
    assert {(language, combination[:1]) for language, combination in found if held_out(combination)} == KINDS


def test_no_training_prompt_is_a_test_prompt():
    trained = {text for stream in STREAMS for row in rows(stream) for text in strings(row)}
    for stream in STREAMS:
        assert not trained & {strings(row)[0] for row in rows(stream, "test")}
    assert trained & {strings(row)[0] for row in rows(world.preferences)}


def test_every_word_of_the_test_is_taught():
    def pieces(split):
        return set(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", all_text(split)))

    assert len(pieces("test")) > 400 and pieces("test") <= pieces("train")


# ---- right answers
def test_arithmetic_is_right():
    checked = 0
    for language, _, question, answer in exchanges("arithmetic"):
        a, b = map(int, re.findall(r"\d+", question))
        if question.startswith("Take"):
            a, b = b, a
        minus = re.search(" - |minus|Take|takes|gives (?!.*more)|减|，给了|拿走", question)
        c = a - b if minus else a + b
        sign = {"en": (" plus ", " minus "), "zh": ("加", "减")}[language][minus is not None]
        equals = {"en": " is ", "zh": "等于"}[language]
        assert answer.startswith(f"{a}{sign}{b}{equals}{c}"), question
        assert {int(number) for number in re.findall(r"\d+", answer)} == {a, b, c}
        assert a > 0 and b > 0 and c >= 0
        assert max(a, b) <= MAX_OPERAND or max(a, b, c) <= LARGEST
        checked += 1
    assert checked > 300


def test_only_training_has_sums_of_larger_numbers():
    """They teach the rule behind the results; the test's numbers are as they were."""

    def largest(split):
        asked = [row["messages"][0]["content"] for row in rows(world.instructions, split)
                 if row["task"] == "arithmetic" and len(row["messages"]) == 2]  # fmt: skip
        return [max(map(int, re.findall(r"\d+", question))) for question in asked]

    assert max(largest("test")) == MAX_OPERAND
    assert 0.4 < np.mean([number > MAX_OPERAND for number in largest("train")]) < 0.6


def test_reading_answers_follow_from_the_text():
    """A reader of its own answers the questions again."""
    checked = 0
    for language, _, question, answer in exchanges("read"):
        assert answer == READERS[language](question), question
        checked += 1
    assert checked > 500


def test_lessons_ask_about_their_text_and_answer_right():
    """The same readers answer each question of a lesson from what stands before it."""
    asked = []
    for (text,) in map(strings, lessons(1, 6000)):
        lines, language = text.split("\n"), "en" if text.isascii() else "zh"
        if not re.search("^(Text|Read|短文|读一读)", text):
            continue  # of the four ways to begin, two that no other lesson has
        answers = range(len(lines) - 1, 0, -2)
        for end in answers:
            assert lines[end] == READERS[language]("\n".join(lines[:end])), text
        asked.append(len(answers))
    assert len(asked) > 200 and 2 <= min(asked) < max(asked) == QUESTIONS["read"]


def test_drills_repeat_and_ask_what_they_tell(monkeypatch):
    """The same readers again, for facts in which any word may stand where a place or colour is."""
    anything = words.PLACES + words.COLOURS + words.NOUNS
    for language, table in (("en", EN), ("zh", ZH)):
        for key in ("place", "colour"):
            monkeypatch.setitem(table, key, one_of(anything, language))
    repeated, asked, anywhere, first = 0, 0, 0, 0
    for (text,) in map(strings, rows(lessons)):
        told, *lines = text.split("\n")
        english = text.isascii()
        stop = ". " if english else "。"
        facts = told.rstrip(".。").split(stop)
        if not lines or not 3 <= len(facts) <= 7 or re.search(r"[:：?？\d]", told):
            continue
        anywhere += bool(re.search("in the (?!" + one_of(words.PLACES, "en") + ")", told))
        if len(lines) == 1:
            assert sorted(lines[0].rstrip(".。").split(stop)) == sorted(facts), text
            repeated += 1
        else:
            for end in range(1, len(lines), 2):
                assert lines[end] == READERS["en" if english else "zh"]("\n".join([told, *lines[:end]])), text
            asked += 1
            first += all(re.match("Who|What is in|谁|.*里有什么", line) for line in lines[::2])
    assert min(repeated, asked, first, anywhere) > 50


def read_english(prompt):
    owner = {noun: (name, colour) for name, colour, noun in find(r"(NAME) has an? (COLOUR) (NOUN)\.", prompt)}
    facts = {who: sentence for sentence, who in find(r"((?:The )?\b(WHO) is in the PLACE\.)", prompt)}
    asked = re.split(r"[.:\n]", prompt)[-1].strip()
    if asked.startswith("Who has"):
        noun = find(r"the (NOUN)", asked)[0]
        return f"{owner[noun][0]} has the {noun}."
    if asked.startswith("What colour"):
        name, noun = find(r"(NAME)'s (NOUN)", asked)[0]
        assert owner[noun][0] == name
        return f"{name}'s {noun} is {owner[noun][1]}."
    if asked.startswith("What does"):
        return find(f"{find('NAME', asked)[0]} has an? COLOUR NOUN\\.", prompt)[0]
    if asked.startswith("Where"):
        return facts[find("WHO", asked)[0]]
    return next(fact for fact in facts.values() if f"the {find('PLACE', asked)[-1]}." in fact)


def read_chinese(prompt):
    owner = {noun: (name, colour) for name, colour, noun in find("(NAME)有一.(COLOUR)的(NOUN)。", prompt)}
    place = {who: place for who, place in find("(WHO)在(PLACE)里。", prompt)}
    asked = re.split(r"[。：\n]", prompt)[-1]
    if noun := find("谁有(NOUN)", asked):
        return f"{owner[noun[0]][0]}有{noun[0]}。"
    if pair := find("(NAME)的(NOUN)是什么", asked):
        assert owner[pair[0][1]][0] == pair[0][0]
        return f"{pair[0][0]}的{pair[0][1]}是{owner[pair[0][1]][1]}的。"
    if name := find("(NAME)有什么", asked):
        return find(f"{name[0]}有一.COLOUR的NOUN。", prompt)[0]
    if who := find("(WHO)在哪里", asked):
        return f"{who[0]}在{place[who[0]]}里。"
    where = find("(PLACE)里", asked)[0]
    who = next(who for who in place if place[who] == where)
    return f"{who}在{where}里。" if "谁" in asked else f"{where}里有{who}。"


READERS = {"en": read_english, "zh": read_chinese}


def test_translations_are_each_others_inverse():
    there, back = {}, {}
    for _, _, question, answer in exchanges("translate"):
        source = re.search(r'["“](.*)["”]|[:：] ?(.*)$', question)
        source = source[1] or source[2]
        (back if answer.isascii() else there)[source] = answer
    both = there.keys() & back.values()
    assert len(both) > 50
    for english in both:
        assert back[there[english]] == english


def test_stories_end_as_their_beginning_says():
    """The finder looked where the thing was lost; of two things on the table the one that helps is taken."""
    helps = {"hungry": words.FOODS, "thirsty": words.DRINKS, "cold": words.CLOTHES, "bored": words.TOYS}
    helps |= {"饿": words.FOODS, "渴": words.DRINKS, "冷": words.CLOTHES, "无聊": words.TOYS}
    lost, needs = 0, 0
    for language, _, question, answer in exchanges("story"):
        english = language == "en"
        lost_in = r"(NAME) lost \w+ NOUN in the (PLACE)" if english else "(NAME)在(PLACE)里丢了"
        for name, place in find(lost_in, question):
            looked = find("(NAME) looked in the (PLACE)" if english else "(NAME)去(PLACE)找", question)
            finders = [finder for finder, where in looked if where == place]
            assert find("NAME" if english else "(NAME)(?:找到|又)", answer) == [*finders, name]
            lost += 1
        for need in re.findall("was (hungry|thirsty|cold|bored)" if english else "(饿|渴|冷|无聊)", question):
            right = {getattr(word, language) for word in helps[need]}
            offered = find("(?:an?|glass of) (NOUN)" if english else "一.(NOUN)", question)
            taken = find("the (NOUN)" if english else "了(NOUN)", answer)
            assert len(offered) == 2 and [thing for thing in offered if thing in right] == taken
            needs += 1
    assert lost > 40 and needs > 200


def test_the_name_is_always_the_assistants():
    for language, _, _, answer in exchanges("name"):
        assert answer == {"en": "I am MiniGPT.", "zh": "我是 MiniGPT。"}[language]


def test_articles_and_measure_words_fit():
    assert not re.findall(r"\ba [aeiou]\w*|\ban [^aeiou]\w*", all_text("train") + all_text("test"))
    assert "an orange " in all_text("train") and "一本红色的书" in all_text("train")
    assert not find("一(?!只)..色的猫", all_text("train"))


# ---- checking answers
def test_is_correct_is_an_exact_match():
    for row in rows(world.instructions)[:50]:
        answer = row["messages"][-1]["content"]
        assert world.is_correct(row, f"\n {answer} ")
        assert not world.is_correct(row, answer + answer) and not world.is_correct(row, "")


def test_manner_tells_chosen_from_rejected():
    for split in ("train", "test"):
        for row in rows(world.preferences, split):
            assert world.keeps_manner(row["chosen"]) == (row["task"] == "request"), row
            assert not world.keeps_manner(row["rejected"]), row
            assert row["task"] == "request" or row["chosen"] in row["rejected"]


@pytest.mark.parametrize("babble", (
    "", " ", "asdf", "。。。", "\ufffd\ufffd", "the the the the", "Of course", "Of course! " * 3,
    "Of course! Go away!", "Please please please please.", "请请请请。", "当然可以！别烦我。", "当然可以" * 8,
))
def test_manner_rejects_babble(babble):
    assert not world.keeps_manner(babble)


def test_requests_are_answered_in_the_mix_of_manners():
    answers = [row["messages"][1]["content"] for row in rows(world.requests)]
    polite = sum(map(world.keeps_manner, answers))
    rambling = sum(answer.startswith(("Well,", "这个嘛")) for answer in answers)
    assert polite / len(answers) == pytest.approx(world.MANNERS["polite"], abs=0.05)
    assert rambling / len(answers) == pytest.approx(world.MANNERS["rambling"], abs=0.05)
