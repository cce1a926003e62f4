//! The text that the sandbox prints: its addresses and commands to try. A test runs all commands.

use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};

use super::{GRPC, Places};
use crate::cli::program;

/// Returns the text. Its commands call this program by the name that the user used.
pub(super) fn text(Places { grpc, simulator, callback, admin }: Places) -> String {
    let program = program();
    let call = match grpc {
        GRPC => format!("{program} call"),
        _ => format!("{program} call --address {grpc}"),
    };
    format!(
        r#"The sandbox is running: the gateway with a simulated WeChat. Stop it with Ctrl-C; nothing is stored.

  gRPC        {grpc}, without TLS, with reflection
  WeChat      http://{simulator}, simulated
  callback    http://{callback}/wechat/callback/{{app_id}}, receives review results from the simulated WeChat
  operators   http://{admin}/readyz
  accounts    {OFFICIAL_APP_ID}  official account, default for stores, cards, maps and pictures
              {MINI_PROGRAM_APP_ID}  mini program, default for nearby places
  log         only warnings; RUST_LOG=info {program} sandbox also logs each failed call with its trace id

List and describe the methods:
  {call} --list
  {call} --describe StoreService/AddStore

Find a place, add a store there, approve its review as WeChat would, list the stores, read the event:
  {call} MapPoiService/ResolveDistrict '{{"names": ["广东", "海珠区"]}}'
  {call} MapPoiService/SearchMapPois '{{"district_id": "440105", "keyword": "X-MAX"}}'
  {call} StoreService/AddStore '{{"map_poi_id": "2708071440732747189", "picture_urls": ["http://mmbiz.qpic.cn/mmbiz_png/example/0"], "contact_phone": "020-89190388", "hours": {{"open": "10:00", "close": "22:00"}}, "license_number": "22883878-0", "request_id": "b6b6a6f0-3f5c-4c7e-9b5a-0d6f4a9f2c11"}}'
  curl -d '{{"decision": "approve"}}' http://{simulator}/_simulator/audits/414569001
  {call} StoreService/ListStores
  {call} AuditService/ListAuditEvents

Use grpcurl:
  grpcurl -plaintext {grpc} list
  grpcurl -plaintext -d '{{"page_size": 5}}' {grpc} wechat.store.v1.StoreService/ListStores

Inject faults, list the calls that WeChat received:
  curl http://{simulator}/_simulator/

Check that the service is ready:
  curl http://{admin}/readyz"#
    )
}
