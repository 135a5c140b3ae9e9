"""Reading files: every row with its place, every fault as file:line, in bounded memory."""

import contextlib
import gzip
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt.data.read import json_rows
from minigpt.data.read.files import find_files
from minigpt.data.read.markers import Markers
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.read.sources import read_rows
from minigpt.data.read.suffixes import ROW_SUFFIXES, TEXT_SUFFIXES, is_text
from minigpt.data.read.text import TextBlock, read_text
from minigpt.errors import DataError

GSM8K = Path(__file__).parents[2].parent / "shared/data/gsm8k_train.alpaca.json"
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows_of(path: Path, data: str | bytes) -> list[tuple[str, object]]:
    """(place without the directory, value or reason) of every row of a file with this content."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    rows = list(read_rows(path))
    return [
        (r.where.removeprefix(f"{path}:"), r.value if isinstance(r, Row) else f"BAD {r.reason}") for r in rows
    ]


def only_bad(path: Path, data: str | bytes) -> BadRow:
    """The one BadRow of a file with this content."""
    rows_of(path, data)
    (bad,) = (row for row in read_rows(path) if isinstance(row, BadRow))
    return bad


def text_of(path: Path, start: float = 0.0, stop: float = 1.0) -> str:
    return "".join(block.text for block in read_text(path, start, stop))


# ------------------------------------------------------------------------------------ finding files


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_a_directory_gives_its_supported_files_sorted_without_hidden_ones(tmp_path):
    make(tmp_path, "b.jsonl", "a.TXT", "sub/c.csv.gz", ".hidden/d.txt", ".e.txt", "notes.docx", "sub/f.json")
    names = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path])]
    assert names == ["a.TXT", "b.jsonl", "sub/c.csv.gz", "sub/f.json"]


def found_in(directory: Path) -> tuple[list[str], list[str]]:
    """(files relative to it, notes)"""
    notes = []
    files = [str(path.relative_to(directory)) for path in find_files([directory], notes.append)]
    return files, [note.text.removeprefix(f"{directory}: ") for note in notes]


def test_what_only_describes_a_data_set_is_left_out_and_listed(tmp_path):
    make(tmp_path, "README.md", "LICENSE.txt", "data/dataset_info.json", "data/train.jsonl", "x.bin", "y.webp")
    assert found_in(tmp_path) == (
        ["data/train.jsonl"],
        ["omitted, because they only describe data: LICENSE.txt, README.md, data/dataset_info.json.",
         "omitted, because their type is not supported: x.bin, y.webp."],
    )  # fmt: skip


def test_a_readme_among_texts_is_a_text_unless_it_is_a_data_sets_card(tmp_path):
    make(tmp_path, "README.md", "story.txt")
    assert found_in(tmp_path) == (["README.md", "story.txt"], [])
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nStories.\n")
    assert found_in(tmp_path)[0] == ["story.txt"]
    (tmp_path / "story.txt").unlink()
    with pytest.raises(DataError, match="only README.md.*name the file itself"):
        find_files([tmp_path])
    assert find_files([tmp_path / "README.md"]) == [tmp_path / "README.md"]


def test_runs_models_and_programs_are_no_data(tmp_path):
    make(tmp_path, "story.txt", "runs/mine/config.toml", "runs/mine/env.json", "runs/mine/log.txt", "out/config.json",
         "out/model.safetensors", "out/README.md", "tok/tokenizer_meta.json", ".venv/a.py", "env/pyvenv.cfg",
         "env/lib/b.py", "runs/downloads/c.txt", "old/config.toml", "old/tokenizer/tokenizer_meta.json")  # fmt: skip
    files, (note,) = found_in(tmp_path)
    assert files == ["story.txt"]
    for words in ("env (installed programs)", "old (a run)", "out (a model)", "downloads (what was", "mine (a run)"):
        assert words in note
    for inner, what in (("runs/mine", "a run"), ("out", "a model")):
        with pytest.raises(DataError, match=f"{inner} is {what}, not data"):
            find_files([tmp_path / inner])
    assert [path.name for path in find_files([tmp_path / "runs/downloads"])] == ["c.txt"]  # named, it is data


def test_a_config_file_alone_makes_no_run(tmp_path):
    make(tmp_path, "config.toml", "config.json", "a.jsonl")
    assert found_in(tmp_path)[0] == ["a.jsonl", "config.json"]


def test_globs_and_files_come_in_the_given_order_and_once(tmp_path):
    make(tmp_path, "a.jsonl", "b.jsonl", "deep/er/c.jsonl", "d.txt")
    named = [
        tmp_path / "d.txt",
        str(tmp_path / "*.jsonl"),
        tmp_path / "a.jsonl",
        str(tmp_path / "**/*.jsonl"),
    ]
    assert [path.name for path in find_files(named)] == ["d.txt", "a.jsonl", "b.jsonl", "c.jsonl"]


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("trian.jsonl", "does not exist", "Did you mean {root}/train.jsonl?"),
        ("nowhere/train.jsonl", "does not exist", "Its directory {root}/nowhere does not exist either"),
        ("table.xlsx", 'files of type ".xlsx" are not supported', ".jsonl"),
        ("README", "files without a suffix are not supported", ".jsonl"),
        ("*.parquet", "matches no supported file", ".jsonl"),
        ("empty", "no supported file in this directory", ".jsonl"),
    ],
)
def test_a_path_that_cannot_be_read_is_a_data_error_with_a_hint(tmp_path, path, message, hint):
    make(tmp_path, "train.jsonl", "table.xlsx", "README")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        find_files([tmp_path / path])
    assert message in error.value.message and str(tmp_path) in error.value.message
    assert hint.format(root=tmp_path) in error.value.hint


def test_text_and_rows_are_told_apart_by_the_suffix():
    assert [is_text(name) for name in ("a.txt", "a.TXT.gz", "a.py", "a.md", "a.json", "a.csv.gz")] == [
        *[True] * 4,
        *[False] * 2,
    ]
    with pytest.raises(DataError, match=r"a\.txt: this is not a file of rows"):
        list(read_rows("a.txt"))


# ---------------------------------------------------------------------------------------- good rows


def test_jsonl_rows_carry_their_physical_line(tmp_path):
    data = (
        '\ufeff{"a": 1}\r\n\r\n"text"\n{"a": NaN, "a": 2}'  # a byte order mark, a blank line, no end of line
    )
    assert rows_of(tmp_path / "a.jsonl", data) == [("1", {"a": 1}), ("3", "text"), ("4", {"a": 2})]


def test_json_array_items_carry_line_and_number(tmp_path):
    data = '[\n {"a":\n  1},\n 2, "three"\n]\n'
    assert rows_of(tmp_path / "a.json", data) == [
        ("2: item 1", {"a": 1}),
        ("4: item 2", 2),
        ("4: item 3", "three"),
    ]


def test_a_json_file_may_be_one_object_or_json_lines(tmp_path):
    assert rows_of(tmp_path / "a.json", '{"a":\n1}\n') == [("1", {"a": 1})]
    assert rows_of(tmp_path / "a.json", '{"a": 1}\n\n{"a": 2}') == [("1", {"a": 1}), ("3", {"a": 2})]


def test_csv_rows_carry_the_line_where_they_start(tmp_path):
    data = '\ufeffquestion,answer\r\n"a, b","two\nlines"\r\n\r\nc,"say ""hi"""\r\n'
    assert rows_of(tmp_path / "a.csv", data) == [
        ("2", {"question": "a, b", "answer": "two\nlines"}),
        ("5", {"question": "c", "answer": 'say "hi"'}),
    ]


def test_tsv_and_semicolons(tmp_path):
    assert rows_of(tmp_path / "a.tsv", "q\ta\n1,5\t2\n") == [("2", {"q": "1,5", "a": "2"})]
    assert rows_of(tmp_path / "a.csv", "q;a\n1,5;2\n") == [("2", {"q": "1,5", "a": "2"})]


def test_a_csv_field_may_be_longer_than_the_csv_module_allows(tmp_path):
    ((_, row),) = rows_of(tmp_path / "a.csv", "text\n" + "x" * 300_000)
    assert len(row["text"]) == 300_000


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson.gz", "a.json.gz"])
def test_compressed_rows(tmp_path, name):
    assert rows_of(tmp_path / name, gzip.compress(b'{"a": 1}\n')) == [("1", {"a": 1})]


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_json_is_read_alike_in_blocks_of_any_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_rows, "BLOCK", block)
    values = [12345, -1.5e-7, True, None, 'a \\ " 😀 中', {"k": [{}, "]}"]}, [[1, 2], []]]
    expected = [(f"1: item {number}", value) for number, value in enumerate(values, 1)]
    assert rows_of(tmp_path / "a.json", json.dumps(values)) == expected
    lines = "\n".join(json.dumps(value) for value in values)
    assert [value for _, value in rows_of(tmp_path / "b.json", lines)] == values


def parquet(path: Path, columns: dict) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path, row_group_size=700)
    return path


def test_parquet_rows_are_read_as_they_were_written(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "你好 😀"}]
    path = parquet(tmp_path / "a.parquet", {"text": [f"story {n}" for n in range(1500)], "messages": [talk] * 1500})
    rows = list(read_rows(path))
    assert [row.where for row in rows] == [f"{path}:{n}" for n in range(1, 1501)]
    assert rows[1499].value == {"text": "story 1499", "messages": talk}
    path = parquet(tmp_path / "b.parquet", {"n": [1, None]})
    assert [row.value for row in read_rows(path)] == [{"n": 1}, {"n": None}]


def test_bad_parquet_files_and_rows(tmp_path):
    good, bad = read_rows(parquet(tmp_path / "a.parquet", {"text": ["a", "b\0"]}))
    assert good.value == {"text": "a"}
    assert bad.where.endswith("a.parquet:2") and "NUL bytes" in bad.reason
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    for name in ("b.parquet", "missing.parquet"):
        (bad,) = read_rows(tmp_path / name)
        assert bad.where.endswith(f"{name}:1") and "cannot be read at all" in bad.reason and bad.hint


def test_without_pyarrow_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"a.parquet: .parquet files need the package pyarrow. Install it: .*\[data\]"):
        list(read_rows(tmp_path / "a.parquet"))


# ----------------------------------------------------------------------------------------- bad rows


def test_one_bad_jsonl_row_does_not_stop_the_others(tmp_path):
    data = b'{"a": 1}\nnot json\n{"a": 2,}\n{"a": "caf\xe9"}\n{"a": "\\ud800"}\n{"a": 3}\n'
    assert rows_of(tmp_path / "a.jsonl", data) == [
        ("1", {"a": 1}),
        ("2", "BAD not valid JSON at column 1: Expecting value"),
        ("3", "BAD not valid JSON at column 9: Expecting property name enclosed in double quotes"),
        ("4", "BAD not valid UTF-8"),
        ("5", "BAD a text has half a surrogate pair (\\ud800 to \\udfff), which is no character"),
        ("6", {"a": 3}),
    ]


def test_one_bad_array_item_does_not_stop_the_others(tmp_path):
    data = b'[\n{"a": 1},\n{"a": tru},\n{"a": ["caf\xe9", "]},{"]},\n{"a": 2,},\n{"a": 3}\n]'
    assert rows_of(tmp_path / "a.json", data) == [
        ("2: item 1", {"a": 1}),
        ("3: item 2", "BAD not valid JSON at line 3: Expecting value"),
        ("4: item 3", "BAD not valid UTF-8"),
        ("5: item 4", "BAD not valid JSON at line 5: Expecting property name enclosed in double quotes"),
        ("6: item 5", {"a": 3}),
    ]


def test_json_lines_in_a_json_file_go_on_at_the_next_object(tmp_path):
    assert rows_of(tmp_path / "a.json", '{"a": 1\n{"a": 2}\n') == [
        ("1", "BAD not valid JSON at line 2: Expecting ',' delimiter"),
        ("2", {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("data", "place", "reason", "hint"),
    [
        ('[{"a": 1},\n{"a": 2}', "2", "the list is not closed", "cut off"),
        ('[{"a": 1},\n{"a": "tw', "2: item 2", "the file ends inside this row", "cut off"),
        ('[{"a": 1},\n]', "1", "a comma stands before the closing ]", "Delete the comma"),
        ('[{"a": 1}\n{"a": 2}]', "2", "a comma is missing", "Put a comma"),
        ('[{"a": 1}]\n[{"a": 2}]', "2", "there is more text after the closing ]", "one list"),
        ('[{"a": [1},\n{"a": 2}]', "1: item 1", "the rows after it could not be read", "comma"),
        ("[" * 100_000, "1: item 1", "nested too deeply", "one object"),
        ("[1" + "0" * 5000 + "]", "1: item 1", "too many digits", "quotes"),
        ("[{'a': 1}]", "1: item 1", "Expecting property name", "double quotes"),
    ],
)
def test_faults_of_a_json_array(tmp_path, data, place, reason, hint):
    bad = only_bad(tmp_path / "a.json", data)
    assert bad.where == f"{tmp_path}/a.json:{place}" and reason in bad.reason and hint in bad.hint


def test_a_json_array_named_jsonl_says_so_once(tmp_path):
    bad = only_bad(tmp_path / "a.jsonl", '[\n{"a":\n1}\n]')
    assert bad.where.endswith("a.jsonl:1") and "rename it to a.json" in bad.hint


def test_faults_of_a_csv_file(tmp_path):
    data = 'q,a\n1,2,3\n4\n"x"y,5\n6,7\n"open,8\n9,10\n'
    assert rows_of(tmp_path / "a.csv", data) == [
        ("2", 'BAD the row has 3 columns, but the header has 2 ("q", "a")'),
        ("3", 'BAD the row has 1 columns, but the header has 2 ("q", "a")'),
        ("4", "BAD not valid CSV: ',' expected after '\"'"),
        ("5", {"q": "6", "a": "7"}),
        ("6", "BAD not valid CSV: unexpected end of data: lines 6 to 7 (2 lines) are lost"),
    ]


def table(delimiter: str, faults: dict[int, str]) -> str:
    """200 rows after a header; line n holds row n - 1, or its fault."""
    lines = [f"q{delimiter}a"] + [f"Ask {n}{delimiter}Answer {n}." for n in range(2, 202)]
    return "\n".join(faults.get(n, line) for n, line in enumerate(lines, 1)) + "\n"


@pytest.mark.parametrize(
    ("name", "faults", "bad"),
    [
        ("a.csv", {22: '"Tell me a joke,Sure.'}, {"22": "the 179 lines after it are read as rows"}),
        ("a.csv", {22: '"Tell me,Sure.', 121: 'Hi,"Yes."'}, {"22": "would go on to line 121; the 99 lines after it"}),
        ("a.tsv", {22: 'Tell me\t"Sure.', 121: 'Hi\tYes."'}, {"22": "a quotation goes on over the next rows"}),
        ("a.tsv", {22: '"Tell me\tSure.', 121: 'Hi"\tYes.'}, {"22": "a quotation goes on over the next rows"}),
    ],
    ids=["never closed", "closed in another row", "closed in another row of a TSV", "a cell of 100 rows"],
)  # fmt: skip
def test_a_quotation_over_several_rows_costs_only_the_row_it_begins_in(tmp_path, name, faults, bad):
    rows = rows_of(tmp_path / name, table("\t" if name == "a.tsv" else ",", faults))
    found = {place: value for place, value in rows if isinstance(value, str)}
    assert found.keys() == bad.keys() and all(words in found[place] for place, words in bad.items()), found
    assert len(rows) == 200 and [int(place) for place, _ in rows] == list(range(2, 202))
    untouched = [(place, value) for place, value in rows if int(place) not in faults]
    assert untouched == [(str(n), {"q": f"Ask {n}", "a": f"Answer {n}."}) for n in range(2, 202) if n not in faults]


def test_lines_that_are_lost_with_a_quotation_are_counted_and_named(tmp_path):
    """What does not look like rows is not guessed at."""
    data = 'q,a\n1,2\n"A text of\nseveral lines, with commas, "badly" quoted\n3,4\n5,6\n'
    assert rows_of(tmp_path / "a.csv", data) == [
        ("2", {"q": "1", "a": "2"}),
        ("3", "BAD not valid CSV: ',' expected after '\"': lines 3 to 4 (2 lines) are lost"),
        ("5", {"q": "3", "a": "4"}),
        ("6", {"q": "5", "a": "6"}),
    ]
    assert [row.lines for row in read_rows(tmp_path / "a.csv") if isinstance(row, BadRow)] == [2]


@few
@given(data=st.lists(st.sampled_from(["a,b", '"a,b', 'a,"b', 'a",b', 'a,b"', '"a",b', "a", "", '"a,b"']), max_size=12))
def test_every_line_of_a_table_is_a_row_or_named(tmp_path, data):
    """Each line lies in exactly one row, good or bad; nothing is lost without a word."""
    (tmp_path / "a.csv").write_text("\n".join(["q,a", *data]) + "\n")
    rows = [row for row in read_rows(tmp_path / "a.csv") if "is empty" not in getattr(row, "reason", "")]
    places = [int(row.where.rpartition(":")[2]) for row in rows]
    assert places == sorted(set(places))
    covered = 1 + sum(row.lines if isinstance(row, BadRow) else 1 + str(row.value).count("\\n") for row in rows)
    assert covered == 1 + sum(line != "" for line in data) + _blank_lines_inside(rows, places, data)


def _blank_lines_inside(rows, places, data) -> int:
    """Blank lines that rows of several lines hold."""
    ends = [place + (row.lines if isinstance(row, BadRow) else 1 + str(row.value).count("\\n"))
            for row, place in zip(rows, places, strict=True)]  # fmt: skip
    return sum(line == "" and any(start < n < end for start, end in zip(places, ends, strict=True))
               for n, line in enumerate(data, 2))  # fmt: skip


def test_a_valid_row_that_may_have_swallowed_others_is_reported(tmp_path):
    notes = []
    (tmp_path / "a.csv").write_text('q,a\nHi,"Yes\n1,2\n3,4\nNo"\n5,6\n')
    rows = list(read_rows(tmp_path / "a.csv", notes.append))
    assert [row.value["a"] for row in rows] == ["Yes\n1,2\n3,4\nNo", "6"]
    (note,) = notes
    assert "a.csv: 1 row has lines that look like rows of their own (lines 2 to 5): is a quotation" in note.text
    (tmp_path / "a.csv").write_text('q,a\nHi,"Dear Ann,\nI am well, and you, I hope, too.\nBob"\n')
    assert len(list(read_rows(tmp_path / "a.csv", notes.append))) == 1 == len(notes)  # prose is fine


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz"])
@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_one_bad_row(tmp_path, name, data):
    bad = only_bad(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    assert bad.where == f"{tmp_path}/{name}:1" and bad.reason == "the file is empty: it has no rows"


def test_a_csv_header_or_an_empty_array_alone_has_no_rows(tmp_path):
    assert only_bad(tmp_path / "a.csv", "text\n").reason == "the file is empty: it has no rows"
    assert only_bad(tmp_path / "a.json", "[]").reason == "the file is empty: it has no rows"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_file_of_nul_bytes_is_named_as_damaged(tmp_path, name):
    bad = only_bad(tmp_path / name, bytes(200_000))
    assert bad.where.endswith(":1") and "NUL bytes" in bad.reason and "copy" in bad.hint


def test_a_truncated_gzip_gives_what_is_there_and_says_where_it_ends(tmp_path):
    lines = b"".join(b'{"n": %d, "h": "%x"}\n' % (n, n * n * 7919 % 104729) for n in range(5000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-2000])
    *good, bad = read_rows(tmp_path / "a.jsonl.gz")
    assert len(good) > 1000 and all(isinstance(row, Row) for row in good)
    assert bad.where == good[-1].where and "cannot be read after this row" in bad.reason


def test_what_is_no_gzip_or_no_file_is_a_bad_row(tmp_path):
    assert "cannot be read at all" in only_bad(tmp_path / "a.jsonl.gz", b"hello").reason
    (bad,) = read_rows(tmp_path / "missing.jsonl")
    assert bad.where == f"{tmp_path}/missing.jsonl:1" and "No such file" in bad.reason
    assert "you may read it" in bad.hint


def test_an_overlong_row_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "MAX_ROW", 1000)
    long = '{"a": "%s"}' % ("x" * 5000)
    lines = rows_of(tmp_path / "a.jsonl", f'{{"a": 1}}\n{long}\n{{"a": 2}}\n')
    assert [place for place, _ in lines] == ["1", "2", "3"] and "longer than" in lines[1][1]
    monkeypatch.setattr(json_rows, "BLOCK", 100)
    assert "longer than" in only_bad(tmp_path / "a.json", f"[\n{long}]").reason


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ('{"text": "你好，世界"}'.encode("gb18030"), "-f GB18030 -t UTF-8"),
        ('{"text": "déjà vu"}'.encode("latin-1"), "-f WINDOWS-1252 -t UTF-8"),
        ('{"text": "x"}'.encode("utf-16"), "-f UTF-16 -t UTF-8"),
        ('{"text": "你好，世界'.encode() + b'\xff"}', "-c -f UTF-8 -t UTF-8"),
    ],
)
def test_another_encoding_is_recognized_and_the_command_given(tmp_path, data, encoding):
    bad = only_bad(tmp_path / "my file.jsonl", data)
    assert bad.reason == "not valid UTF-8"
    assert f"iconv {encoding} '{tmp_path}/my file.jsonl' > 'utf8-my file.jsonl'" in bad.hint


# --------------------------------------------------------------------------------------------- text


def test_ascii_text_is_cut_at_the_exact_character(tmp_path):
    text = "".join(f"line {n}\r\n" for n in range(30_000))
    (tmp_path / "a.txt").write_bytes(text.encode())
    cut = int(0.9 * len(text))
    assert text_of(tmp_path / "a.txt", stop=0.9) == text[:cut]
    assert text_of(tmp_path / "a.txt", start=0.9) == text[cut:]


def test_blocks_are_small_end_at_lines_and_know_their_line(tmp_path):
    text = "".join(f"line {n}\n" for n in range(1, 30_001))
    (tmp_path / "a.txt").write_text(text)
    blocks = list(read_text(tmp_path / "a.txt", start=0.3))
    assert len(blocks) > 3 and all(len(block.text) <= 65536 for block in blocks)
    for block in blocks[1:]:
        first = block.text.split("\n")[0]
        assert block.text.endswith("\n") and block.where == f"{tmp_path}/a.txt:{first.removeprefix('line ')}"


@few
@given(
    text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=300),
    fraction=st.floats(0, 1),
    packed=st.booleans(),
)
def test_two_parts_give_any_text_back(tmp_path, text, fraction, packed):
    path = tmp_path / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert text_of(path, stop=fraction) + text_of(path, start=fraction) == text.removeprefix("\ufeff")


def test_long_lines_are_cut_between_characters(tmp_path):
    text = "中文😀" * 50_000
    (tmp_path / "a.txt").write_text(text)
    assert text_of(tmp_path / "a.txt", stop=0.37) + text_of(tmp_path / "a.txt", start=0.37) == text


def test_end_of_document_markers_end_documents_and_are_left_out(tmp_path):
    data = "One.\n<|endoftext|>\nTwo.<|endoftext|>Three.<|endoftext|>\nFour.\n<|endoftext|>\r\n\nFive.\n<|endoftext|>"
    (tmp_path / "a.txt").write_bytes(data.encode())
    markers, notes = Markers(tmp_path / "a.txt"), []
    assert list(read_text(tmp_path / "a.txt", markers=markers)) == [
        TextBlock(f"{tmp_path}/a.txt:1", "One.\n", True),
        TextBlock(f"{tmp_path}/a.txt:3", "Two.", True),
        TextBlock(f"{tmp_path}/a.txt:3", "Three.", True),
        TextBlock(f"{tmp_path}/a.txt:4", "Four.\n", True),
        TextBlock(f"{tmp_path}/a.txt:6", "\nFive.\n", True),
    ]
    markers.tell(notes.append)
    assert [note.text for note in notes] == [
        f"{tmp_path}/a.txt: <|endoftext|> is written 2 times inside a text: a document ends there."
    ]


@few
@given(parts=st.lists(st.text("ab <|endoftx>.", max_size=8), min_size=1, max_size=8), block=st.integers(40, 90))
def test_markers_are_found_wherever_blocks_end(tmp_path, parts, block):
    from minigpt.data.read import text

    (tmp_path / "a.txt").write_text("<|endoftext|>".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", block)
        blocks = list(read_text(tmp_path / "a.txt"))
    joined = "".join(one.text + "\0" * one.ends_document for one in blocks)
    assert [d for d in joined.split("\0") if d] == [d for d in "<|endoftext|>".join(parts).split("<|endoftext|>") if d]


def test_names_of_control_tokens_in_a_text_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("<|im_start|>user\nHi<|im_end|>\n" * 3 + "a < b | c <|not one> [INST]\n")
    markers, notes = Markers(tmp_path / "a.txt"), []
    assert "".join(block.text for block in read_text(tmp_path / "a.txt", markers=markers)).count("<|im_end|>") == 3
    markers.tell(notes.append)
    (note,) = notes
    assert "(<|im_start|> 3 times, <|im_end|> 3 times, [INST] once) and learned as letters" in note.text


def test_no_cut_leaves_half_a_marker_in_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n<|endoftext|>\nTwo.\n")
    for percent in range(101):
        parts = [text_of(tmp_path / "a.txt", stop=percent / 100), text_of(tmp_path / "a.txt", percent / 100)]
        assert "".join(parts).replace("\n", "") == "One.Two." and "|" not in "".join(parts)


@pytest.mark.parametrize(
    ("data", "place", "hint"),
    [
        (b"fine\n" * 20_000 + "中文\n".encode("gb18030"), 20_001, "iconv -f GB18030 -t UTF-8"),
        (b"fine\nd\xe9j\xe0 vu\n", 2, "iconv -f WINDOWS-1252 -t UTF-8"),
        (b"fine\n\nhalf a character \xe4\xb8", 3, "iconv"),
        (b"fine\n\0\0\0\0", 2, "damaged"),
    ],
)
def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path, data, place, hint):
    (tmp_path / "a.txt").write_bytes(data)
    for start in (0.0, 0.5):
        with pytest.raises(DataError) as error:
            text_of(tmp_path / "a.txt", start)
        assert error.value.message.startswith(f"{tmp_path}/a.txt:{place}: ") and hint in error.value.hint


def test_a_truncated_or_missing_text_file_is_a_data_error(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello " * 1000)[:-20])
    for name in ("a.txt.gz", "missing.txt"):
        with pytest.raises(DataError, match=rf"{name}: the file cannot be read"):
            text_of(tmp_path / name)


def test_an_empty_text_file_has_no_blocks(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    assert list(read_text(tmp_path / "a.txt")) == []


# ---------------------------------------------------------------------------------- anything at all


@few
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='[]{}",:\\ \n\ud7ff01aé<|>', max_size=60).map(str.encode),
    ),
    suffix=st.sampled_from(TEXT_SUFFIXES + ROW_SUFFIXES),
    packed=st.sampled_from(["", "gzip", "claims gzip"]),
)
def test_no_content_raises_anything_but_data_error(tmp_path, data, suffix, packed):
    path = tmp_path / f"a{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed == "gzip" else data)
    if is_text(path):
        with contextlib.suppress(DataError):
            text_of(path, 0.3)
    else:
        rows = list(read_rows(path))
        assert rows and all(row.where.startswith(f"{path}:") for row in rows)
        assert all(row.reason.encode() and row.hint for row in rows if isinstance(row, BadRow))


def test_large_files_are_streamed(tmp_path):
    row = json.dumps({"instruction": "x" * 1500, "input": "中文", "output": "y" * 1500}, ensure_ascii=False)
    (tmp_path / "a.json").write_text("[\n" + ",\n".join([row] * 10_000) + "\n]")
    (tmp_path / "a.txt").write_text("A line of some sixty characters, like many lines of a book.\n" * 500_000)
    tracemalloc.start()
    assert sum(isinstance(row, Row) for row in read_rows(tmp_path / "a.json")) == 10_000
    assert sum(len(block.text) for block in read_text(tmp_path / "a.txt")) == 30_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000, peak


@pytest.mark.skipif(not GSM8K.exists(), reason="the shared data is not on this machine")
def test_every_row_of_gsm8k_is_read():
    rows = list(read_rows(GSM8K))
    assert len(rows) == 7473 and all(isinstance(row, Row) for row in rows)
    assert rows[1].where == f"{GSM8K}:7: item 2" and rows[1].value.keys() == {
        "instruction",
        "input",
        "output",
    }
