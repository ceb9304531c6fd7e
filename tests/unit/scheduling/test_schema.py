"""The JSON schema says what the types say."""

import json

from epp.scheduling.registry import Registry
from epp.scheduling.schema import schema


def nodes(tree):
    """Yield every mapping of a tree."""
    if isinstance(tree, dict):
        yield tree
        for inner in tree.values():
            yield from nodes(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from nodes(inner)


def test_it_is_json_and_every_reference_leads_somewhere():
    found = json.loads(json.dumps(schema(Registry())))
    references = {node["$ref"] for node in nodes(found) if "$ref" in node}
    assert references
    assert all(reference.removeprefix("#/$defs/") in found["$defs"] for reference in references)


def test_every_field_is_described():
    for name, definition in schema(Registry())["$defs"].items():
        assert definition["description"], name
        for field, about in definition.get("properties", {}).items():
            assert about.get("description"), f"{name}.{field}"


def test_unknown_fields_are_refused_everywhere():
    for name, definition in schema(Registry())["$defs"].items():
        assert definition["additionalProperties"] is False, name


def test_the_parameters_of_every_plugin_are_in_it():
    registry = Registry(allow_experimental=True)
    rules = schema(registry)["$defs"]["PluginSpec"]["allOf"]
    assert [rule["if"]["properties"]["type"]["const"] for rule in rules] == list(registry.types)
    definitions = schema(registry)["$defs"]
    assert "staleS" in definitions["QueueScorer"]["properties"]
    assert "maxTTFTPenaltyMs" in definitions["PrefixCacheAffinityFilter"]["properties"]


def test_the_short_form_has_the_parameters_of_its_producers():
    properties = schema(Registry())["$defs"]["Strategy"]["properties"]
    for name, title in (("approximate", "ApproxPrefixCacheProducer"), ("consistentHash", "ConsistentHashProducer")):
        assert {"$ref": f"#/$defs/{title}"} in properties[name]["anyOf"]
