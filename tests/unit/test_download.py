"""Files from a real server on this machine: ranges, broken transfers, changed files, and Hugging Face's addresses."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minigpt.data.read import download
from minigpt.data.read.download import Download, fetched
from minigpt.data.read.named import check_source, resolve
from minigpt.data.read.url import direct
from minigpt.errors import DataError, MiniGPTError, ResourceError
from minigpt.events import Note, Progress, silent

CONTENT = b"".join(b'{"text": "story %d"}\n' % n for n in range(60_000))  # about 1.4 MB: several chunks


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`, with Range and If-Range; after `server.breaks` bytes each answer ends early."""

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        if path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[path])
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        data = server.files[path]
        version = f'"{hashlib.md5(data).hexdigest()}"'
        wanted, start = self.headers.get("Range"), 0
        if server.ranges and wanted and self.headers.get("If-Range") in (version, None):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start + server.claims))
        self.send_header("ETag", version)
        self.send_header("Content-Type", "text/html" if path.endswith("page.txt") else "application/octet-stream")
        self.end_headers()
        self.wfile.write(data[start : None if server.breaks is None else start + server.breaks])

    def log_message(self, *ignored):
        pass


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.files, found.redirects, found.asked = {"/a.jsonl": CONTENT}, {}, []
    found.ranges, found.breaks, found.claims = True, None, 0
    found.address = f"http://127.0.0.1:{found.server_address[1]}"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", "/nonexistent")


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def get(server, tmp_path, report=silent, **entry) -> Path:
    return fetched("a", Download(f"{server.address}/a.jsonl", "a.jsonl", **entry), tmp_path / "a.jsonl", report)


# ---- one file


def test_the_size_is_told_before_the_first_byte_is_kept(server, tmp_path):
    events = []
    path = get(server, tmp_path, events.append)
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["a.jsonl", "a.jsonl.sha256"]
    assert events[0] == Note(f"downloading a: 1.4 MB, from {server.address.removeprefix('http://')}")
    assert events[-1] == Progress("downloading a", len(CONTENT), len(CONTENT), finished=True)
    server.files.clear()
    assert get(server, tmp_path).read_bytes() == CONTENT  # verified, not asked for again
    assert len(server.asked) == 1


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.breaks = 500_000
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked, _ in server.asked] == [None, "bytes=500000-", "bytes=1000000-"]
    assert names(tmp_path) == ["a.jsonl", "a.jsonl.sha256"]


def stopped_at(size: int):
    """A report that ends the program, as Ctrl-C would, once `size` bytes are there."""

    def report(event):
        if isinstance(event, Progress) and event.done >= size:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_download_goes_on_in_the_next_call(server, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, stopped_at(600_000))
    assert names(tmp_path) == ["a.jsonl.part", "a.jsonl.part.json"]  # nothing under its final name
    size = (tmp_path / "a.jsonl.part").stat().st_size
    assert 500_000 < size < len(CONTENT)
    events = []
    assert get(server, tmp_path, events.append).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={size}-" and "of them are here" in events[0].text
    assert names(tmp_path) == ["a.jsonl", "a.jsonl.sha256"]


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without ranges"])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(server, tmp_path, ranges):
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, stopped_at(600_000))
    server.files["/a.jsonl"], server.ranges = CONTENT.replace(b"story", b"STORY"), ranges
    assert get(server, tmp_path).read_bytes() == server.files["/a.jsonl"]


def test_a_part_longer_than_the_file_is_given_up(server, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, stopped_at(600_000))
    (tmp_path / "a.jsonl.part").write_bytes(bytes(10_000))  # what a crash left, with a valid note of its version
    server.files["/a.jsonl"] = CONTENT[:20_000]
    with pytest.raises(MiniGPTError, match="its sha256 is"):
        get(server, tmp_path, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert names(tmp_path) == []


def test_a_server_that_promises_more_than_it_sends(server, tmp_path):
    server.claims = 100
    with pytest.raises(MiniGPTError, match=r'"a" was cut off after 1,\d+,\d+ of 1,\d+,\d+ bytes'):
        get(server, tmp_path)
    assert "a.jsonl" not in names(tmp_path)


def test_a_file_over_its_cap_leaves_nothing(server, tmp_path):
    with pytest.raises(MiniGPTError, match="larger than the 1,000 bytes"):
        get(server, tmp_path, max_bytes=1000)
    assert names(tmp_path) == []


def test_a_file_that_the_disk_cannot_hold_is_not_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(ResourceError, match=r'"a" needs 1\.4 MB, but the disk has 1\.0 MB left'):
        get(server, tmp_path)
    assert names(tmp_path) == []


# ---- addresses as data


def test_an_address_is_data_and_is_fetched_once(server, tmp_path):
    server.files["/more/a.jsonl"] = b'"x"\n'
    sources = [f"{server.address}/a.jsonl", f"{server.address}/more/a.jsonl?download=true"]
    for _ in range(2):
        first, second = resolve(sources, tmp_path)
        assert first.read_bytes() == CONTENT and second.read_bytes() == b'"x"\n' and first.suffix == ".jsonl"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{0}/gone.jsonl", ["the server answers 404", "may have moved"]),
        ("{0}/page.txt", ["is a web page, not a file"]),
        ("{0}/a.docx", ['files of type ".docx" are not supported', ".jsonl"]),
        ("{0}", ["names no file"]),
        ("http://127.0.0.1:9/a.jsonl", ["cannot be downloaded", "Is there a network", "HTTPS_PROXY"]),
        ("s3://bucket/a.jsonl", ["begin with s3:// are not supported"]),
        ("https://huggingface.co/datasets/owner/name", ["hf:OWNER/NAME"]),
        ("hf:a b", ["names no data set", "hf:OWNER/NAME"]),
    ],
)
def test_addresses_that_give_no_data(server, tmp_path, source, words):
    server.files["/page.txt"] = b"<html>"
    with pytest.raises(MiniGPTError) as error:
        resolve([source.format(server.address)], tmp_path)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert names(tmp_path) == []


def test_an_address_is_checked_without_a_network(server):
    check_source(f"{server.address}/a.jsonl")
    check_source("hf:owner/name@v1/data/train.jsonl")
    with pytest.raises(DataError):
        check_source("ftp://host/a.jsonl")
    assert server.asked == []


def test_pages_that_show_a_file_give_the_file():
    assert direct("https://github.com/o/n/blob/main/d/a.csv") == "https://raw.githubusercontent.com/o/n/main/d/a.csv"
    shown = "https://huggingface.co/datasets/o/n/blob/main/a.jsonl"
    assert direct(shown) == "https://huggingface.co/datasets/o/n/resolve/main/a.jsonl"
    assert direct("https://example.org/blob/a.csv") == "https://example.org/blob/a.csv"


# ---- Hugging Face


@pytest.fixture
def hub(server, monkeypatch):
    """A data set `o/n` on a hub of our own."""
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    files = {"README.md": b"# About", "data/train-0.jsonl": b'"one"\n', "data/train-1.jsonl": b'"two"\n',
             "data/test.jsonl": b'"three"\n', "a.bin": b"x", ".gitattributes": b""}  # fmt: skip
    siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
    siblings[1]["lfs"] = {"sha256": hashlib.sha256(files["data/train-0.jsonl"]).hexdigest()}
    siblings.append({"rfilename": "../../evil.jsonl", "size": 1})
    server.files["/api/datasets/o/n/revision/main"] = json.dumps({"siblings": siblings}).encode()
    server.files |= {f"/datasets/o/n/resolve/main/{name}": data for name, data in files.items()}
    return server


def test_a_data_set_is_fetched_with_its_training_files(hub, tmp_path):
    events = []
    files = resolve(["hf:o/n"], tmp_path, events.append)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "hf-o--n@main/data/train-0.jsonl", "hf-o--n@main/data/train-1.jsonl",
    ]  # fmt: skip
    assert [file.read_bytes() for file in files] == [b'"one"\n', b'"two"\n']
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("omitted: data/test.jsonl" in note for note in notes)
    assert any("not supported: a.bin." in note for note in notes)
    assert any("2 files to download, 12 bytes" in note for note in notes)
    hub.files.clear()
    assert resolve(["hf:o/n"], tmp_path) == files  # without a network


def test_a_path_inside_a_data_set(hub, tmp_path):
    (test,) = resolve(["hf:o/n/data/test.jsonl"], tmp_path)
    assert test.read_bytes() == b'"three"\n'
    found = [file.name for file in resolve(["hf:o/n/data"], tmp_path)]
    assert found == ["train-0.jsonl", "train-1.jsonl", "test.jsonl"]
    with pytest.raises(DataError, match="there is no nope in this data set. It has README.md"):
        resolve(["hf:o/n/nope"], tmp_path)


def test_a_file_of_a_data_set_that_is_not_what_was_listed(hub, tmp_path):
    hub.files["/datasets/o/n/resolve/main/data/train-0.jsonl"] = b'"ONE"\n'
    with pytest.raises(MiniGPTError, match="its sha256 is"):
        resolve(["hf:o/n"], tmp_path)
    hub.files["/datasets/o/n/resolve/main/data/train-0.jsonl"] = b'"one" and much more\n'
    with pytest.raises(MiniGPTError, match="larger than the 6 bytes"):
        resolve(["hf:o/n"], tmp_path)
    assert "hf-o--n@main/data/train-0.jsonl" not in names(tmp_path)


def test_a_token_is_sent_to_the_hub_and_to_nobody_else(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = "/datasets/o/n/resolve/main/data/train-0.jsonl"
    hub.files["/elsewhere"] = hub.files.pop(path)
    hub.redirects[path] = f"http://localhost:{hub.server_address[1]}/elsewhere"
    resolve(["hf:o/n"], tmp_path)
    sent = {path: token for path, _, token in hub.asked}
    assert sent["/api/datasets/o/n/revision/main"] == sent[path] == "Bearer hf_secret"
    assert sent["/elsewhere"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [("hf:o/unknown", ["answers 404", "HF_TOKEN", "minigpt[hub]"]), ("hf:o/broken", ["no list of files"])],
)
def test_data_sets_that_cannot_be_had(hub, tmp_path, name, words):
    hub.files["/api/datasets/o/broken/revision/main"] = b"<html>"
    with pytest.raises(MiniGPTError) as error:
        resolve([name], tmp_path)
    assert all(word in str(error.value) for word in words)


def test_without_a_network_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MiniGPTError, match="cannot be reached: .*HF_ENDPOINT names a mirror"):
        resolve(["hf:o/n"], tmp_path)
