#!/usr/bin/env python3
"""Holds Azure deployment templates to Microsoft's own models of what its resource manager takes.

The published JSON schemas are nowhere that a test could take them from, but Microsoft generates Python packages from the
same descriptions of its interfaces: their models name every property at any depth, with its type, whether it is required or
only ever an answer, and which values it takes. They are read as text: nothing of the packages runs, and nothing of them is
copied here. Deliberately not here: the frame around resources (tests/golden/azure/template.schema.json), what Azure has
where, and the few rules that the packages leave out, such as what a rule of a security group cannot do without.

    checker.py check TEMPLATE [PARAMETERS]  what is wrong, and to which models it was held, as JSON
    checker.py packages                     only whether the packages it needs are there

Needs the packages azure-mgmt-compute and azure-mgmt-network, without what they depend on. Ends with 0, with 1 where
something is wrong, with 2 where it cannot run at all.
"""

import ast
import collections
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import sys

# The kinds of resources that our templates have: whose they are, and the model of each.
MODELS = {
    "Microsoft.Compute/availabilitySets": ("compute", "AvailabilitySet"),
    "Microsoft.Compute/disks": ("compute", "Disk"),
    "Microsoft.Compute/virtualMachines": ("compute", "VirtualMachine"),
    "Microsoft.Network/networkInterfaces": ("network", "NetworkInterface"),
    "Microsoft.Network/networkSecurityGroups": ("network", "NetworkSecurityGroup"),
}
# What a template says of a resource beside what the model has: the frame's, with the type that each is of.
FRAME = {"type": "str", "apiVersion": "str", "name": "str", "condition": "bool", "dependsOn": "[str]", "comments": "str"}
# Lists of values that are known not to have all: the model says of itself that it is not kept up any more.
OPEN = {"VirtualMachineSizeTypes"}
TYPES = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object}
# What is written as a text, and is no free one.
TEXTS = {"iso-8601", "rfc-1123", "duration", "bytearray", "base64", "date", "time"}
PARAMETER_TYPES = {
    "string": "str", "securestring": "str", "bool": "bool", "int": "int", "object": "{object}", "secureObject": "{object}",
    "array": "[object]",
}
# What functions of templates come to, where that is always the same.
FUNCTIONS = {
    **dict.fromkeys(["concat", "resourceId", "format", "string", "toLower", "uniqueString"], "str"),
    **dict.fromkeys(["equals", "and", "or", "not", "bool", "empty", "contains"], "bool"),
    **dict.fromkeys(["int", "add", "sub", "length"], "int"),
}


@dataclasses.dataclass(frozen=True)
class Computed:
    """What an expression comes to: nobody knows what, and perhaps of which type."""

    type: str | None = None


@dataclasses.dataclass(frozen=True)
class Property:
    """A property of a model: its type, its rules and the values that it takes, if only some."""

    type: str
    rules: dict
    values: frozenset | None


class Models:
    """The models of one version of one provider's interface."""

    def __init__(self, directory):
        self.directory = directory
        self.classes = {node.name: node for node in parsed(directory / "_models_py3.py") if isinstance(node, ast.ClassDef)}
        self.lists = {}
        for path in directory.glob("*_enums.py"):
            for node in parsed(path):
                if isinstance(node, ast.ClassDef):
                    values = [part.value.value for part in node.body if isinstance(part, ast.Assign)]
                    self.lists[node.name] = frozenset(values)

    @functools.cache
    def shape(self, name):
        """The properties of a model by their names in JSON; those below another one that is no model are in a dictionary."""
        node, shape = self.classes[name], {}
        attributes, rules = assigned(node, "_attribute_map"), assigned(node, "_validation")
        for attribute, told in attributes.items():
            *above, last = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", told["key"])]
            place = shape
            for part in above:
                place = place.setdefault(part, {})
            place[last] = Property(told["type"], rules.get(attribute, {}), self._values(node, attribute))
        return shape

    def _values(self, node, attribute):
        """The values that a property takes: only the signature of the constructor knows."""
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        for argument in [argument for function in made for argument in function.args.kwonlyargs]:
            if argument.arg == attribute:
                named = re.findall(r"_models\.(\w+)", ast.unparse(argument.annotation))
                for name in named:
                    if name in self.lists and name not in OPEN:
                        return self.lists[name]
        return None


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8")).body


def assigned(node, name):
    """The dictionary that a class gives a name, or an empty one."""
    for part in node.body:
        if isinstance(part, ast.Assign) and [target.id for target in part.targets if isinstance(target, ast.Name)] == [name]:
            return ast.literal_eval(part.value)
    return {}


class Package:
    """A package with the models of one provider, of every version that it has."""

    def __init__(self, provider):
        self.name = f"azure-mgmt-{provider}"
        self.version = importlib.metadata.version(self.name)
        top = pathlib.Path(importlib.util.find_spec(f"azure.mgmt.{provider}").submodule_search_locations[0])
        named = [path for path in top.glob("v*/models") if re.fullmatch(r"v\d{4}_\d\d_\d\d", path.parent.name)]
        self.versions = {path.parent.name[1:].replace("_", "-"): path for path in named}
        if not self.versions:
            # One version for all, which only its requests name.
            requests = (top / "operations/_operations.py").read_text(encoding="utf-8")
            asked = collections.Counter(re.findall(r'"api-version", "(\d{4}-\d\d-\d\d)"', requests))
            self.versions = {asked.most_common(1)[0][0]: top / "models"}

    def nearest(self, version, model):
        """The models of this version; where the package has none of it, of the next later one, or of the last before it."""
        later = sorted(known for known in self.versions if known >= version)
        earlier = sorted((known for known in self.versions if known < version), reverse=True)
        for known in later + earlier:
            text = (self.versions[known] / "_models_py3.py").read_text(encoding="utf-8")
            if re.search(rf"^class {model}\(", text, re.M):
                return known, read(self.versions[known])
        raise KeyError(model)


read = functools.cache(Models)
package = functools.cache(Package)


class Check:
    """Goes through a template, and gathers what is wrong."""

    def __init__(self, template, parameters=None):
        self.template, self.wrong, self.held_to = template, [], {}
        self.given = {name: told.get("value") for name, told in (parameters or {}).get("parameters", {}).items()}
        self.known = template.get("parameters", {})

    def all(self):
        for name, told in self.known.items():
            value = self.given.get(name, told.get("defaultValue"))
            if value is not None:
                self.value(value, Property(PARAMETER_TYPES.get(told["type"], "object"), {}, None), f"parameter {name}")
            if "allowedValues" in told and value not in told["allowedValues"]:
                self.say(f"parameter {name}", f"{value!r} is not allowed")
        for name in self.given.keys() - self.known.keys():
            self.say(f"parameter {name}", "the template has no such parameter")
        for name in set(re.findall(r"parameters\('([^']*)'\)", json.dumps(self.template))) - self.known.keys():
            self.say(f"parameter {name}", "it is used, and there is none")
        for number, resource in enumerate(self.template["resources"]):
            self.resource(resource, f"resources[{number}]")

    def resource(self, resource, at):
        kind, version = resource["type"], resource["apiVersion"]
        if kind not in MODELS:
            self.say(f"{at}.type", f"no model of {kind!r} is known here")
            return
        provider, model = MODELS[kind]
        found, models = package(provider).nearest(version, model)
        self.held_to[f"{kind} {version}"] = f"{package(provider).name} {package(provider).version}, {found}"
        self.models = models
        frame = {name: Property(type, {}, None) for name, type in FRAME.items()}
        frame["name"] = frame["type"] = frame["apiVersion"] = Property("str", {"required": True}, None)
        self.object(resource, {**models.shape(model), **frame}, at)

    def say(self, at, problem):
        self.wrong.append(f"{at}: {problem}")

    def object(self, value, shape, at):
        if not isinstance(value, dict):
            self.say(at, f"{value!r} is no object")
            return
        for name in value.keys() - shape.keys():
            self.say(f"{at}.{name}", "there is no such property")
        for name, part in shape.items():
            inner, there = f"{at}.{name}", value.get(name)
            if isinstance(part, dict):
                self.object({} if there is None else there, part, inner)
            elif there is None:
                if part.rules.get("required") and not part.rules.get("readonly"):
                    self.say(inner, "it is required, and missing")
            elif part.rules.get("readonly"):
                self.say(inner, "it is only ever an answer, and may not be set")
            else:
                self.value(there, part, inner)

    def value(self, value, part, at):
        value = self.resolved(value)
        if isinstance(value, Computed):
            is_text = value.type == "str" and part.type in TEXTS
            is_like = value.type is None or part.type == "object" or value.type[0] == part.type[0] and value.type[0] in "[{"
            if not (is_text or is_like or value.type == part.type):
                self.say(at, f"an expression that comes to {value.type} is no {part.type}")
        elif part.type[0] in "[{":
            self.several(value, part, at)
        elif part.type in TYPES or part.type in TEXTS:
            self.scalar(value, part, at)
        else:
            self.object(value, self.models.shape(part.type), at)

    def several(self, value, part, at):
        wanted = list if part.type[0] == "[" else dict
        if not isinstance(value, wanted):
            self.say(at, f"{value!r} is no {wanted.__name__}")
            return
        inner = Property(part.type[1:-1], {}, part.values)
        for key, one in enumerate(value) if wanted is list else value.items():
            self.value(one, inner, f"{at}[{key}]")

    def scalar(self, value, part, at):
        # In Python a truth value is a number, too.
        is_mistaken = isinstance(value, bool) and part.type in ("int", "float")
        if is_mistaken or not isinstance(value, TYPES.get(part.type, str)):
            self.say(at, f"{value!r} is no {part.type}")
            return
        if part.values is not None and value not in part.values:
            self.say(at, f"{value!r} is none of {', '.join(sorted(part.values))}")
        rules = part.rules
        if isinstance(value, str):
            if len(value) < rules.get("min_length", 0) or len(value) > rules.get("max_length", len(value)):
                self.say(at, f"{value!r} is too short or too long")
            if "pattern" in rules and not re.search(rules["pattern"], value):
                self.say(at, f"{value!r} does not match {rules['pattern']}")
        elif part.type in ("int", "float"):
            if value < rules.get("minimum", value) or value > rules.get("maximum", value):
                self.say(at, f"{value} is less or more than it may be")

    def resolved(self, value):
        """What a text comes to: itself, unless it is an expression."""
        if not isinstance(value, str) or not re.fullmatch(r"\[.*\]", value, re.S):
            return value
        if value.startswith("[["):
            return value[1:]
        parameter = re.fullmatch(r"\[parameters\('([^']*)'\)\]", value)
        if not parameter:
            function = re.match(r"\[(\w+)\(.*\)\]$", value, re.S)
            return Computed(FUNCTIONS.get(function[1]) if function else None)
        told = self.known.get(parameter[1], {})
        there = self.given.get(parameter[1], told.get("defaultValue"))
        return Computed(PARAMETER_TYPES.get(told.get("type"))) if there is None else self.resolved(there)


def main(arguments):
    try:
        package("compute"), package("network")
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as missing:
        sys.stderr.write(f"checker.py: {missing}; install azure-mgmt-compute and azure-mgmt-network\n")
        return 2
    if arguments == ["packages"]:
        return 0
    if arguments[:1] != ["check"] or len(arguments) not in (2, 3):
        sys.stderr.write(__doc__)
        return 2
    check = Check(*(json.loads(pathlib.Path(path).read_text(encoding="utf-8")) for path in arguments[1:]))
    check.all()
    print(json.dumps({"wrong": check.wrong, "held_to": check.held_to}, indent=2))
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
