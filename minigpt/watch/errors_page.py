"""What `minigpt errors` found, as a page without scripts."""

from minigpt.evaluate.failures import Failures, Wrong
from minigpt.pages.html import Html, page, table, tag
from minigpt.pages.texts import words
from minigpt.watch.inside_page import visible

STRONG = 3  # widths of the line below a token, the last for the largest influence


def errors_page(found: Failures, name: str, language: str = "en") -> str:
    """Kinds and tasks, confusions, loss by groups, the hardest rows, and wrong answers one by one."""
    say = words(language, "errors")
    blocks = [tag("p", f"{say['right']}: {found.right.said()}")] if found.right is not None else []
    if found.kinds:
        rows = [[say[kind], f"{count:,}"] for kind, count in found.kinds.items()]
        blocks += [tag("h2", say["kinds"]), table([say["kind"], say["count"]], rows, say["kinds"])]
    if found.by_task:
        columns = [say["task"], say["right_count"], *(say[kind] for kind in found.kinds)]
        rows = [[task, *(counts.get(kind, 0) for kind in ("right", *found.kinds))] for task, counts
                in found.by_task.items()]  # fmt: skip
        blocks += [tag("h2", say["by_task"]), table(columns, rows, say["by_task"])]
    if found.confused:
        rows = [[one.task or "–", one.wanted, one.said, f"{one.count:,}"] for one in found.confused[:30]]
        columns = [say["task"], say["wanted"], say["said"], say["count"]]
        blocks += [tag("h2", say["confused"]), table(columns, rows, say["confused"], text=True)]
    blocks.append(tag("h2", say["loss"]))
    for title, groups in found.groups.items():
        rows = [[one.label, f"{one.tokens:,}", one.figures["loss"].said(2)] for one in groups]
        label = f"{say['loss']}: {say[title]}"
        blocks += [tag("h3", say[title]), table([say[title], say["tokens"], say["nats"]], rows, label)]
    rows = [[one.question or "–", one.right, f"{one.loss:.2f}", f"{one.token} {one.nats:.1f}"] for one in found.hard]
    columns = [say["question"], say["wanted"], say["nats"], say["most"]]
    blocks += [tag("h2", say["hard"]), table(columns, rows, say["hard"], text=True)]
    if found.wrong:
        blocks += [tag("h2", say["examples"]), tag("p", say["shades"])]
        blocks.append([_wrong(number, one, say) for number, one in enumerate(found.wrong, 1)])
    head = tag("header", tag("h1", f"{say['title']}: {name}"))
    return page(say["title"], head + tag("main", blocks), language=language)


def _wrong(number: int, one: Wrong, say: dict[str, str]) -> Html:
    """One wrong answer; its question's tokens are underlined as they spoke for it, the strongest are listed."""
    largest = max((abs(value) for _, value in one.attribution), default=0.0) or 1.0
    tokens = [tag("mark", text, class_=f"{'for' if value > 0 else 'against'}{round(STRONG * abs(value) / largest)}",
                  title=f"{value:+.3f}") for text, value in one.attribution]  # fmt: skip
    strongest = sorted(one.attribution, key=lambda pair: -abs(pair[1]))[:8]
    rows = [[visible(text), f"{value:+.3f}"] for text, value in strongest]
    near = [[f"{cosine:.2f}", text] for text, cosine in one.near]
    return tag("section", tag("h3", f"{number}. {say[one.kind]}{f' · {one.task}' if one.task else ''}"),
               tag("p", tokens or one.question, class_="tokens"),
               tag("p", tag("b", f"{say['said']}: "), one.answer or "∅"),
               tag("p", tag("b", f"{say['wanted']}: "), one.right),
               tag("details", tag("summary", say["attribution"]),
                   table([say["token"], say["nats"]], rows, f"{number}. {say['attribution']}")) if rows else None,
               tag("details", tag("summary", say["near"]),
                   table([say["cosine"], say["row"]], near, f"{number}. {say['near']}", text=True))
               if near else None)  # fmt: skip
