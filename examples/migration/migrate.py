#!/usr/bin/env python3
"""Migrates the old stores (门店管理) of an account, with nothing but the gateway's own `call`.

    migrate.py SHEET.csv FOLDER [--gateway PROGRAM] [--address URL] [--wait SECONDS]

SHEET.csv contains the plan for each of the account's old stores. FOLDER contains the progress. You can stop
the script at any time and start it again with the same arguments. README.md has the details.

Exit codes: 0 if every old store is migrated or deleted, 1 if an operator must act (the script prints
on what), 2 if the sheet is wrong and nothing was sent.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time

NEEDED = ["legacy_poi_id", "map_poi_id", "license_number", "contact_phone", "open", "close", "picture_url", "action"]
METHODS = {"migrate": "StoreService/AddStore", "delete": "StoreService/DeleteLegacyStore"}
OPEN = {"UPGRADE_STATE_PENDING", "UPGRADE_STATE_FAILED", "UPGRADE_STATE_FORBIDDEN"}


def main():
    args = arguments()
    os.makedirs(args.folder, exist_ok=True)
    while True:
        stores = legacy_stores(args)
        wrong = problems(stores, args.sheet)
        if wrong:
            return finish(2, f"{args.sheet_name}: {len(wrong)} problems, nothing is sent", wrong)
        folder, number = this_round(args, stores)
        for action, method in METHODS.items():
            code = send(args, folder, number, action, method)
            if code != 0:
                text = "round %d is not complete: see the output of `call` above, and the rows in"
                return finish(1, text % number, [os.path.join(folder, f"{action}-results.jsonl")])
        write(os.path.join(folder, "done"), "")
        progress = reviewed(args)
        if progress.get("complete"):
            return finish(0, f"complete: {progress.get('migratedCount', 0)} stores are migrated")
        if progress.get("nextStep") == "UPGRADE_STEP_WAIT":
            return finish(1, "WeChat still reviews some stores; run this again later")
        blockers = [f"{b['legacyPoiId']}: {b.get('reason', '')}" for b in progress.get("blockers", [])]
        if blockers:
            return finish(1, "correct these rows in the sheet, and run this again", blockers)
        if progress.get("unreadCount"):
            return finish(1, f"WeChat does not list {progress['unreadCount']} old stores; run this again later")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", metavar="SHEET.csv")
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--gateway", metavar="PROGRAM", default="wechat-store-gateway")
    parser.add_argument("--address", metavar="URL", default="http://127.0.0.1:50051")
    parser.add_argument("--wait", metavar="SECONDS", type=float, default=60, help="for WeChat's reviews")
    args = parser.parse_args()
    args.sheet_name = args.sheet
    # Files from spreadsheets begin with a byte order mark.
    with open(args.sheet, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        missing = [name for name in NEEDED if name not in (rows.fieldnames or [])]
        if missing:
            sys.exit(finish(2, f"{args.sheet}: columns are missing", missing))
        args.sheet = [{name: (row[name] or "").strip() for name in NEEDED} for row in rows]
    return args


def program(args):
    """Returns the start of a `call` command, with the files for TLS and for the identity from the environment.

    `call` itself reads a token from WECHAT_STORE_GATEWAY_TOKEN.
    """
    command = [args.gateway, "call", "--address", args.address]
    for option in ["ca", "cert", "key", "token"]:
        path = os.environ.get(f"WECHAT_STORE_GATEWAY_{option.upper()}_FILE")
        if path:
            command += ["--token-file" if option == "token" else f"--{option}", path]
    return command


def call(args, method, request):
    """Makes one call and returns its response. Ends this script if the call fails."""
    command = [*program(args), method, json.dumps(request)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(finish(1, f"{method} failed with the error above; run this again later"))
    return json.loads(done.stdout)


def legacy_stores(args):
    """Returns every old store by its legacy_poi_id. Exits unless there are as many as WeChat counts.

    A store that is missing in the list would look deleted.
    """
    stores, token = {}, ""
    while True:
        page = call(args, "StoreService/ListLegacyStores", {"page_token": token})
        known, counted = len(stores), page.get("totalSize")
        stores.update((store["legacyPoiId"], store) for store in page.get("stores", []) if store.get("legacyPoiId"))
        token = page.get("nextPageToken", "")
        if not token and len(stores) == counted:
            return stores
        if not token or len(stores) == known:
            counts = "does not count its old stores" if counted is None else f"counts {counted} old stores"
            sys.exit(finish(1, f"WeChat {counts} and lists {len(stores)}; run this again later"))


def problems(stores, sheet):
    """Returns all contradictions between WeChat's list and the sheet. The script prints them before it sends anything."""
    rows = {}
    for row in sheet:
        rows.setdefault(row["legacy_poi_id"], []).append(row)
    wrong = [f"{legacy_poi_id}: {len(same)} rows" for legacy_poi_id, same in rows.items() if len(same) > 1]
    for legacy_poi_id, store in stores.items():
        if store.get("upgradeState") not in OPEN:
            continue
        row, forbidden = rows.get(legacy_poi_id, [None])[0], store["upgradeState"] == "UPGRADE_STATE_FORBIDDEN"
        if row is None:
            wrong.append(f"{legacy_poi_id} ({store.get('name', '')}): no row")
        elif row["action"] not in METHODS:
            wrong.append(f"{legacy_poi_id}: action must be migrate or delete")
        elif forbidden and row["action"] == "migrate":
            wrong.append(f"{legacy_poi_id}: WeChat forbids its migration, so it can only be deleted")
        elif row["action"] == "migrate":
            empty = [name for name in NEEDED[2:7] if not row[name]]
            if not row["map_poi_id"] and not store.get("mapPoiId"):
                empty.append("map_poi_id, and WeChat knows none")
            wrong += [f"{legacy_poi_id}: empty: {', '.join(empty)}"] if empty else []
    return wrong


def this_round(args, stores):
    """Returns the interrupted round, or a new one with all open stores.

    The rows of a round are written once. A store that WeChat rejected may be sent again with the same
    values, so each round is a batch of its own. Within a round nothing is executed twice.
    """
    number = 1
    while os.path.exists(os.path.join(args.folder, f"round-{number}", "done")):
        number += 1
    folder = os.path.join(args.folder, f"round-{number}")
    if os.path.exists(os.path.join(folder, "rows")):
        return folder, number
    os.makedirs(folder, exist_ok=True)
    lines = {action: [] for action in METHODS}
    for row in args.sheet:
        store = stores.get(row["legacy_poi_id"], {})
        if store.get("upgradeState") in OPEN:
            lines[row["action"]].append(json.dumps(request(row, store), ensure_ascii=False))
    for action, rows in lines.items():
        write(os.path.join(folder, f"{action}.jsonl"), "".join(line + "\n" for line in rows))
    write(os.path.join(folder, "rows"), "")
    return folder, number


def request(row, store):
    if row["action"] == "delete":
        return {"legacy_poi_id": row["legacy_poi_id"]}
    return {
        "legacy_poi_id": row["legacy_poi_id"],
        "client_reference": f"legacy-{row['legacy_poi_id']}",
        "map_poi_id": row["map_poi_id"] or store["mapPoiId"],
        "license_number": row["license_number"],
        "contact_phone": row["contact_phone"],
        "hours": {"open": row["open"], "close": row["close"]},
        "picture_urls": [row["picture_url"]],
    }


def send(args, folder, number, action, method):
    """Sends the rows of a round that are not sent yet. Returns the exit code of `call`."""
    rows = os.path.join(folder, f"{action}.jsonl")
    if os.path.getsize(rows) == 0:
        return 0
    command = [*program(args), method, "--rows", rows]
    command += ["--results", os.path.join(folder, f"{action}-results.jsonl")]
    command += ["--batch", f"migration round {number}"]
    return subprocess.run(command, check=False).returncode


def reviewed(args):
    """Returns the progress of the migration, after WeChat's reviews or after the time to wait."""
    end = time.monotonic() + args.wait
    while True:
        progress = call(args, "StoreService/GetUpgradeProgress", {})
        if not progress.get("migratingCount") or time.monotonic() > end:
            return progress
        time.sleep(0.5)


def write(path, text):
    """Writes a file completely, or not at all."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def finish(code, text, lines=()):
    print("\n  ".join([text, *lines]), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
