"""Parses the engines file, a YAML list that people write.

```yaml
engines:                              # or the list alone
  - url: http://10.0.0.1:8000
    models: [openai/whisper-large-v3] # optional; if absent, the engine is asked
    label: a                          # optional, like weight (0.01 to 100) and gpu
    weight: 2.0
    gpu: H200
    capabilities:                     # what the engine can do; optional, like each entry
      verbose_json: no
      language: yes
      max_audio_s: 600
      max_file_mb: 25
      containers: [wav, mp3, flac]
```

Promises: every error is one sentence with its line: invalid YAML, unknown or missing keys,
duplicate keys and engines, invalid URLs, values out of range. Bounds: 4 MiB and 10,000 engines;
aliases cannot make the work larger than the file. An empty file is refused, because editors
truncate before they write; an explicit empty list (``engines: []``) is accepted.
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from vllm_router.discovery.regular_file import read_regular_file
from vllm_router.discovery.static import MODEL_TYPES
from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.engine_bounds import MAX_ENGINES, MAX_MODELS, is_name, read_weight
from vllm_router.scheduling.engine_url import engine_url
from vllm_router.scheduling.stated_capabilities import read_mapping

# 5,000 engines with all keys take 0.7 MB; anything larger than this is not a list of engines.
MAX_BYTES = 4 * 1024 * 1024
# A valid file has four levels.
_MAX_DEPTH = 16

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1024)]


def _named(value: str) -> str:
    if not is_name(value):
        raise ValueError("should have at most 500 characters, all printable")
    return value


_Name = Annotated[_Text, AfterValidator(_named)]

# Replacements for messages of pydantic that would puzzle the author of the file.
_WORDS = {
    "extra_forbidden": "is not a known key",
    "model_type": "should be keys and values, such as `url: http://10.0.0.1:8000`",
}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _stated(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("should be names and values, such as `verbose_json: no`")
    return read_mapping({str(name): each for name, each in value.items()})


_Capabilities = Annotated[Capabilities, BeforeValidator(_stated)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: _Text
    models: (
        Annotated[list[_Name], Field(min_length=1, max_length=MAX_MODELS), BeforeValidator(_listed)]
        | None
    ) = None
    model_type: _Name = MODEL_TYPES[0]
    label: _Name | None = None
    weight: Annotated[float, BeforeValidator(read_weight)] = 1.0
    gpu: _Name | None = None
    capabilities: _Capabilities | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    engines: Annotated[list[_Entry], Field(max_length=MAX_ENGINES)]


def parse_engine_file(content: bytes) -> tuple[EngineSpec, ...]:
    """Return the engines that a file's content lists.

    Raises:
        ValueError: One sentence, beginning with the line if it is known.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES // 1024**2} MiB")
    make_loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = make_loader(content)
    try:
        _check_depth(content, make_loader)
        root = loader.get_single_node()
        if root is None:
            raise ValueError("it is empty; write `engines: []` if there are none")
        lines = _Lines(root)
        data = _constructed(loader, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = "" if mark is None else f"line {mark.line + 1}: "
        raise ValueError(f"{at}not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200]}") from None
    finally:
        loader.dispose()
    if isinstance(data, list):
        data = {"engines": data}
    try:
        document = _Document.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        # A misspelled key is also a missing one; the former is the better message.
        first = min(found, key=lambda each: each["type"] != "extra_forbidden")
        keys = [part for part in first["loc"] if isinstance(part, str) and part != "engines"]
        is_inside = any(isinstance(part, int) for part in first["loc"])
        where = keys[-1] if keys else "an engine" if is_inside else "the list"
        said = first["msg"].removeprefix("Value error, ")
        said = _WORDS.get(first["type"]) or said[:1].lower() + said[1:]
        raise ValueError(f"{lines.at(first['loc'])}{where}: {said}") from None
    return _specs(document, lines)


#: Exceptions that YAML's constructors raise besides their own: for a date such as 2026-99-99, for
#: `!!bool maybe`, for a number of 5,000 digits or one of 200 digits in base 60.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _constructed(loader: yaml.SafeLoader, root: yaml.Node) -> Any:
    try:
        return loader.construct_document(root)
    except _UNREADABLE:
        raise ValueError(_unreadable(loader, root)) from None


def _unreadable(loader: yaml.SafeLoader, root: yaml.Node) -> str:
    # The loader still considers the failed value to be one that contains itself.
    loader.recursive_objects.clear()
    nodes, walked = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in walked:
            continue
        walked.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            try:
                loader.construct_object(node)
            except _UNREADABLE:
                line = node.start_mark.line + 1
                shown, kind = " ".join(node.value.split())[:50], node.tag.rpartition(":")[2]
                return f'line {line}: not YAML: "{shown}" is not a valid {kind[:20]}'
        elif isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            nodes.extend(part for pair in node.value for part in pair)
    return "not YAML: a value cannot be read"


def _check_depth(content: bytes, make_loader: type[yaml.SafeLoader]) -> None:
    # libyaml's composer recurses in C and crashes the process at some 10,000 levels. Its parser,
    # which produces these events, does not recurse.
    depth = 0
    for event in yaml.parse(content, make_loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise ValueError(f"line {line}: nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _specs(document: _Document, lines: "_Lines") -> tuple[EngineSpec, ...]:
    specs: dict[str, EngineSpec] = {}
    for index, entry in enumerate(document.engines):
        try:
            url = engine_url(entry.url)
            if url in specs:
                raise ValueError(f"{url} is listed twice")
            if entry.model_type not in MODEL_TYPES:
                raise ValueError(f'the model type "{entry.model_type}" is not supported')
        except ValueError as error:
            raise ValueError(f"{lines.at(('engines', index))}{error}") from None
        models = [entry.models] if isinstance(entry.models, str) else entry.models
        specs[url] = EngineSpec(
            engine_id=EngineId(url),
            url=url,
            models=None if models is None else tuple(dict.fromkeys(models)),
            model_type=entry.model_type,
            label=entry.label,
            weight=entry.weight,
            gpu=entry.gpu,
            capabilities=entry.capabilities,
        )
    return tuple(specs.values())


class _Lines:
    """The line of each entry and key in the file; duplicate keys are refused."""

    def __init__(self, root: yaml.Node) -> None:
        self._lines: dict[tuple[Any, ...], int] = {}
        # A node repeated by aliases is walked once; otherwise, ten lines could stand for a billion.
        self._walked: set[int] = set()
        if isinstance(root, yaml.SequenceNode):
            self._walk(root, ("engines",))
        else:
            self._walk(root, ())

    def _walk(self, node: yaml.Node, path: tuple[Any, ...]) -> None:
        self._lines[path] = node.start_mark.line + 1
        if id(node) in self._walked:
            return
        self._walked.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(node.value):
                self._walk(child, (*path, index))
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, child in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        raise ValueError(f'line {line}: "{key.value}" appears twice')
                    seen.add(key.value)
                    self._walk(child, (*path, key.value))
                    self._lines[*path, key.value] = key.start_mark.line + 1

    def at(self, path: tuple[Any, ...]) -> str:
        """Return ``line N: `` for the closest ancestor of a path that is in the file."""
        while path and path not in self._lines:
            path = path[:-1]
        return f"line {self._lines[path]}: " if path in self._lines else ""


def read_engine_file(path: Path) -> tuple[EngineSpec, ...]:
    """Return the engines that a file lists, for a check at startup.

    Raises:
        ValueError: One sentence that names the file, and the line if it is known.
    """
    try:
        return parse_engine_file(read_regular_file(path, MAX_BYTES))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
