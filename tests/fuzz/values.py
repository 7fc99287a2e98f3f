"""What is given for values: right ones, drawn from the schemas that the project validates by, and hostile ones."""

import json

from hypothesis import strategies as st
from pydantic import TypeAdapter

from ppl_text.recipes.config import RunConfig
from ppl_text.recipes.errors import hints_of, keyword_options

NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**8, 10**20, 0.0, 0.5, -0.5, 1e-30, 1e30, 1e308, -1e308)

TEXTS = (
    *("", " ", "x", "null", "true", "nan", "inf", "-inf", ".nan", "1e3", "1_000", "0x10", "yes", "2026-01-01"),
    *("١٢", "²", "12", "½", "à", "\u202edrow", "\x1b[2J", "\x9b31m", "\x1b]0;title\x07", "a\tb", "a\nb"),
    *("[1", "[]", "[1, 2]", "{}", "{a: 1}", "{name: warmup}", "[[[[]]]]", "&a [*a]", "*a", "? a", "- a", "---"),
    *("!!int ''", "!!bool q", "!!timestamp x", "!!python/object/apply:os.system [id]", "!x y", "[" * 300, "{a: " * 90),
    *("../x", "/dev/null", "/dev/full", ".", "~", "-", "--", "=", "a=b", "a:b", "missing.py:Guide", "os:system"),
    *("elbo", "iwae:4", "iwae:100000000", "iwae:-1", "iwae:x", "renyi:1", "renyi:nan:2", "pyro:Trace_ELBO", "pyro:x"),
    *("diagonal", "prior", "point", "gaussian", "mean-field", "exact", "layer-wise", "<script>", "a|b", "`a`", "%s{}"),
    "a" * 300,
    "é" * 5000,
)


def scalars():
    """Any number or text."""
    return st.one_of(st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.integers(), st.floats(), st.text(max_size=8))


def plain():
    """Any value that JSON can hold, and some that it should not."""
    leaves = st.one_of(scalars(), st.none(), st.booleans())
    names = st.sampled_from(["name", "value", "steps", "a", "", "text", "0", "__class__"])
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=5
    )


def from_schema(schema, definitions):
    """Right values of a JSON schema, as pydantic writes them."""
    if "$ref" in schema:
        return st.deferred(lambda: from_schema(definitions[schema["$ref"].rpartition("/")[2]], definitions))
    if "anyOf" in schema:
        return st.one_of([from_schema(one, definitions) for one in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    return KINDS.get(schema.get("type"), lambda *_: plain())(schema, definitions)


def _integer(schema, _):
    least = schema.get("minimum", schema.get("exclusiveMinimum", -2) + 1)
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 41) - 1)
    return st.integers(int(least), int(min(most, least + 40)))


def _number(schema, _):
    least = schema.get("minimum", schema.get("exclusiveMinimum", -2.0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 4.0))
    return st.floats(float(least), float(most))


def _array(schema, definitions):
    if "prefixItems" in schema:
        return st.tuples(*[from_schema(one, definitions) for one in schema["prefixItems"]]).map(list)
    return st.lists(from_schema(schema.get("items") or {}, definitions), max_size=3)


def _section(schema, definitions):
    fields = {name: from_schema(one, definitions) for name, one in schema.get("properties", {}).items()}
    needed = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
    return st.fixed_dictionaries(needed, optional=fields)


KINDS = {
    "integer": _integer,
    "number": _number,
    "string": lambda *_: st.sampled_from(TEXTS),
    "boolean": lambda *_: st.booleans(),
    "null": lambda *_: st.none(),
    "array": _array,
    "object": _section,
}


def keys(model, guide):
    """Of a run's configuration: each dotted key with a strategy of right values."""
    schema = RunConfig.model_json_schema()
    definitions, found = schema["$defs"], {}
    for name, field in schema["properties"].items():
        section = definitions.get(field.get("$ref", "").rpartition("/")[2], {})
        inner = section.get("properties", {}) if name != "sizes" else {}
        found |= {f"{name}.{key}": from_schema(one, definitions) for key, one in inner.items()}
        if not inner:
            found[name] = from_schema(field, definitions)
    for section, kind in (("model", model), ("guide", guide)):
        hints = hints_of(kind)
        for option in keyword_options(kind)[0]:
            schema = TypeAdapter(hints.get(option, object)).json_schema()
            found[f"{section}.{option}"] = from_schema(schema, schema.get("$defs", {}))
    return found


def assigned(key, value):
    """``KEY=VALUE`` as it is typed: a text as it is, anything else as YAML reads it."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
