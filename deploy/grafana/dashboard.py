#!/usr/bin/env python3
"""Prints the dashboard of the gateway: deploy/grafana/dashboard.py > deploy/grafana/wechat-store-gateway.json

A row is a title and its panels. A panel is a title, its kind, its unit and its queries, each with its legend.
"""
import json

# $instance chooses processes, $app_id accounts. Both can be several, or all.
I = 'job=~"wechat-store-gateway.*", instance=~"$instance"'
A = f'{I}, wechat_app_id=~"$app_id"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTHS = {"stat": 4, "timeseries": 8, "table": 12}


def field(kind, unit, limits):
    """Returns how the values of a panel look. `limits` are those from which a value is orange and red."""
    colors = [{"color": color, "value": value} for color, value in zip(["green", "orange", "red"], [None, *limits])]
    defaults = {"unit": unit, "min": 0, "thresholds": {"mode": "absolute", "steps": colors}}
    if kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never", "spanNulls": False}
        defaults["color"] = {"mode": "palette-classic"}
    return {"defaults": defaults, "overrides": []}


def options(kind):
    if kind == "stat":
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"colorMode": "background", "graphMode": "area", "reduceOptions": reduce, "textMode": "auto"}
    if kind == "timeseries":
        legend = {"calcs": ["max", "lastNotNull"], "displayMode": "table", "placement": "bottom", "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {"showHeader": True}


def panel(title, kind, unit, queries, limits=(), about=""):
    targets = []
    for letter, (legend, expression) in zip("ABCDEF", queries.items()):
        target = {"datasource": SOURCE, "editorMode": "code", "expr": expression, "legendFormat": legend, "refId": letter}
        targets.append(target | ({"format": "table", "instant": True} if kind == "table" else {"range": True}))
    found = {"title": title, "type": kind, "datasource": SOURCE, "targets": targets, "options": options(kind)}
    return found | {"fieldConfig": field(kind, unit, limits)} | ({"description": about} if about else {})


def stat(title, unit, expression, *limits, about=""):
    return panel(title, "stat", unit, {"": expression}, limits, about)


def lines(title, unit, queries, about=""):
    return panel(title, "timeseries", unit, queries, about=about)


def rate(metric, by, where=I):
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def quantile(part, metric, by, where=I):
    by = f"{by}, le" if by else "le"
    return f"histogram_quantile({part}, sum by ({by}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


CALLS = "rpc_server_call_duration_seconds"
# Without streams, whose duration is their client's choice.
UNARY = f'{I}, rpc_method!~".*/Watch.*|grpc[.].*"'
FAULT = 'rpc_status_code=~"UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS", wechat_caused_by!="caller"'
HTTP = "http_client_request_duration_seconds"

ROWS = {
    "Overview": [
        stat("Processes", "none", f"sum(up{{{I}}})", about="Processes that Prometheus can scrape."),
        stat("Processes that are down", "none", f"count(up{{{I}}}) - sum(up{{{I}}})", 1),
        stat("Alerts", "none", 'count(ALERTS{alertstate="firing", job=~"wechat-store-gateway.*"}) or vector(0)', 1),
        stat("Calls", "reqps", f"sum(rate({CALLS}_count{{{UNARY}}}[$__rate_interval]))"),
        stat(
            "Failed calls",
            "percentunit",
            f"sum(rate({CALLS}_count{{{UNARY}, {FAULT}}}[$__rate_interval])) / sum(rate({CALLS}_count{{{UNARY}}}[$__rate_interval])) or vector(0)",
            0.02,
            0.1,
            about="Calls that failed because of the gateway or WeChat, not of the caller.",
        ),
        stat("99 % of calls are faster", "s", quantile(0.99, CALLS, "", UNARY), 2, 5),
    ],
    "Calls": [
        lines("Calls by method", "reqps", {"{{rpc_method}}": rate(f"{CALLS}_count", "rpc_method", UNARY)}),
        lines(
            "Calls that were not OK, by code",
            "reqps",
            {"{{rpc_status_code}}": rate(f"{CALLS}_count", "rpc_status_code", f'{UNARY}, rpc_status_code!="OK"')},
        ),
        lines(
            "Failed calls by method",
            "percentunit",
            {"{{rpc_method}}": f"{rate(f'{CALLS}_count', 'rpc_method', f'{UNARY}, {FAULT}')} / {rate(f'{CALLS}_count', 'rpc_method', UNARY)}"},
            about="The alert CallsFail fires above 10 %.",
        ),
        lines(
            "Duration of all calls",
            "s",
            {"50 %": quantile(0.5, CALLS, "", UNARY), "95 %": quantile(0.95, CALLS, "", UNARY), "99 %": quantile(0.99, CALLS, "", UNARY)},
        ),
        lines("99 % by method", "s", {"{{rpc_method}}": quantile(0.99, CALLS, "rpc_method", UNARY)}, about="The alert CallsSlow fires above 5 s."),
        lines("Calls by process", "reqps", {"{{instance}}": rate(f"{CALLS}_count", "instance", UNARY)}),
    ],
    "WeChat": [
        lines("Calls to WeChat by endpoint", "reqps", {"{{url_template}}": rate("wechat_calls_total", "url_template")}),
        lines(
            "What they brought",
            "reqps",
            {"{{wechat_result}}": rate("wechat_calls_total", "wechat_result")},
            about="docs/metrics.md explains the classes. WeChat answers with HTTP 200 even if it refuses.",
        ),
        lines(
            "Not ok, by endpoint",
            "reqps",
            {"{{url_template}} {{wechat_result}}": rate("wechat_calls_total", "url_template, wechat_result", f'{I}, wechat_result!="ok"')},
        ),
        lines("Duration at WeChat, 99 %", "s", {"{{url_template}}": quantile(0.99, HTTP, "url_template")}),
        lines("Duration at WeChat, by host", "s", {"{{server_address}}": quantile(0.99, HTTP, "server_address")}),
        lines("Requests that failed below HTTP", "reqps", {"{{error_type}}": rate(f"{HTTP}_count", "error_type", f'{I}, error_type!=""')}),
    ],
    "Accounts: tokens, quotas, permits": [
        lines(
            "Age of the token",
            "s",
            {"{{wechat_app_id}}": f"max by (wechat_app_id) (wechat_token_age_seconds{{{A}}})"},
            about="A token lives two hours. The gateway renews it some five minutes before. The alert TokenMissing fires without one.",
        ),
        lines("Accounts without a token", "none", {"{{wechat_app_id}}": f"max by (wechat_app_id) (wechat_token_missing{{{A}}})"}),
        lines("Refreshes of tokens", "reqps", {"{{wechat_app_id}} {{wechat_result}}": rate("wechat_token_refreshes_total", "wechat_app_id, wechat_result", A)}),
        lines("Refusals of tokens", "reqps", {"{{wechat_app_id}}": rate("wechat_token_refusals_total", "wechat_app_id", A)}),
        lines("Quotas that are spent now", "none", {"{{wechat_app_id}}": f"max by (wechat_app_id) (wechat_quota_spent{{{A}}})"}),
        lines("Calls that were not sent because of a quota", "reqps", {"{{url_template}}": rate("wechat_quota_refusals_total", "url_template")}),
        lines(
            "Calls at WeChat and waiting for a permit",
            "none",
            {
                "{{wechat_app_id}} at WeChat": f"sum by (wechat_app_id) (wechat_permit_used{{{A}}})",
                "{{wechat_app_id}} waiting": f"sum by (wechat_app_id) (wechat_permit_waiting{{{A}}})",
            },
            about="limits.account_concurrency is the most for each account and process.",
        ),
    ],
    "Writes and reviews": [
        stat("Writes with an unknown outcome", "none", f"max(wechat_write_unknown{{{I}}})", 1, about="All processes of one state have the same number."),
        stat("Open submissions", "none", f"max(wechat_submission_open{{{I}}})"),
        stat("Overdue submissions", "none", f"max(wechat_submission_overdue{{{I}}})", 1),
        stat("Oldest open submission", "s", f"time() - min(wechat_submission_oldest_time_seconds{{{I}}} > 0) or vector(0)", 86400, 604800),
        stat("Failures of the activity log", "none", f"sum(increase(wechat_activity_failures_total{{{I}}}[$__range])) or vector(0)", 1),
        lines("Steps of the journal", "reqps", {"{{wechat_write_state}}": rate("wechat_journal_writes_total", "wechat_write_state")}),
        lines("Time that writes wait for their turn, 99 %", "s", {"{{url_template}}": quantile(0.99, "wechat_write_queue_wait_seconds", "url_template")}),
        lines("Writes with an unknown outcome, open and overdue submissions", "none", {
            "unknown writes": f"max(wechat_write_unknown{{{I}}})",
            "open": f"max(wechat_submission_open{{{I}}})",
            "overdue": f"max(wechat_submission_overdue{{{I}}})",
        }),
    ],
    "Pushes and events": [
        lines("Pushes by what became of them", "reqps", {"{{wechat_result}}": rate("wechat_pushes_total", "wechat_result")}),
        lines(
            "Time since the last push",
            "s",
            {"{{wechat_app_id}}": f"time() - max by (wechat_app_id) (wechat_callback_last_time_seconds{{{A}}} > 0)"},
            about="The alert PushesMissing fires if a review is open and no push arrived for a day.",
        ),
        lines("From WeChat's own time to the log, 90 %", "s", {"{{wechat_event_origin}}": quantile(0.9, "wechat_event_lag_seconds", "wechat_event_origin")}),
        lines("From the log to the watchers, 99 %", "s", {"99 %": quantile(0.99, "wechat_event_delivery_lag_seconds", "")}),
        lines("Events that the slowest watcher has not read", "none", {"{{instance}}": f"wechat_watcher_lag{{{I}}}"}),
        lines("Open watches", "none", {"{{instance}}": f"wechat_watchers{{{I}}}"}),
    ],
    "State": [
        lines("Operations", "reqps", {"{{wechat_state_operation}}": rate("wechat_state_operation_duration_seconds_count", "wechat_state_operation")}),
        lines("Duration, 90 %", "s", {"{{wechat_state_operation}}": quantile(0.9, "wechat_state_operation_duration_seconds", "wechat_state_operation")}),
        lines("Oldest operation that still runs", "s", {"{{instance}}": f"wechat_state_operation_age_seconds{{{I}}}"}),
        lines(
            "Failures",
            "reqps",
            {"{{wechat_state_operation}}": rate("wechat_state_operation_duration_seconds_count", "wechat_state_operation", f'{I}, error_type!=""')},
        ),
    ],
    "Process": [
        lines("Processor time", "percentunit", {"{{instance}} {{cpu_mode}}": rate("process_cpu_time_seconds_total", "instance, cpu_mode")}, about="1 is a whole core."),
        lines("Memory", "bytes", {"{{instance}}": f"process_memory_usage_bytes{{{I}}}"}),
        lines("Open files", "none", {"{{instance}}": f"process_unix_file_descriptor_count{{{I}}}"}),
        lines("Connections", "none", {"{{instance}} {{wechat_listener}}": f"wechat_connections{{{I}}}"}),
        lines("Calls in progress, watches included", "none", {"{{instance}}": f"wechat_rpc_running{{{I}}}"}),
        lines("Refused requests of callers", "reqps", {"{{wechat_reason}}": rate("wechat_caller_refusals_total", "wechat_reason")}),
        lines("Found in the cache", "percentunit", {
            "{{wechat_cache}}": f"{rate('wechat_cache_lookups_total', 'wechat_cache', I + ', wechat_result=' + chr(34) + 'hit' + chr(34))} / {rate('wechat_cache_lookups_total', 'wechat_cache')}"
        }),
        lines("Days until a certificate expires", "d", {"{{instance}} {{wechat_listener}}": f"(wechat_certificate_expiry_time_seconds{{{I}}} - time()) / 86400"}),
        lines("Reloads of the settings", "none", {"{{instance}} {{wechat_result}}": f"sum by (instance, wechat_result) (increase(wechat_settings_reloads_total{{{I}}}[$__rate_interval]))"}),
        panel("Builds", "table", "none", {"": f"count by (instance, version, commit) (wechat_store_gateway_build_info{{{I}}})"}),
    ],
}


def panels():
    """Yields the rows and their panels, with their places. A line of the dashboard has 24 columns."""
    number, y = 0, 0
    for title, row in ROWS.items():
        number += 1
        yield {"collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "id": number, "panels": [], "title": title, "type": "row"}
        y, x = y + 1, 0
        for one in row:
            width, height = WIDTHS[one["type"]], 4 if one["type"] == "stat" else 8
            if x + width > 24:
                x, y = 0, y + height
            number += 1
            yield one | {"gridPos": {"h": height, "w": width, "x": x, "y": y}, "id": number}
            x += width
        y += height


def variable(name, label, query):
    query = {"query": query, "refId": name}
    more = {"includeAll": True, "multi": True, "allValue": ".*", "refresh": 2, "sort": 1}
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": query} | more


DASHBOARD = {
    "uid": "wechat-store-gateway",
    "title": "wechat-store-gateway",
    "description": "One gateway, or several. docs/runbook.md describes the alerts, docs/metrics.md the metrics.",
    "tags": ["wechat-store-gateway"],
    "schemaVersion": 39,
    "editable": True,
    "refresh": "30s",
    "time": {"from": "now-3h", "to": "now"},
    "timezone": "browser",
    "templating": {
        "list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1},
            variable("instance", "Process", 'label_values(up{job=~"wechat-store-gateway.*"}, instance)'),
            variable("app_id", "Account", "label_values(wechat_quota_spent, wechat_app_id)"),
        ]
    },
    "panels": list(panels()),
}

print(json.dumps(DASHBOARD, ensure_ascii=False, indent=1))
