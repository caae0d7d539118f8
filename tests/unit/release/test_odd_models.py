"""Model folders as others publish them: cards, ids, defaults and names that are not as ours are."""

import json
import subprocess

import pytest
import yaml

from qwq.common.checksums import check_sums, sha256_of, write_sums
from qwq.errors import ConfigError, ModelError
from qwq.model.config import ModelConfig, preset
from qwq.model.gguf_metadata import sampling_metadata
from qwq.model.model_folder import eos_ids
from qwq.release import assemble
from qwq.release.assemble import ReleaseOptions, release
from qwq.release.facts import FRONT


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("license: Apache-2.0", {"license": "apache-2.0"}),
        ("license: qwen", {"license": "other", "license_name": "qwen", "license_link": "LICENSE"}),
        ("license: other\nlicense_name: My Licence\nlicense_link: https://x.org/l",
         {"license": "other", "license_name": "my-licence", "license_link": "https://x.org/l"}),
        ("language: [en, no, English]", {"language": ["en", "no"]}),
        ("base_model: [/data/x, org/base]\ndatasets: [my data, org/ok]",
         {"base_model": "org/base", "datasets": ["org/ok"]}),
    ],
)  # fmt: skip
def test_a_card_of_another_publisher(model, tmp_path, stated, expected):
    (model / "README.md").write_text(f"---\n{stated}\n---\n", encoding="utf-8-sig")
    card = yaml.safe_load(
        FRONT.match((release(str(model), tmp_path / "out", ReleaseOptions()) / "README.md").read_text())[1]
    )
    assert {key: card[key] for key in expected} == expected


def test_options_that_no_hub_takes():
    for options in (
        {"licence": "foo"},
        {"languages": ("English",)},
        {"name": "a/b"},
        {"name": "a\nb"},
        {"name": "x" * 201},
    ):
        with pytest.raises(ConfigError, match=r"^--(license|language|name) "):
            ReleaseOptions(**options)


def test_any_failure_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "modelfile", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        release(str(model), tmp_path / "out", ReleaseOptions())
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_sampling_defaults_that_are_no_numbers_say_nothing(model, tmp_path):
    stated = {"temperature": True, "top_p": [1], "top_k": 40.0, "min_p": "0.1", "repetition_penalty": float("inf")}
    assert sampling_metadata(stated) == {"general.sampling.top_k": 40} and not sampling_metadata({"top_k": 2**40})
    (model / "generation_config.json").write_text(json.dumps(stated))
    text = (release(str(model), tmp_path / "out", ReleaseOptions()) / "Modelfile").read_text()
    assert [line for line in text.splitlines() if line.startswith("PARAMETER t")] == ["PARAMETER top_k 40"]


def test_token_ids_that_are_none(model):
    hf = preset("tiny", vocab_size=300).to_hf() | {"bos_token_id": [7], "pad_token_id": -1, "eos_token_id": []}
    config = ModelConfig.from_hf(hf)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (7, None, None)
    with pytest.raises(ModelError, match="bos_token_id is '7', a whole number"):
        ModelConfig.from_hf(hf | {"bos_token_id": "7"})
    (model / "generation_config.json").write_text('{"eos_token_id": [-1, "3"]}')
    with pytest.raises(ModelError, match="eos_token_id has '3', whole numbers"):
        eos_ids(model)


def test_a_licence_with_quotes_ends_where_it_ends(model, tmp_path):
    (model / "LICENSE").write_text('a """ of "Software"')
    text = (release(str(model), tmp_path / "out", ReleaseOptions()) / "Modelfile").read_text()
    assert text.endswith('LICENSE """\na \'\'\' of "Software"\n"""\n')


def test_names_that_sha256sum_escapes(tmp_path):
    names = ["a\nb", "a\\b", "a\u2028b", "a b"]
    for name in names:
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, {name: sha256_of(tmp_path / name) for name in names})
    assert sorted(check_sums(tmp_path)) == sorted(names)
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
