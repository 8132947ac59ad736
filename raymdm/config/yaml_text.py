"""YAML as recipes use it: safe, no key twice, `1e-4` a number, and the line of every field."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

_FLOAT = "tag:yaml.org,2002:float"
# YAML 1.1 takes 1e-4 for text, because it has neither a dot nor a signed exponent such as 1.0e+4.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_FIRST = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    """The safe loader, for which `1e-4` is a number."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper that matches `_Loader`: it puts the text "1e-4" in quotes, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # the rarer line ends survive only as escapes, which double quotes have
    style = '"' if any(mark in text for mark in "\r\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, _FIRST)
_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, _FIRST)


class YamlProblem(ValueError):
    """Text that is no YAML, or has a key twice; `line` counts from 1 and is None where it is unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Document(NamedTuple):
    """A value together with the syntax tree that knows its lines."""

    value: Any
    node: yaml.Node | None

    def line(self, field: Sequence[str | int]) -> int | None:
        """The line, from 1, on which `field` is given; None if the document does not give it."""
        node, line = self.node, None
        for part in field:
            if isinstance(node, yaml.MappingNode):
                # the last one wins: a merged mapping (`<<`) stands before a mapping's own keys
                found = [(k, v) for k, v in node.value if isinstance(k, yaml.ScalarNode) and k.value == str(part)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                found = [(item, item) for item in node.value[part : part + 1]]
            else:
                found = []
            if not found:
                return None
            line, node = found[-1][0].start_mark.line + 1, found[-1][1]
        return line


def parse(text: str) -> Document:
    """Read one YAML document.

    Raises:
        YamlProblem: the text is no YAML, a key stands twice in one mapping, or an alias contains itself.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, None)
        _check(node, set(), set())
        return Document(loader.construct_document(node), node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ": ".join(part for part in (error.context, error.problem) if part)
        raise YamlProblem(message, mark.line + 1 if mark else None) from error
    except YamlProblem:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as the date 2024-13-45
        raise YamlProblem(str(error)) from error
    finally:
        loader.dispose()


def dump(value: Any) -> str:
    """Block-style YAML which `parse` reads back as the same value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top: mappings are merged at every depth, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below: Any = merged.get(key)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if nested else value
    return merged


def _check(node: yaml.Node, above: set[int], done: set[int]) -> None:
    if id(node) in above:
        raise YamlProblem("an alias contains itself", node.start_mark.line + 1)
    if id(node) in done or isinstance(node, yaml.ScalarNode):
        return
    done.add(id(node))
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [value for _, value in node.value]
    else:
        children = node.value
    for child in children:
        _check(child, above | {id(node)}, done)


def _check_keys(node: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        name = (key.tag, key.value)
        if name in first:
            raise YamlProblem(f"{key.value!r} is given twice, first on line {first[name]}; keep one of them", line)
        first[name] = line
