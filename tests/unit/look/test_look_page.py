"""The page of answers: what it holds, what cannot escape from it, and the server that sends it."""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from qwq.cli import main
from qwq.errors import ConfigError
from qwq.look import page
from qwq.look.index import open_index
from qwq.look.query import Query
from qwq.look.server import make_server


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.inside in self.raw:
            self.raw[self.inside][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def written(run: Path, out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    assert main(["look", str(run), "--html", str(out), *options]) == 0
    text = out.read_text(encoding="utf-8")
    return text, json.loads(Tags(text).raw["script"][0])


def test_a_page_holds_its_answers_and_loads_nothing(run: Path, tmp_path: Path) -> None:
    text, data = written(run, tmp_path / "out.html")
    assert [a["number"] for a in data["answers"]] == list(range(1, 10)) and data["total"] == 9
    first = data["answers"][0]
    assert (first["prompt"], first["expected"], first["thinking"], first["final"]) == (
        "What is 0?<think>\n",
        "7",
        "add",
        "seven",
    )
    assert (first["reason"], first["rewards"], first["advantage"], first["outcome"]) == (
        "reason 0",
        {"accuracy": 1.0},
        0.5,
        "correct",
    )
    assert data["names"] == {
        "outcome": ["correct", "infra_error", "no_answer", "wrong"],
        "stage": ["eval rl2", "rl1", "rl2"],
        "task": ["code", "gsm8k", "math"],
    }
    assert (
        not re.search(r"https?://(?!www\.w3\.org)", text) and "src=" not in text.split("<body>")[1].split("<script")[0]
    )


def test_what_a_model_wrote_begins_no_tag(run: Path, tmp_path: Path) -> None:
    text, data = written(run, tmp_path / "out.html")
    tags = Tags(text)
    assert [tag for tag, _ in tags.tags].count("script") == 2 and not any(tag == "img" for tag, _ in tags.tags)
    hostile = data["answers"][1]["final"]
    assert hostile == "<script>alert(1)</script>\\x1b[31m\\x202eabc</textarea><img src=x onerror=alert(2)>"
    # Only this very script and this very style run: the policy names them by their hash.
    policy = next(a["content"] for tag, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy")
    for kind, source in (("script", tags.raw["script"][1]), ("style", tags.raw["style"][0])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "connect-src 'none'" in policy
    script = tags.raw["script"][1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_every_field_has_its_label(run: Path, tmp_path: Path) -> None:
    text, _ = written(run, tmp_path / "out.html")
    form = text.split('<form id="filters"')[1].split("</form>")[0]
    for field in re.findall(r"<(?:input|select) id=\"\w+\"[^>]*>", form):
        assert re.search(r"<label[^>]*>[^<]*" + re.escape(field), form), field


def test_a_page_holds_what_the_filter_leaves_and_says_what_it_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, data = written(run, tmp_path / "a.html", "--stage", "rl1")
    assert [a["number"] for a in data["answers"]] == [7, 8]
    monkeypatch.setattr(page, "MAX_PAGE_BYTES", 400)
    text, data = written(run, tmp_path / "b.html")
    held = len(data["answers"])
    assert 0 < held < 9 and f"{held} answers of 9: filter, or use --serve" in capsys.readouterr().out
    assert "of <b>9</b>; filter, or use <b>--serve</b>" in text


# -- served ----------------------------------------------------------------------------------------


@pytest.fixture
def port(run: Path) -> Iterator[int]:
    server = page.serve(lambda: open_index(run), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def get(port: int, path: str, host: str | None = None, **fields: Any) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "GET", path + ("?" + urlencode(fields) if fields else ""), headers={"Host": host or f"127.0.0.1:{port}"}
    )
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return (
        response.status,
        json.loads(body) if "json" in response.headers["Content-Type"] else body.decode(),
        response.headers,
    )


def test_a_served_page_lists_and_shows(run: Path, port: int) -> None:
    status, text, headers = get(port, "/")
    assert status == 200 and "connect-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"] == html.unescape(
        text.split('Content-Security-Policy" content="')[1].split('"')[0]
    )
    assert "answers" not in json.loads(Tags(text).raw["script"][0])
    _, listed, _ = get(port, "/list", text="seven", sort="tokens", reverse="1")
    assert listed["total"] == 2 and [r["number"] for r in listed["rows"]] == [9, 1]
    assert get(port, "/list", outcome="wrong", min="0.1")[1]["total"] == 1
    assert [r["number"] for r in get(port, "/list", **{"from": 7})[1]["rows"]] == [8, 9]
    status, answer, _ = get(port, "/answer", n=5)
    assert (answer["number"], answer["reward"], [b["number"] for b in answer["group"]]) == (5, 0.5, [4, 5, 6])
    assert "\u202e" not in json.dumps(get(port, "/answer", n=2)[1], ensure_ascii=False)


@pytest.mark.parametrize(
    ("path", "fields", "status", "words"),
    [
        ("/answer", {"n": 99}, 404, "there is no answer 99: they are 1 to 9"),
        ("/answer", {"n": 0}, 404, "there is no answer 0"),
        ("/answer", {"n": "x"}, 400, "n is 'x': give a whole number"),
        ("/list", {"step": "x"}, 400, "--step x: give one step"),
        ("/list", {"min": "x"}, 400, "'x' is no number"),
        ("/list", {"outcome": "corect"}, 400, "did you mean 'correct'?"),
        ("/../etc/passwd", {}, 404, "nothing at"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    port: int, path: str, fields: dict[str, Any], status: int, words: str
) -> None:
    got, body, _ = get(port, path, **fields)
    assert got == status and words in body["error"]


def test_another_site_reads_nothing(port: int) -> None:
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}"):
        assert get(port, "/list", host=host)[0] == 403
    assert get(port, "/list", host=f"localhost:{port}")[0] == 200


def test_a_port_that_is_taken(port: int) -> None:
    with pytest.raises(ConfigError, match=f"port {port} cannot be listened on .*: give another --port"):
        make_server(port, {})
    with pytest.raises(ConfigError, match="port 70000 cannot be listened on .*: give another --port"):
        make_server(70_000, {})


def test_the_fields_of_a_page_are_the_filters_of_the_command() -> None:
    fields = {
        "text": "a",
        "outcome": "wrong",
        "stage": "rl1",
        "task": "t",
        "step": "2",
        "min": "0",
        "max": "1",
        "sort": "reward",
        "reverse": "1",
    }
    assert page.query_of(fields) == Query("wrong", "rl1", "t", "", "2", 0.0, 1.0, "a", "reward", True)
    assert page.query_of({}) == Query()
