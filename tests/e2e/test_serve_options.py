"""Options of `qwq serve` beside the model: HTTPS, access log, chat template, what a template is
told, a proxy's path.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted
from commands import run
from little import Served, make_model

from qwq.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served") / "little")


QUESTION = [{"role": "user", "content": "what is 3?"}]
TEMPLATE = (
    "{% for m in messages %}[{{ mood }}]{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}A:{% "
    "endif %}"
)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https_a_file_of_options_and_everything_at_once(folder: Path, tmp_path: Path) -> None:
    certificate, key, log = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "log.jsonl"
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(make, check=True, capture_output=True)
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    options = tmp_path / "serve.toml"
    options.write_text(
        f'chat-template = "{tmp_path / "t.jinja"}"\ndefault_chat_template_kwargs = \'{{"mood": "calm"}}\'\n'
        f'ssl-certfile = "{certificate}"\nssl-keyfile = "{key}"\naccess-log = "{log}"\nroot-path = "/qwq"\n'
        'page = false\napi-key = "k"\n'
    )
    server = Served(folder, "--config", str(options), "--reasoning-parser", "qwen3", certificate=certificate)
    server.client.headers["authorization"] = "Bearer k"
    try:
        assert server.client.base_url.scheme == "https" and any("not needed" in line for line in server.said)
        ids = server.post("/tokenize", messages=QUESTION).json()["tokens"]
        assert server.post("/detokenize", tokens=ids).json()["prompt"] == "[calm]what is 3?<|im_end|>A:"
        assert (
            server.post(
                "/v1/chat/completions", messages=QUESTION, max_tokens=4, chat_template_kwargs={"mood": "wild"}
            ).status_code
            == 200
        )
        assert server.client.get("/v1/nothing?key=secret", headers={"user-agent": "me"}).status_code == 404
        assert server.client.get("/openapi.json").json()["servers"] == [{"url": "/qwq"}]
        for path in ("/health", "/qwq/health"):  # a proxy may take the path off, or leave it
            assert (
                server.client.get(path).status_code == 200
                and server.client.get(path.replace("health", "v1/models"), headers={"authorization": ""}).status_code
                == 401
            )
    finally:
        assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(li["method"], li["path"], li["status"]) for li in lines][2:4] == [
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/v1/nothing", 404),
    ]
    assert (
        lines[3]["user_agent"] == "me"
        and lines[3]["client"] == "127.0.0.1"
        and lines[2]["seconds"] > 0
        and lines[2]["bytes"] > 100
        and "secret" not in log.read_text()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ssl-certfile", "/nope.pem"], "--ssl-certfile /nope.pem"),
        (["--ssl-keyfile", "/nope.pem"], "needs --ssl-certfile"),
        (["--access-log", "/nope/log"], "--access-log /nope/log"),
        (["--chat-template", "/nope.jinja"], "--chat-template /nope.jinja"),
        (["--chat-template", "{% if %}"], "chat template, line 1"),
        (["--default-chat-template-kwargs", '{"wibble": 1}'], "'wibble'"), (["--dtype", "int3"], "--dtype int3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(folder: Path, options: list[str], words: str) -> None:
    done = run("serve", folder, "--port", "0", *options, timeout=60)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(str(folder))]
    assert done.returncode == 2 and line.startswith("error: ") and words in line


def test_a_client_that_goes_is_in_the_log(tmp_path: Path) -> None:
    chat = scripted.chat_format()
    model = scripted.opened(chat, scripted.Script(chat, lambda prompt: "so it is " * 400, 0.01))
    with scripted.served(model, access_log=str(tmp_path / "log")) as url, httpx2.Client(base_url=url) as client:
        with client.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True}) as answer:
            next(answer.iter_lines())
    (line,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert line["gone"] and line["status"] == 200


def test_a_default_of_not_thinking_holds_for_requests_that_do_not_say() -> None:
    chat = scripted.chat_format()
    model = scripted.opened(chat, scripted.Script(chat, lambda prompt: "hm\n</think>\n\nyes"))
    with (
        scripted.served(model, default_chat_template_kwargs={"enable_thinking": False}) as url,
        httpx2.Client(base_url=url) as client,
    ):
        said = client.post("/v1/chat/completions", json={"messages": QUESTION, "max_tokens": 30}).json()
        assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
        for more in ({"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}):
            said = client.post("/v1/chat/completions", json={"messages": QUESTION, **more}).json()["choices"][0][
                "message"
            ]
            assert said["reasoning"] == "hm" and said["content"] == "yes"
    with (
        pytest.raises(ConfigError, match="'wibble'"),
        scripted.served(model, default_chat_template_kwargs={"wibble": 1}),
    ):
        pass
