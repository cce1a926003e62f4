#!/usr/bin/env python3
"""Checks the dashboard and the alerts against docs/metrics.md and docs/runbook.md.

    check.py EXPRESSIONS

- Each metric and each label that the dashboard and the rules use is in the table of docs/metrics.md.
- Each alert has a severity, a summary, a description and an anchor of the runbook, and each alert of the runbook exists.
- The dashboard fits Grafana's own types (grafana-foundation-sdk), if they are installed: no unknown key is lost.
- It writes all expressions of the dashboard into the file EXPRESSIONS as rules, so that promtool can parse them.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/rules.yaml"
DASHBOARD = ROOT / "deploy/grafana/wechat-store-gateway.json"
# What Prometheus itself adds to each target and each histogram.
OWN_METRICS = {"up", "ALERTS"}
OWN_LABELS = {"instance", "job", "le", "alertname", "alertstate", "severity"}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "inf", "nan"}
wrong = []


def table():
    """Returns the metrics of docs/metrics.md with their labels."""
    metrics = {}
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for line in text.split("\n## All instruments\n")[1].split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 5 or not cells[1].startswith("`"):
            continue
        name, kind = cells[1].strip("`"), cells[2]
        labels = {label.replace(".", "_") for label in re.findall(r"`([^`]+)`", cells[3])}
        ends = ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
        metrics.update({name + end: labels for end in ends})
    assert len(metrics) > 2, f"docs/metrics.md has only {len(metrics)} metrics"
    return metrics


def names(expression):
    """Returns the metrics and the labels that an expression uses."""
    code = re.sub(r'"(?:\\.|[^"\\])*"', '""', expression)
    code = re.sub(r"\$__\w+|\[[^\]]*\]", "", code)
    labels, metrics = set(), set()
    for group in re.findall(r"\{([^}]*)\}", code):
        labels.update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", group))
    code = re.sub(r"\{[^}]*\}", "", code)
    grouping = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"
    for group in re.findall(grouping, code):
        labels.update(re.findall(r"\w+", group))
    code = re.sub(grouping, "", code)
    for match in re.finditer(r"[a-zA-Z_:][\w:]*", code):
        function = code[match.end():].lstrip().startswith("(")
        before = code[: match.start()]
        number = before and (before[-1].isdigit() or before[-1] == ".")
        if not function and not number and match[0].lower() not in WORDS:
            metrics.add(match[0])
    return metrics, labels


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def check_expression(place, expression, known):
    metrics, labels = names(expression)
    if not metrics:
        wrong.append(f"{place}: no metric in {expression}")
    for metric in metrics - known.keys() - OWN_METRICS:
        wrong.append(f"{place}: docs/metrics.md has no {metric}")
    allowed = OWN_LABELS.union(*(known.get(metric, set()) for metric in metrics))
    for label in labels - allowed:
        wrong.append(f"{place}: no metric of the expression has the label {label}")


def check_rules(known):
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"]: set().union(*(known.get(m, set()) for m in names(rule["expr"])[0])) for rule in rules if "record" in rule}
    known.update(recorded)
    page = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    section = page.split("\n## Alerts\n")[1].split("\n## ")[0]
    described = set(re.findall(r"^### (\w+)$", section, re.M))
    alerts = set()
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        check_expression(name, rule["expr"], known)
        if "alert" not in rule:
            continue
        alerts.add(name)
        severity, notes = rule.get("labels", {}).get("severity"), rule.get("annotations", {})
        if severity not in ("critical", "warning"):
            wrong.append(f"{name}: severity {severity} is neither critical nor warning")
        wrong.extend(f"{name}: no {note}" for note in ("summary", "description", "runbook_url") if not notes.get(note))
        path, _, anchor = notes.get("runbook_url", "").partition("#")
        if not path.endswith("/docs/runbook.md") or anchor not in anchors(page) or anchor != name.lower():
            wrong.append(f"{name}: runbook_url does not lead to its section: {notes.get('runbook_url')}")
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(notes)):
            check_expression(name, f"({rule['expr']}) * on ({label}) up", known)
    wrong.extend(f"{name}: docs/runbook.md does not describe it" for name in sorted(alerts - described))
    wrong.extend(f"docs/runbook.md describes {name}, which no rule has" for name in sorted(described - alerts))
    return len(alerts)


def expressions(dashboard):
    """Yields the place and the expression of every query."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        query = variable.get("query")
        if variable["type"] == "query":
            yield f"${variable['name']}", re.fullmatch(r"label_values\((.*), \w+\)", query["query"])[1]


def concrete(expression):
    """Returns an expression with values in place of Grafana's variables."""
    return re.sub(r"\$\{?\w+\}?", "x", expression.replace("$__rate_interval", "5m").replace("$__range", "1h"))


def lost(own, other, path="dashboard"):
    """Yields what one JSON value has and another has not."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key, value in own.items():
            if key not in other:
                yield f"{path}.{key}"
            else:
                yield from lost(value, other[key], f"{path}.{key}")
    elif isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        for number, pair in enumerate(zip(own, other)):
            yield from lost(*pair, f"{path}[{number}]")
    elif own != other:
        yield f"{path}: {own} became {other}"


def check_types(dashboard):
    try:
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard
    except ImportError:
        print("the dashboard was not compared with Grafana's types: grafana-foundation-sdk is not installed")
        return
    register_default_plugins()
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))
    wrong.extend(f"Grafana's types have no {place}" for place in lost(dashboard, read))


def check_dashboard(known, out):
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    generated = subprocess.check_output([sys.executable, DASHBOARD.with_name("dashboard.py")], text=True)
    if json.loads(generated) != dashboard:
        wrong.append("deploy/grafana: run `deploy/grafana/dashboard.py > deploy/grafana/wechat-store-gateway.json`")
    rules = []
    for number, (place, expression) in enumerate(expressions(dashboard)):
        check_expression(place, concrete(expression), known)
        rules.append({"record": f"panel:{number}", "expr": concrete(expression)})
    out.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    check_types(dashboard)
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        wrong.append("two panels have the same id")
    return len(rules)


known = table()
alerts = check_rules(known)
queries = check_dashboard(known, Path(sys.argv[1]))
print("\n".join(wrong) if wrong else f"{alerts} alerts and {queries} queries name only metrics and labels that exist")
sys.exit(1 if wrong else 0)
