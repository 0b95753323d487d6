"""Turn a CTranslate2 Whisper folder into a Hugging Face one, which vLLM and transformers load.

Both hold the same numbers under different names, so weights are copied and not computed: a model
whose weights were quantised is refused. CTranslate2 fuses the projections of queries, keys and
values into one matrix; its rows are handed back to each. Needs the standard library alone.

The layout of model.bin is that of CTranslate2's ModelReader (format version 6), the file formats on
the other side are safetensors 0.x and the tokenizer files of transformers.
"""

import json
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: CTranslate2's number of a data type -> the name in safetensors and the size in bytes.
FLOATS = {0: ("F32", 4), 4: ("F16", 2)}
SIZES = {0: 4, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2}
OLDEST_FORMAT, NEWEST_FORMAT = 4, 6
#: Whisper's timestamp tokens: 0.00 to 30.00 s in steps of 0.02 s.
TIMESTAMPS = 1501
TICK_S = 0.02
#: A vocabulary of at least this size has tokens for languages and tasks.
MULTILINGUAL_VOCABULARY = 51865


class ConversionError(Exception):
    """The folder holds no model that can be converted; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A variable of a model, still in its file's bytes."""

    shape: tuple[int, ...]
    kind: int
    data: memoryview

    def split(self, count: int) -> list["Tensor"]:
        """Cut the first axis into `count` equal parts, which lie one after the other."""
        shape = (self.shape[0] // count, *self.shape[1:])
        size = len(self.data) // count
        return [
            Tensor(shape, self.kind, self.data[at * size : (at + 1) * size]) for at in range(count)
        ]


def convert(source: Path, target: Path) -> None:
    """Write the Hugging Face files of a model.

    Args:
        source: Folder with model.bin, config.json and tokenizer.json.
        target: An existing folder.

    Raises:
        ConversionError: The weights are quantised, or the file is of another kind.
    """
    with (source / "model.bin").open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ConversionError("model.bin is empty") from error
    variables = read_model(memoryview(data))
    _write_safetensors(target / "model.safetensors", dict(named_tensors(variables)))
    config = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    ids = _add_timestamps(tokenizer)
    shape = _shape(variables)
    _write_json(target / "config.json", _config(shape, config, ids))
    _write_json(target / "generation_config.json", _generation_config(shape, config, ids))
    _write_json(target / "preprocessor_config.json", _preprocessor_config(shape["num_mel_bins"]))
    _write_tokenizer(target, tokenizer)


def read_model(data: memoryview) -> dict[str, Tensor]:
    """Return the variables of a model.bin by name, aliases included.

    Raises:
        ConversionError: It is no CTranslate2 model, or of an unknown version.
    """
    at = 0

    def number(layout: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(layout, data, at)
        at += struct.calcsize(layout)
        return int(value)

    def text() -> str:
        nonlocal at
        length = number("<H")  # with the closing zero byte
        value = bytes(data[at : at + length - 1]).decode()
        at += length
        return value

    version = number("<I") if len(data) >= 4 else 0
    if not OLDEST_FORMAT <= version <= NEWEST_FORMAT:
        raise ConversionError(f"model.bin is no CTranslate2 model of a known version ({version})")
    try:
        text()  # the model's class
        number("<I")  # and its revision
        variables: dict[str, Tensor] = {}
        for _ in range(number("<I")):
            name = text()
            shape = tuple(number("<I") for _ in range(number("<B")))
            kind = number("<B")
            size = number("<I")
            variables[name] = Tensor(shape, kind, data[at : at + size])
            at += size
        for _ in range(number("<I")):
            alias = text()
            variables[alias] = variables[text()]
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ConversionError(f"model.bin is cut off or damaged: {error}") from error
    return variables


def named_tensors(variables: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under the names of transformers' Whisper."""
    for side in ("encoder", "decoder"):
        positions = variables[f"{side}/position_encodings/encodings"]
        yield f"model.{side}.embed_positions.weight", positions
        yield from _pair(variables, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(_layers(variables, side)):
            yield from _layer(variables, side, layer)
    for convolution in ("conv1", "conv2"):
        ours, theirs = f"encoder/{convolution}", f"model.encoder.{convolution}"
        yield from _pair(variables, ours, theirs)
    yield "model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]


def _layer(variables: Mapping[str, Tensor], side: str, number: int) -> Iterator[tuple[str, Tensor]]:
    ours, theirs = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
    attentions = [("self_attention", "self_attn", ["qkv", "o"])]
    if side == "decoder":
        attentions.append(("attention", "encoder_attn", ["q", "kv", "o"]))
    for mine, their, projections in attentions:
        norm = f"{theirs}.{their}_layer_norm"
        yield from _pair(variables, f"{ours}/{mine}/layer_norm", norm)
        for at, fused in enumerate(projections):
            linear = f"{ours}/{mine}/linear_{at}"
            if fused == "o":
                yield from _pair(variables, linear, f"{theirs}.{their}.out_proj")
                continue
            weights = variables[f"{linear}/weight"].split(len(fused))
            biases = variables[f"{linear}/bias"].split(len(fused))
            for letter, weight, bias in zip(fused, weights, biases, strict=True):
                yield f"{theirs}.{their}.{letter}_proj.weight", weight
                # Whisper's keys have no bias; CTranslate2 fills its place with zeros.
                if letter != "k":
                    yield f"{theirs}.{their}.{letter}_proj.bias", bias
    yield from _pair(variables, f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
    for at in (0, 1):
        yield from _pair(variables, f"{ours}/ffn/linear_{at}", f"{theirs}.fc{at + 1}")


def _pair(variables: Mapping[str, Tensor], ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    """Yield a weight and its bias; those of a layer norm are gamma and beta."""
    names = ("gamma", "beta") if ours.endswith("layer_norm") else ("weight", "bias")
    for name, theirs_name in zip(names, ("weight", "bias"), strict=True):
        yield f"{theirs}.{theirs_name}", variables[f"{ours}/{name}"]


def _layers(variables: Mapping[str, Tensor], side: str) -> int:
    count = 0
    while f"{side}/layer_{count}/ffn/linear_0/weight" in variables:
        count += 1
    return count


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write eight bytes of header length, a JSON header, then the tensors in its order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        if tensor.kind not in FLOATS:
            raise ConversionError("the weights are quantised: only float16 and float32 convert")
        end = at + len(tensor.data)
        kind, _ = FLOATS[tensor.kind]
        header[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            file.write(tensor.data)


def _shape(variables: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes of the model, under the names of transformers' configuration."""
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    heads = variables["encoder/num_heads"]
    count = int.from_bytes(bytes(heads.data[: SIZES[heads.kind]]), "little")
    inner = variables["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": variables["encoder/conv1/weight"].shape[1],
        "encoder_layers": _layers(variables, "encoder"),
        "decoder_layers": _layers(variables, "decoder"),
        "encoder_attention_heads": count,
        "decoder_attention_heads": count,
        "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner,
        "max_source_positions": variables["encoder/position_encodings/encodings"].shape[0],
        "max_target_positions": variables["decoder/position_encodings/encodings"].shape[0],
    }


def _special_ids(ids: Mapping[str, int]) -> dict[str, int]:
    end = ids["<|endoftext|>"]
    start = ids["<|startoftranscript|>"]
    return {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }


def _config(
    shape: Mapping[str, int], config: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, object]:
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "torch_dtype": "float16",
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": False,
        "use_cache": True,
        "num_hidden_layers": shape["encoder_layers"],
        "suppress_tokens": [],
        "begin_suppress_tokens": config.get("suppress_ids_begin"),
        **shape,
        **_special_ids(ids),
    }


def _generation_config(
    shape: Mapping[str, int], config: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, object]:
    is_multilingual = shape["vocab_size"] >= MULTILINGUAL_VOCABULARY
    settings: dict[str, object] = {
        "alignment_heads": config.get("alignment_heads"),
        "begin_suppress_tokens": config.get("suppress_ids_begin"),
        "suppress_tokens": config.get("suppress_ids"),
        "is_multilingual": is_multilingual,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids.get("<|startofprev|>"),
        # OpenAI's decoder lets the first timestamp be at most 1 s.
        "max_initial_timestamp_index": round(1.0 / TICK_S),
        "max_length": shape["max_target_positions"],
        "return_timestamps": False,
        **_special_ids(ids),
    }
    # Tokenizers of English-only models name languages too, but their weights know none.
    if is_multilingual:
        settings["lang_to_id"] = {
            token: number
            for token, number in ids.items()
            if re.fullmatch(r"<\|[a-z]{2,3}\|>", token)
        }
        settings["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return {name: value for name, value in settings.items() if value is not None}


def _preprocessor_config(mels: int) -> dict[str, object]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": mels,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "chunk_length": 30,
        "n_fft": 400,
        "n_samples": 480_000,
        "nb_max_frames": 3_000,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }


def _add_timestamps(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Give a tokenizer its timestamp tokens, and return the numbers of its special ones.

    The tokenizers that ship with CTranslate2 models end before the timestamps. vLLM then encodes
    "<|0.00|>" letter by letter, and its verbose_json is rubbish.
    """
    added = tokenizer["added_tokens"]
    ids = {token["content"]: int(token["id"]) for token in added}
    first = ids["<|notimestamps|>"] + 1
    traits = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    for step in range(TIMESTAMPS):
        content = f"<|{step * TICK_S:.2f}|>"
        if content not in ids:
            added.append({"id": first + step, "content": content, **traits})
    return ids


def _write_tokenizer(target: Path, tokenizer: Mapping[str, Any]) -> None:
    _write_json(target / "tokenizer.json", tokenizer)
    end = "<|endoftext|>"
    kept = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    decoder = {
        str(token["id"]): {name: token[name] for name in kept}
        for token in tokenizer["added_tokens"]
    }
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), end)
    _write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "WhisperTokenizer",
            "model_max_length": 1024,
            "added_tokens_decoder": decoder,
            **settings,
        },
    )
    _write_json(target / "vocab.json", tokenizer["model"]["vocab"])
    # Older tokenizer files join each pair by a space, newer ones keep it a list.
    merges = (
        pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]
    )
    lines = "\n".join(["#version: 0.2", *merges])
    (target / "merges.txt").write_text(f"{lines}\n", encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
