"""Small texts, conversations and pairs, made here."""

import json
from pathlib import Path


def story(lines: int = 300) -> str:
    sentences = ["The cat sat on the warm mat.", "A dog ran to the river.", "她在花园里看见一只猫。", "We had 3 plums."]
    return "".join(f"{sentences[day % 4]} This was day {day}.\n" for day in range(lines))


def novel(lines: int = 6000) -> str:
    """Chinese lines with two ASCII spaces in all."""
    names, places = "小明小红李四王五", "花园学校河边山上"
    text = [
        f"{names[2 * (n % 4) : 2 * (n % 4) + 2]}在{places[2 * (n // 4 % 4) : 2 * (n // 4 % 4) + 2]}"
        f"看见了{'一二三四五六七八九十'[n % 10]}只{'猫狗鸟鱼马'[n // 7 % 5]}，然后慢慢地走回家。"
        for n in range(lines)
    ]
    text[100], text[200] = "小明 " + text[100], "小红 " + text[200]
    return "\n".join(text) + "\n"


def message(role: str, content: str, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def chats(count: int) -> list[dict]:
    return [
        {"messages": [message("user", f"What is {n} plus 1?"), message("assistant", f"It is {n + 1}.")]}
        for n in range(count)
    ]


def pairs(count: int) -> list[dict]:
    return [{"prompt": f"Say hello {n}.", "chosen": f"Hello {n}!", "rejected": f"No, {n}."} for n in range(count)]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
