"""A filter: events whose JSON payload has a field of this value. Configuration: NAME=VALUE."""

import json
from dataclasses import dataclass

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.filtering import Match
from wit_world.imports.types import HeaderSet_None_, Wants


@dataclass
class Field:
    name: str
    value: str

    def matches(self, document):
        return isinstance(document, dict) and str(document.get(self.name)) == self.value


class Filtering(exports.Filtering):
    # On the class: componentize-py makes an instance of it for each exported function.
    rules = {}
    next_rule = 0

    def configure(self, config):
        name, equals, value = config.partition("=")
        if not (name and equals):
            raise Err(f"want NAME=VALUE, got {config!r}")
        rule = Filtering.next_rule
        Filtering.next_rule += 1
        self.rules[rule] = Field(name, value)
        return rule, Wants(HeaderSet_None_(), True)

    def release(self, rule):
        self.rules.pop(rule, None)

    def evaluate(self, events, rules):
        asked = [(rule, self.rules[rule]) for rule in rules if rule in self.rules]
        matches = []
        for index, event in enumerate(events):
            document = parse(event.payload)
            matches += [Match(index, rule) for rule, field in asked if field.matches(document)]
        return matches


def parse(payload):
    try:
        return json.loads(payload)
    except ValueError:
        return None
