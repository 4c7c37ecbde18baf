"""Files of models that somebody, or a disk, has altered."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from typing import Any

import numpy as np
import torch as th
from safetensors import torch as safetensors

from sb3_sgmrl import SGMRL
from sb3_sgmrl.util.archive import write_archive

# what stands in place of a value
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 2**40, -(2**70), 0.0, -0.5, 1e-300, 1e300, "", "x", "MlpPolicy", "../../x", "\x00", []),
    *(
        [1, 2],
        [[]],
        {},
        {"a": 1},
        {"@": "tuple", "items": [1]},
        {"@": "dict", "items": [[1, 2]]},
        {"@": "number", "value": "nan"},
    ),
    *(
        {"@": "class", "name": "os.system"},
        {"@": "class", "name": "torch.nn.ReLU"},
        {"@": "tensor", "name": "none"},
        {"@": "box"},
    ),
    *({"@": 5}, {"@": "object", "class": "builtins.dict", "state": {}}, {"@": "discrete", "n": 10**9, "start": 0, "dtype": 1}),
    *([10**6], [1] * 3000, {"@": "deque", "items": [], "maxlen": -1}, "lin_0.1", "subprocess.Popen"),
]


def saved(model: Any) -> bytes:
    """The file of a model."""
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def loaded(content: bytes, algorithm: Any = SGMRL, **kwargs: Any) -> Any:
    """The model of a file."""
    return algorithm.load(io.BytesIO(content), **kwargs)


def members_of(content: bytes) -> dict[str, bytes]:
    """Members of an archive by name, the manifest included."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip whose checksums are right; the hashes in the manifest are as they were."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def rehashed(members: dict[str, bytes], **facts: Any) -> bytes:
    """An archive whose manifest has the hashes of these members."""
    kept = json.loads(members["manifest.json"])
    kept.pop("members")
    file = io.BytesIO()
    write_archive(file, {**kept, **facts}, {name: content for name, content in members.items() if name != "manifest.json"})
    return file.getvalue()


def with_json(content: bytes, part: str, change: Any) -> bytes:
    """The archive after ``change`` of what the JSON of a part says, with right hashes."""
    members = members_of(content)
    said = json.loads(members[f"{part}.json"])
    changed = change(said)
    members[f"{part}.json"] = json.dumps(said if changed is None else changed).encode()
    return rehashed(members)


def with_tensors(content: bytes, part: str, change: Any) -> bytes:
    """The archive after ``change`` of the tensors of a part, with right hashes."""
    members = members_of(content)
    tensors = safetensors.load(members[f"{part}.safetensors"])
    changed = change(tensors)
    members[f"{part}.safetensors"] = safetensors.save(tensors if changed is None else changed)
    return rehashed(members)


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit is another."""
    altered = bytearray(content)
    altered[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(altered)


def altered_members(content: bytes, rng: np.random.Generator) -> bytes:
    """Other contents in one member; the checksums of the zip are right, the hashes in the manifest are not."""
    members = members_of(content)
    name = _one_of(list(members), rng)
    members[name] = _altered(name, members[name], rng)
    return zipped(members)


def altered_and_rehashed(content: bytes, rng: np.random.Generator) -> bytes:
    """Other contents in one member, and all hashes are right: made by somebody, not by accident."""
    members = members_of(content)
    name = _one_of([name for name in members if name != "manifest.json"], rng)
    kind = rng.integers(10)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[_one_of(["x.json", "x.safetensors", "policy.x.json", "step_sizes.json"], rng)] = members[name]
    else:
        members[name] = _altered(name, members[name], rng)
    return rehashed(members)


def _one_of(items: list[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _altered(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    if rng.integers(8) == 0:
        at = int(rng.integers(len(content)))
        return _one_of([content[:at], content[at:], content + b"\x00", content + content, b"", b"\x80\x04."], rng)
    return _altered_json(content, rng) if name.endswith(".json") else _altered_tensors(content, rng)


def _altered_json(content: bytes, rng: np.random.Generator) -> bytes:
    before = json.loads(content)
    while True:
        said = copy.deepcopy(before)
        node, depth = said, int(rng.integers(1, 7))
        for _ in range(depth):
            if not isinstance(node, (dict, list)) or not node:
                break
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = _one_of(keys, rng)
            if isinstance(node[key], (dict, list)) and node[key] and rng.integers(3):
                node = node[key]
                continue
            _change(node, key, rng)
            break
        if said != before or json.dumps(said) != json.dumps(before):
            return json.dumps(said).encode()


def _change(node: Any, key: Any, rng: np.random.Generator) -> None:
    kind = rng.integers(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[_one_of(["", "x", "@", "learn", "policy", "__class__", "env"], rng)] = node.pop(key)
    elif kind == 2:
        other = _one_of(list(node) if isinstance(node, dict) else list(range(len(node))), rng)
        node[key] = copy.deepcopy(node[other])
    else:
        node[key] = copy.deepcopy(_one_of(VALUES, rng))


def _altered_tensors(content: bytes, rng: np.random.Generator) -> bytes:
    tensors = safetensors.load(content)
    if not tensors:
        return safetensors.save({"x": th.zeros(2)})
    name = _one_of(sorted(tensors), rng)
    value = tensors.pop(name)
    kind = rng.integers(8)
    if kind == 1:
        tensors["x"] = value
    elif kind == 2:
        tensors[name] = value.to(_one_of([th.float16, th.float64, th.int64, th.bool, th.bfloat16], rng))
        if tensors[name].dtype == value.dtype:
            tensors[name] = value.to(th.int8)
    elif kind == 3:
        tensors[name] = value[None] if rng.integers(2) else value.reshape(-1)[:1].repeat(3)
    elif kind == 4:
        tensors[name] = th.full_like(value, float("nan")) if value.dtype.is_floating_point else value[None]
    elif kind == 5:
        tensors[name] = value * float("inf") if value.dtype.is_floating_point else value[None]
    elif kind == 6:
        tensors[name], tensors["y"] = value, value.clone()
    elif kind == 7:
        tensors[name] = th.empty(0)
    return safetensors.save(tensors)
