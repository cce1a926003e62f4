//! What to try in a sandbox. A test tries all of it.

use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};

use super::{GRPC, Places};

/// The text, with this program called as the reader called it.
pub(super) fn text(Places { grpc, simulator, callback }: Places) -> String {
    let program = std::env::args_os().next();
    let program = program.as_ref().map_or("wechat-store-gateway".into(), |it| it.to_string_lossy());
    let call = match grpc {
        GRPC => format!("{program} call"),
        _ => format!("{program} call --address {grpc}"),
    };
    format!(
        r#"The service     {grpc} (gRPC without TLS, with reflection)
Its WeChat      http://{simulator} (simulated)
Its callbacks   http://{callback}/wechat/callback/{{app_id}}, where its WeChat tells how reviews end
Its accounts    {OFFICIAL_APP_ID}, official: the default for stores, cards, maps and pictures
                {MINI_PROGRAM_APP_ID}, mini program: the default for nearby places

Look around:
  {call} --list
  {call} --describe StoreService/AddStore

Find a place, add a store there, decide its review as WeChat would, and see it listed:
  {call} MapPoiService/ResolveDistrict '{{"names": ["广东", "海珠区"]}}'
  {call} MapPoiService/SearchMapPois '{{"district_id": "440105", "keyword": "X-MAX"}}'
  {call} StoreService/AddStore '{{"map_poi_id": "2708071440732747189", "picture_urls": ["http://mmbiz.qpic.cn/mmbiz_png/example/0"], "contact_phone": "020-89190388", "hours": {{"open": "10:00", "close": "22:00"}}, "license_number": "22883878-0"}}'
  curl -d '{{"decision": "approve"}}' http://{simulator}/_simulator/audits/414569001
  {call} StoreService/ListStores

The same with grpcurl:
  grpcurl -plaintext {grpc} list
  grpcurl -plaintext -d '{{"page_size": 5}}' {grpc} wechat.store.v1.StoreService/ListStores

Let WeChat fail, and look what it was asked:
  curl http://{simulator}/_simulator/

Ctrl-C ends it; nothing is kept."#
    )
}
