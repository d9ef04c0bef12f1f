"""Writes the expected texts of the templates here, as Jinja2 3.1 and transformers give them.

    pip install 'jinja2==3.1.*' 'transformers==5.24.*'
    python make.py
"""

import datetime
import json
import os
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent
BREAKS = str.maketrans({"⏎": "\n", "␍": "\r"})


def render(source, variables):
    """The text, or the error's message where Jinja wrote it (and "" where Python did)."""
    try:
        return _compile_jinja_template(source).render(**variables)
    except jinja2.TemplateSyntaxError:
        return {"error": ""}
    except jinja2.TemplateError as error:
        return {"error": error.message or ""}
    except Exception:
        return {"error": ""}


def snippets():
    variables = json.loads((HERE / "variables.json").read_text())
    cases = []
    for line in (HERE / "snippets.txt").read_text().split("\n"):
        if line and not line.startswith("# "):
            text = render(line.translate(BREAKS), variables)
            if isinstance(text, str) and " at 0x" in text:
                raise SystemExit(f"not the same each time: {line}")
            cases.append(text)
    write("snippets.json", cases)
    return len(cases)


def shapes():
    conversations = json.loads((HERE / "conversations.json").read_text())
    texts = {}
    for file in sorted((HERE / "shapes").glob("*.jinja")):
        source = file.read_bytes().decode()
        texts[file.stem] = {
            name: render(source, variables) for name, variables in conversations.items()
        }
    write("shapes.json", texts)
    return len(texts), sum(map(len, texts.values()))


def strftime():
    os.environ["TZ"] = "UTC"
    directives = [c for c in "aAbBcCdDeFfgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%EOQ"]
    formats = [f"%{flag}{c}" for flag in ("", "-", "_", "0", "^", "#") for c in directives if not flag or c not in "zZ"]
    formats += ["%10d", "%-5Y|", "%_5H|", "%Ey", "%Od", "%", "a%", "%d %b %Y", "%-d %B %Y", "é%Aü", "%A, %d. %B %Y"]
    moments = []
    for moment in ("2024-02-29T23:05:09.000042", "2026-01-01T00:00:00", "2020-12-31T12:30:00.5", "2023-09-03T11:59:59"):
        time = datetime.datetime.fromisoformat(moment)
        moments.append({"utc": moment + "Z", "texts": {f: time.strftime(f) for f in formats}})
    write("strftime.json", moments)


def write(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    strftime()
    print(f"{snippets()} snippets, %d shapes, %d conversations" % shapes())
