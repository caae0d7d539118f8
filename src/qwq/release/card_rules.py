"""What a hub's validator asks of a model card's metadata, checked here.

Hugging Face answers `POST /api/validate-yaml`, which needs the network, a machine without it can
only apply the published rules: the metadata page of its documentation and the specification of
`model-index`. Rules that the server alone knows (whether a base model exists) are not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

MOST_YAML_BYTES = 100_000
FRONT = re.compile(r"\A---\n(.*?)\n---(?:\n|\Z)", re.DOTALL)
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*|code|multilingual")
LICENCES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma "
    "unknown other".split()
)
PIPELINES = frozenset({"text-generation", "text-ranking", "text-classification", "feature-extraction"})
RELATIONS = frozenset({"finetune", "adapter", "merge", "quantized"})


def faults_of(card: str) -> list[str]:
    """What is wrong with a card's metadata, one sentence each; empty where a hub accepts it."""
    front = FRONT.match(card)
    if front is None:
        return ["no metadata: the card begins with --- and a line of its own ends it with ---"]
    if len(front[1].encode()) > MOST_YAML_BYTES:
        return [f"the metadata has {len(front[1].encode()):,} bytes, {MOST_YAML_BYTES:,} are allowed"]
    try:
        data = yaml.load(front[1], Loader=_NoDuplicates)
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(data, Mapping):
        return [f"the metadata is a {type(data).__name__}, keys with values are needed"]
    return list(_faults(data))


class _NoDuplicates(yaml.SafeLoader):
    """A loader that refuses a key given twice, as the hub's does."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if twice := next((k for k in keys if keys.count(k) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"duplicated mapping key {twice!r}", node.start_mark)
        return super().construct_mapping(node, deep)


def _faults(data: Mapping[Any, Any]) -> Iterator[str]:
    licences = _list(data.get("license"))
    yield from (
        f'"license" must be one of the hub\'s, such as apache-2.0, not {v!r}' for v in licences if v not in LICENCES
    )
    if "other" in licences and not data.get("license_name"):
        yield '"license_name" is required where "license" is other'
    rules: dict[str, Callable[[Any], bool]] = {
        "language": is_language,
        "datasets": is_hub_id,
        "base_model": is_hub_id,
        "metrics": lambda v: isinstance(v, str) and bool(v),
        "tags": lambda v: isinstance(v, str) and bool(v),
        "pipeline_tag": lambda v: v in PIPELINES,
        "base_model_relation": lambda v: v in RELATIONS,
        "library_name": lambda v: isinstance(v, str) and bool(v),
        "license_name": lambda v: isinstance(v, str) and bool(re.fullmatch(r"[a-z0-9-.]+", v)),
        "license_link": is_licence_link,
    }
    for key, fits in rules.items():
        if key in data:
            yield from (f'"{key}" has the value {v!r}, which it may not have' for v in _list(data[key]) if not fits(v))
    if "model-index" in data:
        yield from _index_faults(data["model-index"])


def is_language(value: Any) -> bool:
    """Whether hubs take `value` as a language."""
    return isinstance(value, str) and bool(LANGUAGE.fullmatch(value))


def is_licence_link(value: Any) -> bool:
    """Whether hubs take `value` as the place of a licence's text."""
    return isinstance(value, str) and (value in ("LICENSE", "LICENSE.md") or value.startswith("https://"))


def is_hub_id(value: Any) -> bool:
    """Whether `value` has the form of a repository's name on a hub."""
    return isinstance(value, str) and bool(HUB_ID.fullmatch(value)) and ".." not in value and "--" not in value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _index_faults(index: Any) -> Iterator[str]:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for i, model in enumerate(index):
        where = f'"model-index[{i}]'
        if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
            yield f'{where}.name" is required'
            continue
        if not isinstance(model.get("results"), list):
            yield f'{where}.results" is required, an array'
            continue
        for j, result in enumerate(model["results"]):
            yield from _result_faults(f"{where}.results[{j}]", result)


def _result_faults(where: str, result: Any) -> Iterator[str]:
    if not isinstance(result, Mapping):
        yield f'{where}" must be an object'
        return
    for part, keys in {"task": ("type",), "dataset": ("type", "name")}.items():
        value = result.get(part)
        for key in keys:
            if not isinstance(value, Mapping) or not isinstance(value.get(key), str) or not value[key]:
                yield f'{where}.{part}.{key}" is required'
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'{where}.metrics" is required, an array'
        return
    for k, metric in enumerate(metrics):
        if not isinstance(metric, Mapping) or not isinstance(metric.get("type"), str) or metric.get("value") is None:
            yield f'{where}.metrics[{k}]" needs a type and a value'
