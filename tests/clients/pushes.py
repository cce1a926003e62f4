#!/usr/bin/env python3
"""Checks pushes against an implementation that is not ours: wechatpy signs and seals what the gateway
takes, and verifies and opens what the simulator sends. It is also the third-party platform of the
simulator's merchants.

    pushes.py STUBS GATEWAY CALLBACK SIMULATOR LISTEN

STUBS is a folder with the Python code generated from proto/; GATEWAY a host and port and CALLBACK a
URL of a gateway with pushes.toml and an empty log; SIMULATOR the URL of the simulator behind it;
LISTEN the port of this machine where it is to push to.
"""

import importlib
import itertools
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import xmltodict
from wechatpy import parse_message
from wechatpy.component import WeChatComponent
from wechatpy.crypto import WeChatCrypto
from wechatpy.exceptions import InvalidAppIdException, InvalidSignatureException
from wechatpy.utils import WeChatSigner, check_signature

STUBS, GATEWAY, CALLBACK, SIMULATOR, LISTEN = sys.argv[1:6]
sys.path.insert(0, STUBS)

audit = importlib.import_module("wechat.store.v1.audit_pb2")
audit_rpc = importlib.import_module("wechat.store.v1.audit_pb2_grpc")
map_poi = importlib.import_module("wechat.store.v1.map_poi_pb2")
map_poi_rpc = importlib.import_module("wechat.store.v1.map_poi_pb2_grpc")
store = importlib.import_module("wechat.store.v1.store_pb2")
store_rpc = importlib.import_module("wechat.store.v1.store_pb2_grpc")
types = importlib.import_module("wechat.store.v1.types_pb2")

channel = grpc.insecure_channel(GATEWAY)
audits = audit_rpc.AuditServiceStub(channel)

# As in pushes.toml: account, token, mode, key. Keys that end in A have no bits to spare.
SPARE = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
EVEN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefA"
NEW = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFH"
OLD = "zyxwvutsrqponmlkjihgfedcba9876543210ABCDEFD"
SENDERS = [
    ("wx00000000000000a1", "plain-token", "plain", None),
    ("wx00000000000000a2", "compatible-token", "compatible", SPARE),
    ("wx00000000000000a3", "safe-token", "safe", EVEN),
    ("wx00000000000000a4", "rotating-token", "safe", NEW),
    ("wx00000000000000a4", "rotating-token", "safe", OLD),
]
FORMATS = ["xml", "json"]
REASON = "门头照片不清晰 ]]> <&> \"请重新提交\" 😀"
PLACE = "5938314494307741153"

# Each push of WeChat with the expected event: kind, state, detail.
EVENTS = [
    (
        {"Event": "apply_merchant_audit_info", "status": 4, "reason": REASON},
        (types.SUBMISSION_KIND_MERCHANT, types.AUDIT_STATE_DECLINED_BY_ADMIN, "merchant", {}),
    ),
    (
        {
            "Event": "create_map_poi_audit_info",
            "status": 0,
            "map_poi_id": PLACE,
            "name": "巷口小馆",
            "address": "新港中路397号",
            "latitude": 23.0974903107,
            "longitude": 113.323753357,
            "sh_remark": REASON,
        },
        (
            types.SUBMISSION_KIND_MAP_POI,
            types.AUDIT_STATE_APPROVED,
            "map_poi",
            {"map_poi_id": PLACE, "name": "巷口小馆", "address": "新港中路397号"},
        ),
    ),
    (
        {"Event": "add_store_audit_info", "status": 1, "reason": REASON, "is_upgrade": 0, "poiid": 472671857},
        (
            types.SUBMISSION_KIND_STORE,
            types.AUDIT_STATE_APPROVED,
            "store",
            {"poi_id": "472671857", "wechat_is_upgrade": 0},
        ),
    ),
    (
        {"Event": "modify_store_audit_info", "status": 3, "reason": REASON},
        (types.SUBMISSION_KIND_STORE_PICTURES, types.AUDIT_STATE_REJECTED, "store_pictures", {}),
    ),
    (
        {"Event": "add_nearby_poi_audit_info", "status": 3, "reason": REASON, "poi_id": 111111},
        (
            types.SUBMISSION_KIND_NEARBY_POI,
            types.AUDIT_STATE_APPROVED,
            "nearby_poi",
            {"nearby_poi_id": "111111"},
        ),
    ),
]

audit_ids = itertools.count(416620525)


def signed(*parts):
    signer = WeChatSigner()
    signer.add_data(*parts)
    return signer.signature


def cdata(text):
    return "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"


def written(fields, form):
    """A message as WeChat writes it: in XML texts are CDATA and numbers stand bare."""
    if form == "json":
        return json.dumps(fields, ensure_ascii=False)
    element = lambda name, value: f"<{name}>{cdata(value) if isinstance(value, str) else value}</{name}>"
    return "<xml>\n" + "\n".join(element(*field) for field in fields.items()) + "\n</xml>"


def message(fields, form):
    usual = {
        "ToUserName": "gh_4346ac1514d8",
        "FromUserName": "od1P50M-fNQI5Gcq-trm4a7apsU8",
        "CreateTime": 1488856741,
        "MsgType": "event",
    }
    return written({**usual, "audit_id": next(audit_ids), **fields}, form)


def push(app_id, token, mode, key, text, form, sent=None):
    """Query and body of a push, signed and sealed by wechatpy."""
    timestamp = str(int(time.time()) if sent is None else sent)
    nonce = str(random.randrange(10**10))
    query = {"signature": signed(token, timestamp, nonce), "timestamp": timestamp, "nonce": nonce}
    query["openid"] = "od1P50M-fNQI5Gcq-trm4a7apsU8"
    if mode == "plain":
        return query, text
    sealed = xmltodict.parse(WeChatCrypto(token, key, app_id).encrypt_message(text, nonce, timestamp))["xml"]
    query |= {"encrypt_type": "aes", "msg_signature": sealed["MsgSignature"]}
    if mode == "safe":
        return query, written({"ToUserName": "gh_4346ac1514d8", "Encrypt": sealed["Encrypt"]}, form)
    if form == "json":
        return query, json.dumps({**json.loads(text), "Encrypt": sealed["Encrypt"]}, ensure_ascii=False)
    return query, text.replace("</xml>", f"<Encrypt>{cdata(sealed['Encrypt'])}</Encrypt></xml>")


def http(url, body=None):
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def send(app_id, query, body):
    return http(f"{CALLBACK}/wechat/callback/{app_id}?{urllib.parse.urlencode(query)}", body.encode())


def listed():
    """All events, in pages of 7."""
    page = audits.ListAuditEvents(audit.ListAuditEventsRequest(page_size=7), timeout=20)
    events = list(page.events)
    while page.next_page_token:
        request = audit.ListAuditEventsRequest(page_size=7, page_token=page.next_page_token)
        page = audits.ListAuditEvents(request, timeout=20)
        events += page.events
    return events


def check(event, app_id, text, fields, expected):
    kind, state, name, detail = expected
    assert (event.app_id, event.wechat_event) == (app_id, fields["Event"]), event
    assert (event.kind, event.state, event.wechat_status) == (kind, state, fields["status"]), event
    assert event.reason == REASON and event.event_time.seconds == 1488856741, event
    assert event.audit_id in text and event.audit_id.isdigit(), event
    assert event.origin == audit.EVENT_ORIGIN_PUSHED, event
    assert event.wechat_message == text, event
    assert event.WhichOneof("detail") == name, event
    for field, value in detail.items():
        assert getattr(getattr(event, name), field) == value, event
    if name == "map_poi":
        place = event.map_poi.location
        assert (place.latitude, place.longitude) == (fields["latitude"], fields["longitude"]), event


def gateway_takes_what_wechatpy_makes():
    for app_id, token, _, _ in SENDERS:
        query, _ = push(app_id, token, "plain", None, "", "xml")
        echo = {**query, "echostr": "6153&<=+"}
        address = f"{CALLBACK}/wechat/callback/{app_id}?"
        assert http(address + urllib.parse.urlencode(echo)) == (200, "6153&<=+")
        assert http(address + urllib.parse.urlencode({**echo, "nonce": "1"}))[0] == 403

    request = audit.WatchAuditEventsRequest(position=audit.WATCH_POSITION_EARLIEST)
    watch = audits.WatchAuditEvents(request, timeout=60)
    assert not next(watch).HasField("event")
    seen = []
    for account, form in itertools.product(SENDERS, FORMATS):
        for fields, expected in EVENTS:
            text = message(fields, form)
            query, body = push(*account, text, form)
            assert send(account[0], query, body) == (200, "success"), (account, form, fields)
            # And again, as WeChat does where it got no answer: this is one event.
            query, body = push(*account, text, form)
            assert send(account[0], query, body) == (200, "success"), "again"
            event = next(response.event for response in watch if response.HasField("event"))
            check(event, account[0], text, fields, expected)
            seen.append(event)
    watch.cancel()
    assert listed() == seen
    return len(seen)


def gateway_refuses_the_rest():
    before, count = listed(), 0
    for (app_id, token, mode, key), form in itertools.product(SENDERS[1:], FORMATS):
        text = message(EVENTS[2][0], form)
        good, body = push(app_id, token, mode, key, text, form)
        _, other = push(app_id, token, mode, key, message(EVENTS[3][0], form), form)
        now = int(time.time())
        without = {name: value for name, value in good.items() if name != "msg_signature"}
        for query, body in [
            (good, other),
            (good, text),
            (without, body),
            ({**good, "msg_signature": good["signature"]}, body),
            ({**good, "nonce": good["nonce"] + "1"}, body),
            push(app_id, "other-token", mode, key, text, form),
            push(app_id, token, mode, SPARE[::-1], text, form),
            push("wx00000000000000a9", token, mode, key, text, form),
            push(app_id, token, mode, key, text, form, now - 3600),
            push(app_id, token, mode, key, text, form, now + 3600),
        ]:
            status, answer = send(app_id, query, body)
            assert status in (400, 403) and answer == "", (mode, form, status, answer)
            count += 1
    app_id, token, mode, key = SENDERS[0]
    text = message(EVENTS[2][0], "xml")
    for query, body in [
        push(app_id, "other-token", mode, key, text, "xml"),
        push(app_id, token, mode, key, text, "xml", 1),
        push(app_id, token, mode, key, text[:-5], "xml"),
    ]:
        status, answer = send(app_id, query, body)
        assert status in (400, 403) and answer == "", (status, answer)
        count += 1
    assert listed() == before, "nothing that was refused is in the log"
    return count


def gateway_keeps_what_it_cannot_read():
    before, kept = listed(), []
    for (app_id, token, _, key), form in itertools.product(SENDERS[1:4], FORMATS):
        for text in (message(EVENTS[2][0], form)[:-5], f"<!DOCTYPE xml><xml>{form}</xml>"):
            query, body = push(app_id, token, "safe", key, text, form)
            assert send(app_id, query, body) == (200, "success"), (form, text)
            kept.append((app_id, text.encode()))
    events = listed()[len(before) :]
    assert [(event.app_id, event.raw_wechat_message) for event in events] == kept
    assert all(not event.kind and not event.wechat_event for event in events), events
    return len(kept)


class Server(BaseHTTPRequestHandler):
    """An account's own server, which verifies with wechatpy."""

    tokens = {}
    arrived = []
    echoed = []
    something = threading.Condition()

    def do_GET(self):
        app_id, query = self.asked()
        check_signature(self.tokens[app_id], query["signature"], query["timestamp"], query["nonce"])
        self.echoed.append(app_id)
        self.answer(query["echostr"])

    def do_POST(self):
        app_id, query = self.asked()
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with self.something:
            self.arrived.append((app_id, query, body, self.headers["content-type"]))
            self.something.notify_all()
        self.answer("success")

    def asked(self):
        path, _, query = self.path.partition("?")
        return path.strip("/"), dict(urllib.parse.parse_qsl(query, strict_parsing=True))

    def answer(self, text):
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

    @classmethod
    def next(cls):
        with cls.something:
            assert cls.something.wait_for(lambda: cls.arrived, timeout=20), "no push came"
            return cls.arrived.pop(0)


def simulator(path, body=None):
    status, answer = http(f"{SIMULATOR}/_simulator/{path}", body and json.dumps(body).encode())
    assert status == 200, answer
    return json.loads(answer)


def opened(app_id, token, mode, key, form):
    """The next push, verified and opened by wechatpy."""
    whom, query, body, content_type = Server.next()
    assert whom == app_id
    assert content_type == {"xml": "text/xml", "json": "application/json"}[form]
    check_signature(token, query["signature"], query["timestamp"], query["nonce"])
    if mode == "plain":
        assert query.keys().isdisjoint({"msg_signature", "encrypt_type"})
        return body
    parsed = json.loads(body) if form == "json" else body
    crypto = WeChatCrypto(token, key, app_id)
    proof = query["msg_signature"], query["timestamp"], query["nonce"]
    assert query["encrypt_type"] == "aes"
    text = crypto.decrypt_message(parsed, *proof)
    text = text.decode() if isinstance(text, bytes) else text
    # wechatpy does look: the same is refused under another name, and under another signature.
    try:
        WeChatCrypto(token, key, "wx00000000000000a9").decrypt_message(parsed, *proof)
        raise AssertionError("another account opened it")
    except InvalidAppIdException:
        pass
    try:
        crypto.decrypt_message(parsed, query["signature"], *proof[1:])
        raise AssertionError("another signature did")
    except InvalidSignatureException:
        pass
    outside, inside = read(body, form), read(text, form)
    assert outside.pop("Encrypt")
    assert outside == (inside if mode == "compatible" else {"ToUserName": inside["ToUserName"]})
    return text


def read(text, form):
    return json.loads(text) if form == "json" else dict(xmltodict.parse(text)["xml"])


def places():
    pois = map_poi_rpc.MapPoiServiceStub(channel)
    for keyword in ["店", "馆", "工厂"]:
        request = map_poi.SearchMapPoisRequest(district_id="440100", keyword=keyword)
        for poi in pois.SearchMapPois(request, timeout=20).pois:
            yield poi.map_poi_id


def submitted(map_poi_id, number):
    """A new store under review."""
    request = store.AddStoreRequest(
        client_reference=f"shop-{number}",
        map_poi_id=map_poi_id,
        picture_urls=["http://mmbiz.qpic.cn/mmbiz_png/first/0"],
        contact_phone="020-89190388",
        hours={"open": "10:00", "close": "21:30"},
        license_number=f"91440105MA59{number:04}",
    )
    return store_rpc.StoreServiceStub(channel).AddStore(request, timeout=20).submission.audit_id


def wechatpy_opens_what_the_simulator_pushes():
    server = ThreadingHTTPServer(("127.0.0.1", int(LISTEN)), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    official, mini_program = "wx0000000000000001", "wx0000000000000002"
    # The same values as on the command line of `simulate`.
    Server.tokens = {official: "callback-token", mini_program: "callback-token"}
    found, count = sorted(set(places())), 0
    first = submitted(found.pop(), 0)
    simulator(f"audits/{first}", {"decision": "approve"})
    text = opened(official, "callback-token", "safe", SPARE, "xml")
    assert read(text, "xml")["audit_id"] == first
    count += 1

    ways = itertools.product(["plain", "compatible", "safe"], FORMATS, [SPARE, EVEN])
    for number, (mode, form, key) in enumerate(ways, 1):
        for app_id in [official, mini_program]:
            token = Server.tokens[app_id] = f"token-{number}"
            url = f"http://127.0.0.1:{LISTEN}/{{app_id}}"
            callback = {"app_id": app_id, "url": url, "token": token, "mode": mode, "format": form}
            simulator("callback", callback | ({} if mode == "plain" else {"encoding_aes_key": key}))
            assert Server.echoed.pop() == app_id, "the address was asked first"
            for fields, _ in EVENTS:
                fields = {**fields, "audit_id": next(audit_ids)}
                pushed = simulator("pushes", {"app_id": app_id, "event": fields})
                text = opened(app_id, token, mode, key, form)
                made = next(one for one in simulator("pushes")["pushes"] if one["id"] == pushed["id"])
                assert text == made["message"]
                inside = read(text, form)
                for name, value in fields.items():
                    assert inside[name] == (value if form == "json" else str(value)), (name, inside)
                if form == "xml":
                    assert parse_message(text).source == inside["FromUserName"]
                count += 1
        audit_id = submitted(found.pop(), number)
        simulator(f"audits/{audit_id}", {"decision": "reject", "reason": REASON})
        inside = read(opened(official, f"token-{number}", mode, key, form), form)
        assert (str(inside["audit_id"]), str(inside["status"])) == (audit_id, "3"), inside
        assert (inside["Event"], inside["reason"]) == ("add_store_audit_info", REASON), inside
        count += 1
    server.shutdown()
    server.server_close()
    return count


class Platform(WeChatComponent):
    """A third-party platform, whose WeChat is the simulator."""

    API_BASE_URL = f"{SIMULATOR}/cgi-bin"

    def next(self):
        """The next event about authorizations."""
        where, query, body, content_type = Server.next()
        assert (where, content_type) == ("events", "text/xml"), where
        assert query.keys() == {"signature", "timestamp", "nonce", "encrypt_type", "msg_signature"}, query
        check_signature("platform-token", query["signature"], query["timestamp"], query["nonce"])
        assert dict(xmltodict.parse(body)["xml"]).keys() == {"AppId", "Encrypt"}, body
        return self.parse_message(body, query["msg_signature"], query["timestamp"], query["nonce"])


class Stay(urllib.request.HTTPRedirectHandler):
    """Does not follow redirects."""

    def redirect_request(self, *_):
        return None


def authorized(platform, app_id, sets):
    """Confirms on the page as a merchant does. Returns the address that the browser goes to."""
    link = {
        "component_appid": platform.component_appid,
        "pre_auth_code": platform.create_preauthcode()["pre_auth_code"],
        "redirect_uri": f"http://127.0.0.1:{LISTEN}/back",
    }
    page = f"{SIMULATOR}/cgi-bin/componentloginpage"
    status, text = http(f"{page}?{urllib.parse.urlencode(link)}")
    assert status == 200 and f'value="{app_id}"' in text, text
    ticked = {**link, "app_id": app_id, "permission_set": sets}
    form = urllib.parse.urlencode(ticked, doseq=True).encode()
    try:
        urllib.request.build_opener(Stay).open(urllib.request.Request(page, form), timeout=20)
        raise AssertionError("no redirect")
    except urllib.error.HTTPError as error:
        assert error.code == 302, error.read()
        return urllib.parse.urlsplit(error.headers["location"])


def wechatpy_is_a_platform():
    server = ThreadingHTTPServer(("127.0.0.1", int(LISTEN)), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    component, merchant = "wx00000000000000c1", "wx0000000000000001"
    platform = Platform(component, "platform-secret", "platform-token", NEW)
    settings = {"app_id": component, "secret": "platform-secret", "token": "platform-token"}
    settings |= {"encoding_aes_key": NEW, "events_url": f"http://127.0.0.1:{LISTEN}/events"}
    simulator("components", settings | {"messages_url": f"http://127.0.0.1:{LISTEN}/of/$APPID$"})
    assert platform.next().type == "component_verify_ticket"

    back = authorized(platform, merchant, [13, 37])
    event = platform.next()
    assert (event.type, event.authorizer_appid) == ("authorized", merchant)
    assert urllib.parse.parse_qs(back.query)["auth_code"] == [event.authorization_code]
    granted = event.query_auth_result["authorization_info"]
    assert [each["funcscope_category"]["id"] for each in granted["func_info"]] == [13, 37]
    listed = platform.get_authorizer_list()
    assert (listed["total_count"], len(listed["list"])) == (1, 1), listed
    assert listed["list"][0]["refresh_token"] == granted["authorizer_refresh_token"]
    info = platform.get_authorizer_info(merchant)
    assert info["authorizer_info"]["user_name"].startswith("gh_"), info
    refreshed = platform.refresh_authorizer_token(merchant, granted["authorizer_refresh_token"])

    place = {
        "name": "巷口小馆", "longitude": "113.32", "latitude": "23.09", "province": "广东省",
        "city": "广州市", "district": "海珠区", "address": "新港中路397号", "category": "美食:中餐厅",
        "telephone": "020-1", "photo": "http://mmbiz.qpic.cn/a/0", "license": "http://mmbiz.qpic.cn/a/0",
        "introduct": "-", "districtid": "440105",
    }
    query = urllib.parse.urlencode({"access_token": refreshed["authorizer_access_token"]})
    body = json.dumps(place, ensure_ascii=False).encode()
    status, text = http(f"{SIMULATOR}/wxa/create_map_poi?{query}", body)
    audit_id = json.loads(text)["data"]["base_id"]
    simulator(f"audits/{audit_id}", {"decision": "reject", "reason": REASON})
    where, query, body, _ = Server.next()
    assert where == f"of/{merchant}" and query["openid"], where
    proof = query["msg_signature"], query["timestamp"], query["nonce"]
    inside = dict(xmltodict.parse(platform.crypto.decrypt_message(body, *proof))["xml"])
    assert (inside["audit_id"], inside["sh_remark"]) == (str(audit_id), REASON), inside

    authorized(platform, merchant, [13])
    event = platform.next()
    assert (event.type, event.authorizer_appid) == ("updateauthorized", merchant)
    assert len(event.query_auth_result["authorization_info"]["func_info"]) == 1
    simulator(f"components/{component}/unauthorize", {"app_id": merchant})
    event = platform.next()
    assert (event.type, event.authorizer_appid) == ("unauthorized", merchant)
    server.shutdown()
    return platform.get_authorizer_list()["total_count"]


def main():
    taken = gateway_takes_what_wechatpy_makes()
    refused = gateway_refuses_the_rest()
    kept = gateway_keeps_what_it_cannot_read()
    opened = wechatpy_opens_what_the_simulator_pushes()
    assert wechatpy_is_a_platform() == 0, "the merchant left"
    print(
        f"wechatpy made {taken} pushes that were taken, {refused} that were refused and {kept} that "
        f"were kept unread, and opened {opened} of the simulator's: plain, compatible and safe, XML and JSON; "
        "and it was a third-party platform from its first ticket to the end of its merchant's authorization"
    )


main()
