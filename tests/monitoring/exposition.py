#!/usr/bin/env python3
"""Checks texts of /metrics with the parser of Prometheus's own Python client.

    exposition.py FILE ...

Each family must be in the table of docs/metrics.md, with its type, its meaning, its unit and its labels. The files
together must have each metric of the table.
"""
import re
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
# The units of the table's names, as Prometheus spells them. A name without one of these counts things.
UNITS = ("seconds", "bytes", "ratio")


def table():
    """Returns the metrics of docs/metrics.md by their name in /metrics: type, labels and meaning."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    metrics = {}
    for line in text.split("\n## All instruments\n")[1].split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 5 or not cells[1].startswith("`"):
            continue
        labels = {label.replace(".", "_") for label in re.findall(r"`([^`]+)`", cells[3])}
        metrics[cells[1].strip("`")] = (cells[2], labels, cells[4])
    assert len(metrics) > 30, f"docs/metrics.md has only {len(metrics)} metrics"
    return metrics


def faults(family, metrics):
    """Yields what is wrong with a family."""
    # The parser removes the end of a counter's name.
    name = family.name + "_total" * (family.type == "counter")
    if name not in metrics:
        yield f"{name} is not in docs/metrics.md"
        return
    kind, labels, meaning = metrics[name]
    if family.type != kind:
        yield f"{name} is a {family.type}, not a {kind}"
    if family.documentation != meaning:
        yield f"{name} means {family.documentation!r}, not {meaning!r}"
    words = name.removesuffix("_total").split("_")
    if any(unit in words[:-1] for unit in UNITS):
        yield f"{name} has its unit before its end"
    for sample in family.samples:
        unknown = set(sample.labels) - labels - {"le"}
        if unknown:
            yield f"{name} has the labels {sorted(unknown)}"
        if sample.name.endswith("_total") and sample.value < 0:
            yield f"{name} counts {sample.value}"


def main(files):
    metrics = table()
    seen, wrong = set(), []
    for file in files:
        for family in text_string_to_metric_families(Path(file).read_text(encoding="utf-8")):
            seen.add(family.name + "_total" * (family.type == "counter"))
            wrong += [f"{file}: {fault}" for fault in faults(family, metrics)]
    wrong += [f"no file has {name}" for name in sorted(set(metrics) - seen)]
    print("\n".join(sorted(set(wrong))) or f"{len(seen)} metrics in {len(files)} texts are as docs/metrics.md lists them")
    return 1 if wrong else 0


sys.exit(main(sys.argv[1:]))
