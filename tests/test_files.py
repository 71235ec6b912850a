"""Files of data: what each format gives, and what is said of a file that is wrong."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, ROOT, a

from erl_bridge import etf
from erl_bridge.files.serve import BATCH, frames
from erl_bridge.files.source import Limits
from erl_bridge.framing import FrameReader


def messages(path: Path, limits: Limits | None = None) -> list[Any]:
    data = b"".join(frames(str(path), None, limits or Limits()))
    return [etf.decode(frame) for frame in FrameReader().feed(data)]  # type: ignore[arg-type]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = [
    ("a.yaml", "a: 1\nb: [true, null, 'x', 2024-02-29]", {"a": 1, "b": [True, None, "x", datetime.date(2024, 2, 29)]}),
    ("a.yml", "d: &d {x: 1, y: 2}\ne: {<<: *d, y: 3}", {"d": {"x": 1, "y": 2}, "e": {"x": 1, "y": 3}}),
    ("empty.yaml", "", None),
    (
        "a.json",
        b'\xef\xbb\xbf{"a": [1.5, 123456789012345678901234567890]}',
        {"a": [1.5, 123456789012345678901234567890]},
    ),
]


@pytest.mark.parametrize(("name", "content", "term"), GOOD)
def test_a_document_is_one_term(tmp_path: Path, name: str, content: str | bytes, term: Any) -> None:
    assert messages(written(tmp_path, name, content)) == [(a("ok"), term)]


ROWS = [
    (
        "a.csv",
        b'\xef\xbb\xbfa,b\r\n1,"x\ny"\r\n\r\n2,"say ""hi"""\r\n',
        [{"a": "1", "b": "x\ny"}, {"a": "2", "b": 'say "hi"'}],
    ),
    ("a.jsonl", '{"a": 1}\n\n[2]\n', [{"a": 1}, [2]]),
]


@pytest.mark.parametrize(("name", "content", "rows"), ROWS)
def test_rows_come_in_a_batch_and_are_counted(tmp_path: Path, name: str, content: str | bytes, rows: Any) -> None:
    assert messages(written(tmp_path, name, content)) == [(a("chunk"), rows), (a("done"), 2)]


WRONG = [
    ("a.yaml", "a: 1\nb: [1,\nc: }", "a.yaml, line 3, column 4: not valid YAML: "),
    ("a.yaml", "a: 1\nb: 2\na: 3", 'a.yaml, line 3, column 1: the key "a" is there twice, first at line 1'),
    ("a.yaml", "a: 1\non: 2", "a.yaml, line 2, column 1: expected a string as the key, got on; put it in quotes"),
    ("a.yaml", "a: .nan", "a.yaml, line 1, column 4: .nan is no number that Elixir has; use null"),
    ("a.yaml", "a: !!python/object:os.system {}", "a.yaml, line 1, column 4: not valid YAML: could not determine"),
    ("a.yaml", "a: &a [*a]", "a.yaml, line 1, column 4: the alias stands within what it is an alias of"),
    ("a.yaml", "[" * 50_000, "a.yaml, line 1, column 101: lists and maps are nested more than 100 deep"),
    ("a.yaml", "a: 2024-13-45", "a.yaml: not valid YAML: month must be in 1..12"),
    ("a.yaml", b"a: 1\nb: x\xff", "a.yaml, line 2, column 5: byte 0xff is not valid UTF-8; save the file as UTF-8"),
    ("a.json", '{"a": "NaN",\n "b": NaN}', "a.json, line 2, column 7: NaN is no number that Elixir has; use null"),
    ("a.json", '["-Infinity", -Infinity]', "a.json, line 1, column 15: -Infinity is no number"),
    ("a.json", "[1e999]", "a.json, line 1, column 2: the number 1e999 is too large for a float"),
    ("a.json", "[1, " + "9" * 5000 + "]", "a.json, line 1, column 5: an integer of more than 4300 digits"),
    ("a.json", '[{"a": 1},\n{"a": "a", "b": 1, "a": 2}]', 'a.json, line 2, column 20: the key "a" is there twice'),
    ("a.json", '{"a": }', "a.json, line 1, column 7: not valid JSON: expecting value"),
    ("a.json", "[" * 200_000, "a.json, line 1, column 1: lists and objects are nested too deep"),
    ("a.json", '["\\ud800"]', "a.json: cannot encode str with a lone surrogate at value[1][0]"),
    ("a.jsonl", '{"a": 1}\n{"a": }\n', "a.jsonl, line 2, column 7: not valid JSON: expecting value"),
    ("a.jsonl", '1\n{"a": "\\ud800"}\n', "a.jsonl, line 2: cannot encode str with a lone surrogate at value.a"),
    ("rows.csv", "a,b,c\n1,2,3\n1,2,3,4\n", "rows.csv, line 3: the row has 4 cells where the header has 3"),
    ("a.csv", 'a,b\n1,"x\ny"\n2\n', "a.csv, line 4: the row has 1 cell where the header has 2"),
    ("a.csv", "a,a\n", 'a.csv, line 1: the header has the name "a" twice'),
    ("a.csv", "a,\n", "a.csv, line 1: the header has no name for column 2"),
    ("a.csv", "", "a.csv: expected a header with the names of the columns, got an empty file"),
    (
        "a.csv",
        'a\n1\n"x\n\n',
        "a.csv, line 3: a cell that begins with a quote is not closed before the end of the file",
    ),
    ("a.csv", b"a\nx\xff\n", "a.csv, line 2, column 2: byte 0xff is not valid UTF-8"),
    ("a.txt", "", "a.txt: the name does not end in one of .yaml, .yml, .json, .jsonl, .ndjson, .csv"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), WRONG)
def test_what_is_wrong_is_one_sentence_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    tag, error = messages(written(tmp_path, name, content))[-1]
    assert (tag, error[a("error_type")]) == (a("error"), a("invalid_request"))
    assert error[a("message")].startswith(sentence)


def test_aliases_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 9)]
    [(tag, error)] = messages(written(tmp_path, "a.yaml", "\n".join(lines)))
    assert tag is a("error")
    assert "its aliases unfold to more than" in error[a("message")]


@pytest.mark.parametrize("name", ["none.csv", "none.json"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    [(_, error)] = messages(tmp_path / name)
    assert error[a("message")] == f"{name}: there is no such file ({tmp_path / name})"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    [(_, error)] = messages(tmp_path / "a.json")
    assert "expected a file, got a folder" in error[a("message")]


def test_limits_hold(tmp_path: Path) -> None:
    limits = Limits(max_file=10, max_row=10)
    for name, content, what in (
        ("a.json", "[" + " " * 20 + "]", "the file is over the limit of 10 bytes"),
        ("a.jsonl", '"1234567"\n"12345678901"\n', "line 2: the row is over the limit of 10 bytes"),
        ("a.csv", 'a\n"123\n456\n789"\n', "line 4: the row is over the limit of 10 bytes"),
    ):
        _, error = messages(written(tmp_path, name, content), limits)[-1]
        assert what in error[a("message")]


def test_a_long_file_comes_in_many_batches_that_add_up(tmp_path: Path) -> None:
    count = 3 * BATCH // 8
    *chunks, end = messages(written(tmp_path, "a.csv", "n\n" + "".join(f"{n:07}\n" for n in range(count))))
    assert end == (a("done"), count)
    assert [int(row["n"]) for _, rows in chunks for row in rows] == list(range(count))
    assert len(chunks) == 3


def test_on_demand_nothing_is_written_before_it_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "n\n" + "1234567\n" * (2 * BATCH // 8))
    command = [sys.executable, "-m", "erl_bridge", "read", str(path), "--on-demand"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        length = int.from_bytes(process.stdout.read(4), "big")
        assert etf.decode(process.stdout.read(length))[0] is a("chunk")
        process.stdin.close()  # the reader has had enough
        assert process.stdout.read() == b""
        assert process.wait(DEADLINE) == 1


def test_the_command_line_names_what_is_missing() -> None:
    command = [sys.executable, "-m", "erl_bridge", "read"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (2, "erl_bridge read: FILE: expected the file to read\n")
