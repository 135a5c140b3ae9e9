"""Data by name: the standard library's text, and downloads that are capped, verified and never half done."""

import hashlib
import http.client
import io
import urllib.error
from email.message import Message
from pathlib import Path

import pytest

from minigpt.data.read.download import CHUNK, Download
from minigpt.data.read.library import python_docs
from minigpt.data.read.named import DOWNLOADS, download, resolve
from minigpt.errors import RUNTIME, DataError, MiniGPTError
from minigpt.events import Note, Progress

CONTENT = b"Once upon a time.\n" * 50_000  # 900,000 bytes: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHAKESPEARE = Path(__file__).parents[2].parent / "shared/data/tinyshakespeare.txt"


@pytest.fixture
def origin(tmp_path) -> Path:
    """The stand-in for the file on the server."""
    path = tmp_path / "origin.txt"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def entry(monkeypatch, origin):
    """Put an entry "stories" into the table; change it by calling with other fields."""

    def put(url: str = origin.as_uri(), max_bytes: int = 1_000_000, sha256: str | None = SHA256) -> None:
        monkeypatch.setitem(DOWNLOADS, "stories", Download(url, "stories.txt", max_bytes, sha256))

    put()
    return put


def answers(body: bytes, length: int | None = None):
    """An opener whose server sends `body` and claims that it has `length` bytes."""

    def opener(url, timeout):
        response = io.BytesIO(body)
        response.headers = {} if length is None else {"Content-Length": str(length)}
        return response

    return opener


def fails(error: Exception):
    def opener(url, timeout):
        raise error

    return opener


def failure(cache: Path, **options) -> MiniGPTError:
    with pytest.raises(MiniGPTError) as caught:
        download("stories", cache, **options)
    return caught.value


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ---------------------------------------------------------------------------------------- downloads


def test_a_download_is_stored_and_reported(entry, cache):
    events = []
    path = download("stories", cache, events.append)
    assert path == cache / "stories.txt" and path.read_bytes() == CONTENT
    assert files_in(cache) == ["stories.txt"]
    assert events[0] == Note("downloading stories: 900.0 kB, from disk")
    assert events[1] == Progress("downloading stories", CHUNK, len(CONTENT))
    assert events[-1] == Progress("downloading stories", len(CONTENT), len(CONTENT), finished=True)


def test_a_verified_file_is_used_again_without_network(entry, cache):
    download("stories", cache)
    offline = fails(urllib.error.URLError("Network is unreachable"))
    assert download("stories", cache, opener=offline).read_bytes() == CONTENT


def test_a_damaged_file_is_refused_and_left_for_the_user_to_delete(entry, cache):
    path = download("stories", cache)
    path.write_bytes(CONTENT[:-1] + b"?")
    error = failure(cache)
    assert "its sha256 is" in error.message and SHA256[:12] in error.message
    assert error.hint == f"Delete {path} and run this again."


def test_a_file_that_differs_from_the_pinned_checksum_is_not_kept(entry, origin, cache):
    origin.write_bytes(CONTENT + b"more")
    error = failure(cache)
    assert "not the known" in error.message and "has changed or was damaged" in error.hint
    assert files_in(cache) == []


def test_without_a_pin_the_first_checksum_is_kept_and_compared(entry, origin, cache):
    entry(sha256=None)
    path = download("stories", cache)
    assert (cache / "stories.txt.sha256").read_text() == f"{SHA256}  stories.txt\n"
    assert download("stories", cache) == path

    path.write_bytes(b"changed here")
    assert "not stories.txt.sha256's" in failure(cache).message

    path.unlink()
    origin.write_bytes(b"changed there")
    assert "has changed" in failure(cache).hint
    assert files_in(cache) == ["stories.txt.sha256"]


@pytest.mark.parametrize("length", [None, len(CONTENT)])
def test_a_file_over_its_cap_is_stopped_and_not_kept(entry, cache, length):
    entry(max_bytes=300_000)
    error = failure(cache, opener=answers(CONTENT, length))
    assert error.message == '"stories" is larger than the 300,000 bytes it should have at most.'
    assert files_in(cache) == []


def test_the_cap_stops_an_endless_stream_early(entry, cache):
    entry(max_bytes=300_000)
    endless = io.BytesIO()
    endless.headers = {}
    reads = []
    endless.read = lambda size: reads.append(size) or bytes(size)
    failure(cache, opener=lambda url, timeout: endless)
    assert sum(reads) == 2 * CHUNK  # the second chunk is the one over 300,000 bytes


def test_a_connection_that_ends_early_is_noticed(entry, cache):
    entry(sha256=None)
    error = failure(cache, opener=answers(CONTENT[:1000], len(CONTENT)))
    assert error.message == '"stories" was cut off after 1,000 of 900,000 bytes.'
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            urllib.error.HTTPError("u", 404, "Not Found", Message(), None),
            "the server answers 404 (Not Found)",
        ),
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError("Connection reset by peer"), "Connection reset by peer"),
        (http.client.IncompleteRead(b"x", 5), "IncompleteRead"),
    ],
)
def test_network_failures_are_clear_and_leave_nothing(entry, origin, cache, cause, words):
    error = failure(cache, opener=fails(cause))
    assert error.exit_code == RUNTIME
    assert error.message.startswith('"stories" cannot be downloaded: ') and words in error.message
    assert "give the file's path instead" in error.hint and origin.as_uri() in error.hint
    assert files_in(cache) == []


def test_an_unreachable_file_url_is_a_network_failure(entry, tmp_path, cache):
    entry(url=(tmp_path / "gone.txt").as_uri())
    assert "No such file" in failure(cache).message


def test_a_directory_that_cannot_be_written_is_named(entry, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    error = failure(tmp_path / "cache")
    assert error.message.startswith(f'"stories" cannot be saved as {tmp_path}/cache/stories.txt: ')


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the shared data is not on this machine")
def test_the_pinned_checksum_of_tinyshakespeare(cache):
    def opener(url, timeout):
        assert (
            url == "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
        )
        return answers(SHAKESPEARE.read_bytes())(url, timeout)

    assert download("tinyshakespeare", cache, opener=opener).stat().st_size == 1_115_394


def test_every_entry_has_its_own_file_and_an_encrypted_address():
    assert len({entry.file for entry in DOWNLOADS.values()}) == len(DOWNLOADS)
    assert all(entry.url.startswith("https://") and entry.max_bytes > 0 for entry in DOWNLOADS.values())


# ----------------------------------------------------------------------------- the standard library


def test_python_docs_are_this_interpreters_modules():
    files = python_docs()
    names = {path.name for path in files}
    assert {"argparse.py", "json", "turtle.py"} & names == {"argparse.py", "turtle.py"}
    assert (
        files == sorted(set(files), key=files.index)
        and 1_000_000 < sum(f.stat().st_size for f in files) <= 20_000_000
    )
    assert not any(
        {"site-packages", "test", "tests", "__pycache__", "lib2to3"} & set(path.parts) for path in files
    )


def test_python_docs_leave_out_what_is_no_text_and_stay_under_the_cap(tmp_path):
    for name, data in {
        "a.py": b"x" * 400,
        "b.txt": "中文".encode() * 50,
        "c.py": b"caf\xe9",
        "d.rst": b"\0\0",
        "e.py": b"",
        "f.so": b"x",
        "site-packages/g.py": b"x",
        "pkg/test/h.py": b"x",
        "pkg/i.py": b"x" * 400,
        "pkg/j.py": b"x" * 200,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    names = [str(path.relative_to(tmp_path)) for path in python_docs(root=tmp_path)]
    assert names == ["a.py", "b.txt", "pkg/i.py", "pkg/j.py"]
    names = [str(path.relative_to(tmp_path)) for path in python_docs(1000, tmp_path)]
    assert names == ["a.py", "b.txt", "pkg/j.py"]  # 400 + 300 + 200; pkg/i.py would pass 1,000


def test_a_python_without_library_text_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="this Python has no library text"):
        python_docs(root=tmp_path)


# ------------------------------------------------------------------------------------------ resolve


def test_names_and_paths_are_resolved_in_order_and_once(entry, tmp_path, cache):
    (tmp_path / "own.jsonl").write_text('"x"')
    files = resolve(["stories", tmp_path / "own.jsonl", str(tmp_path / "*.jsonl")], cache)
    assert files == [cache / "stories.txt", tmp_path / "own.jsonl"]
    assert resolve(["python-docs"], cache) == python_docs()


def test_a_misspelt_name_is_recognized(cache):
    with pytest.raises(DataError) as caught:
        resolve(["tinyshakespear"], cache)
    assert (
        str(caught.value)
        == 'tinyshakespear does not exist. Did you mean the built-in name "tinyshakespeare"?'
    )
