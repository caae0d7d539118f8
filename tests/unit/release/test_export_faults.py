"""What an export cannot read or write costs one line, and leaves nothing half-written."""

import json
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwq.cli import main
from qwq.common import files
from qwq.errors import CapacityError, ConfigError, ModelError
from qwq.model import lora
from qwq.model.weights import load_model
from qwq.release.assemble import ReleaseOptions, release
from qwq.release.export import ExportOptions, export
from qwq.release.quality import QualityOptions

UNMEASURED = QualityOptions(skip=True)
# The name of what is written, and how.
KINDS = {
    "F16": ("m.gguf", ExportOptions()),
    "Q8_0": ("m.gguf", ExportOptions(quant="Q8_0", quality=UNMEASURED)),
    "hf": ("out", ExportOptions()),
    "mlx": ("out", ExportOptions(format="mlx", quality=UNMEASURED)),
    "w8a8": ("out", ExportOptions(format="w8a8", quality=UNMEASURED)),
    "w4a16": ("out", ExportOptions(format="w4a16", quality=UNMEASURED)),
}
kinds = pytest.mark.parametrize(("out", "options"), KINDS.values(), ids=KINDS)


def drop(weights):
    del weights["model.layers.1.mlp.up_proj.weight"]


def bend(weights):
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name][:-1].contiguous()


def spoil(weights):
    weights["model.norm.weight"][3] = float("nan")


def retype(weights):
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)


def left(folder):
    """Every file in `folder` and below, hidden ones too, but for the model's own."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "model" not in p.parts)


@contextmanager
def files_of_at_most(num_bytes):
    """The system refuses what is longer, as a full disk does, after it has taken the first part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"do not match config.json .*1 missing \(model.layers.1.mlp.up_proj.weight\)"),
        (bend, r"up_proj.weight is \[511, 192\], config.json asks for \[512, 192\]"),
        (spoil, "model.norm.weight holds NaN or infinite weights: fetch or write the model again"),
        (retype, "model.norm.weight is stored as I8; F32, F16, BF16, F64 are read here"),
    ],
    ids=["missing", "shape", "NaN", "type"],
)
@kinds
def test_broken_weights(model, tmp_path, change, message, out, options):
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message) as error:
        export(str(model), tmp_path / "new" / out, options)
    assert "\n" not in str(error.value) and left(tmp_path) == []


def test_a_weights_file_that_is_cut_short(model, tmp_path, capsys):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main(["export", str(model), str(tmp_path / "m.gguf")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "model.safetensors" in line and left(tmp_path) == []


@pytest.fixture
def roomy(monkeypatch, tmp_path):
    """Every disk says that it has room."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 40)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)


@kinds
def test_a_disk_that_fills_while_it_is_written(model, tmp_path, roomy, out, options):
    with files_of_at_most(100_000), pytest.raises(CapacityError, match="cannot be written .*free some space") as error:
        export(str(model), tmp_path / out, options)
    assert "\n" not in str(error.value) and left(tmp_path) == []


def test_a_full_disk_is_told_before_a_byte_is_written(model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CapacityError, match=r"m.gguf needs 1.6\d MiB, 1.00 MiB are free there: free some space"):
        export(str(model), tmp_path / "m.gguf")
    assert left(tmp_path) == []


def test_a_release_whose_disk_fills(model, tmp_path):
    with files_of_at_most(100_000), pytest.raises(CapacityError, match="cannot be written") as error:
        release(str(model), tmp_path / "out", ReleaseOptions())
    assert "\n" not in str(error.value) and left(tmp_path) == []


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that takes no files even of root")
@kinds
def test_a_place_that_takes_no_files(model, roomy, out, options):
    for place in (Path("/sys") / out, Path("/sys/kernel/new") / out):
        with pytest.raises(ConfigError, match="cannot be written .*: give another folder with OUT") as error:
            export(str(model), place, options)
        assert "\n" not in str(error.value) and not place.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@kinds
def test_a_folder_without_the_right_to_write(model, tmp_path, out, options):
    (tmp_path / "shut").mkdir(mode=0o555)
    with pytest.raises(ConfigError, match="cannot be written .*: give another folder with OUT"):
        export(str(model), tmp_path / "shut" / out, options)
    assert left(tmp_path) == []


def test_an_adapter_that_does_not_fit_or_finds_no_room(model, tmp_path):
    trained = load_model(model)
    lora.add(trained, rank=2, alpha=4.0, seed=0)
    lora.save_adapter(trained, adapter := tmp_path / "model" / "adapter", base=str(model))
    with files_of_at_most(4_000), pytest.raises(CapacityError, match="cannot be written"):
        export(str(adapter), tmp_path / "a.gguf")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises((ModelError, ConfigError)) as error:
        export(str(adapter), tmp_path / "a.gguf")
    assert "\n" not in str(error.value) and left(tmp_path) == []
