"""`minigpt check`: facts of this machine, measured by processes of their own."""

import getpass
import json
import os
import platform

from command import finished, process


def test_some_facts_of_this_machine(minigpt):
    result = minigpt("check", "--only", "bfloat16,4 bits,memory ceiling", "--backend", "torch", "--json")
    found = json.loads(result.out)
    assert found["backend"] == "torch" and result.code == 0, found
    assert [(line["name"], line["verdict"] in ("ok", "skipped")) for line in found["lines"]] == [
        ("bfloat16", True), ("4 bits", True), ("memory ceiling", True),
    ]  # fmt: skip
    assert "as fast as in float32" in found["lines"][0]["said"] and all(line["seconds"] > 0 for line in found["lines"])


def test_the_shared_block_is_not_personal(tmp_path):
    started = process("check", "--share", "--only", "decode", "--backend", "mlx", cwd=tmp_path)
    result = finished(started)
    assert result.code == 0 and result.out.startswith("```\n") and "ok      decode  " in result.out, result.out
    for secret in (platform.node(), os.path.expanduser("~"), str(tmp_path), f" {getpass.getuser()} "):
        assert secret not in result.out, secret


def test_an_unknown_fact_is_refused(minigpt):
    minigpt("check", "--only", "decoding").refused(2, "no fact 'decoding'", "Did you mean decode?")
