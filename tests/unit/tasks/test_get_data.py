"""`qwq data get` fetches published files whole, resumes after a cut, and refuses other content."""

import gzip
import hashlib
import json

import hub_stand_in
import pytest
from hub_stand_in import Repository

from qwq.cli import main
from qwq.errors import ConfigError, DataError
from qwq.tasks import get_data as module
from qwq.tasks.downloads import Published
from qwq.tasks.get_data import get_data
from qwq.tasks.maths import Gsm8k

TRAIN = b'{"question": "1 + 1?", "answer": "#### 2"}\n' * 400_000
TEST = b'{"question": "2 + 2?", "answer": "#### 4"}\n'


@pytest.fixture
def web(monkeypatch, tmp_path):
    """gsm8k's files on a server of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hubs = hub_stand_in.Hubs()
    hubs.repositories["me/set"] = Repository(False, {"train.jsonl": TRAIN, "test.jsonl.gz": gzip.compress(TEST)})
    with hub_stand_in.serving(hubs) as (address, hubs):
        place = f"{address}/me/set/resolve/main"
        monkeypatch.setattr(module, "PLACES", {"gsm8k/train.jsonl": f"{place}/train.jsonl"})
        digest = hashlib.sha256(TEST).hexdigest()
        monkeypatch.setattr(Gsm8k, "published", Published("test.jsonl", f"{place}/test.jsonl.gz", digest))
        yield hubs


def test_all_files_of_a_task_go_where_data_is_read(web, tmp_path, capsys):
    assert main(["data", "get", "gsm8k", "--out", str(tmp_path / "data")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["path"], row["bytes"]) for row in rows] == [
        (str(tmp_path / "data/gsm8k/test.jsonl"), len(TEST)),
        (str(tmp_path / "data/gsm8k/train.jsonl"), len(TRAIN)),
    ]
    assert rows[0]["sha256"] == hashlib.sha256(TEST).hexdigest()
    assert (tmp_path / "data/gsm8k/test.jsonl").read_bytes() == TEST
    asked = len(web.asked)
    assert main(["data", "get", "gsm8k", "--out", str(tmp_path / "data")]) == 0
    assert len(web.asked) == asked


def test_one_split_and_the_cache(web, tmp_path):
    (file,) = get_data("gsm8k", None, "test")
    assert file.path == tmp_path / "cache/qwq/benchmarks/gsm8k/test.jsonl"


def test_another_content_than_published_is_refused(web, tmp_path):
    web.repositories["me/set"].files["test.jsonl.gz"] = gzip.compress(TEST + TEST)
    with pytest.raises(DataError, match=r"test.jsonl has sha256 .* is expected: it is damaged or another version"):
        get_data("gsm8k", tmp_path, "test")


def test_a_cut_fetch_leaves_no_file_and_goes_on_where_the_checksum_is_known(web, tmp_path, monkeypatch):
    place = f"{Gsm8k.published.url.rpartition('/')[0]}/train.jsonl"
    monkeypatch.setattr(Gsm8k, "published", Published("train.jsonl", place, hashlib.sha256(TRAIN).hexdigest()))
    web.cut_after = 9_000_000
    with pytest.raises(DataError, match=r"train.jsonl cannot be fetched .*run it again"):
        get_data("gsm8k", tmp_path, "train")
    assert not (tmp_path / "gsm8k/train.jsonl").exists()
    (file,) = get_data("gsm8k", tmp_path, "train")
    assert file.path.read_bytes() == TRAIN and not list(tmp_path.rglob(".*"))
    assert [span for _, span in web.ranges] == ["", "bytes=9000000-"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("gsm8", ConfigError, "no task 'gsm8': did you mean 'gsm8k'"),
        ("arithmetic", ConfigError, "makes its own problems: there is nothing to get. Tasks with files: .*gsm8k"),
        ("wtq", DataError, "wtq has no file to fetch: get .* put it in DIR/wtq"),
    ],
)
def test_names_that_give_nothing(name, error, words, tmp_path):
    with pytest.raises(error, match=words):
        get_data(name, tmp_path)
