#!/usr/bin/env python3
"""Makes suite.json: `suite.py SUITE`, where SUITE is a clone of
https://github.com/json-schema-org/JSON-Schema-Test-Suite (MIT licence, Copyright (c) 2012 Julian
Berman).

Of draft 2020-12: the files of the keywords that are supported, and of the formats. A line is a
schema with the values that are valid and those that are not, as JSON texts.
"""
import json
import sys
from pathlib import Path

KEYWORDS = """
additionalProperties allOf anyOf boolean_schema const default defs enum exclusiveMaximum
exclusiveMinimum infinite-loop-detection items maxItems maxLength maxProperties maximum minItems
minLength minProperties minimum multipleOf oneOf pattern prefixItems properties ref required type
""".split()
FORMATS = "date date-time duration email hostname ipv4 ipv6 time uri uuid".split()


def main():
    folder = Path(sys.argv[1]) / "tests/draft2020-12"
    files = [folder / f"{name}.json" for name in KEYWORDS]
    files += [folder / f"optional/format/{name}.json" for name in FORMATS]
    lines = []
    for file in files:
        for case in json.loads(file.read_text()):
            schema = case["schema"]
            if isinstance(schema, dict):
                schema.pop("$schema", None)
                schema.pop("$comment", None)
            values = {True: [], False: []}
            for test in case["tests"]:
                values[test["valid"]].append(json.dumps(test["data"], ensure_ascii=False))
            line = {
                "name": f"{file.stem}: {case['description']}",
                "schema": schema,
                "valid": values[True],
                "invalid": values[False],
            }
            lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
    here = Path(__file__).parent / "suite.json"
    here.write_text("[\n" + ",\n".join(lines) + "\n]\n")


main()
