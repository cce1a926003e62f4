//! The text that the sandbox prints: its addresses and commands to try. A test runs all commands.

use wechat_simulator::{COMPONENT_APP_ID, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};

use super::{GRPC, MERCHANT_APP_ID, Places, SECOND_MERCHANT_APP_ID, identities::Identities};
use crate::cli::program;

/// A request that adds a store.
const STORE: &str = r#"{"map_poi_id": "2708071440732747189", "picture_urls": ["http://mmbiz.qpic.cn/mmbiz_png/example/0"], "contact_phone": "020-89190388", "hours": {"open": "10:00", "close": "22:00"}, "license_number": "22883878-0", "request_id": "b6b6a6f0-3f5c-4c7e-9b5a-0d6f4a9f2c11"}"#;

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
  platform    {COMPONENT_APP_ID}  third-party platform, default of the calls about platforms
  merchants   {MERCHANT_APP_ID}  mini program, can authorize the platform
              {SECOND_MERCHANT_APP_ID}  official account, the same
  log         only warnings; RUST_LOG=info {program} sandbox also logs each failed call with its trace id

List and describe the methods:
  {call} --list
  {call} --describe StoreService/AddStore

Find a place, add a store there, approve its review as WeChat would, list the stores, read the event:
  {call} MapPoiService/ResolveDistrict '{{"names": ["广东", "海珠区"]}}'
  {call} MapPoiService/SearchMapPois '{{"district_id": "440105", "keyword": "X-MAX"}}'
  {call} StoreService/AddStore '{STORE}'
  curl -d '{{"decision": "approve"}}' http://{simulator}/_simulator/audits/414569001
  {call} StoreService/ListStores
  {call} AuditService/ListAuditEvents

See the accounts as an operator does:
  {call} AccountService/ListAccounts

Get a link to open in a browser. There, a merchant authorizes the platform (sandbox --tour platform shows it):
  {call} AccountService/CreateAuthorizationLink '{{"redirect_uri": "https://provider.example/done"}}'

Use grpcurl:
  grpcurl -plaintext {grpc} list
  grpcurl -plaintext -d '{{"page_size": 5}}' {grpc} wechat.store.v1.StoreService/ListStores

Inject faults, list the calls that WeChat received:
  curl http://{simulator}/_simulator/

Check that the service is ready:
  curl http://{admin}/readyz"#
    )
}

/// Returns the text of `--secure`. It names each caller's files.
pub(super) fn secure_text(places: Places, identities: &Identities) -> String {
    let Places { grpc, simulator, callback: _, admin } = places;
    let program = program();
    let folder = identities.folder().display();
    let call = |caller: &str| identities.target(caller, grpc).command();
    let [reader, writer, client, none] = ["reader", "writer", "client", "none"].map(call);
    format!(
        r#"The sandbox is running with TLS and callers: the gateway with a simulated WeChat. Stop it with Ctrl-C; nothing is stored.

  gRPC        https://{grpc}, TLS 1.2 and 1.3, with reflection for callers
  files       {folder}
              ca.pem        the CA, which a client must trust
              NAME.token    the token of each caller: reader, writer, admin (each has the role of its name)
              client.pem    a client certificate, with client.key; the caller client is a writer
  WeChat      http://{simulator}, simulated
  operators   http://{admin}/readyz

A reader can read:
  {reader} StoreService/ListStores

It cannot write (PERMISSION_DENIED), and a caller without a proof of identity can do nothing (UNAUTHENTICATED):
  {reader} StoreService/AddStore '{STORE}'
  {none} StoreService/ListStores

A writer can write:
  {writer} StoreService/AddStore '{STORE}'

A client certificate proves the identity without a token:
  {client} AuditService/ListSubmissions

Use grpcurl:
  TOKEN=$(cat {folder}/reader.token) grpcurl -cacert {folder}/ca.pem -expand-headers -H 'authorization: Bearer ${{TOKEN}}' {grpc} list

Use Python, with grpcio:
python3 -c '
import grpc
ca, token = (open("{folder}/" + name).read().strip() for name in ("ca.pem", "reader.token"))
tls, bearer = grpc.ssl_channel_credentials(ca.encode()), grpc.access_token_call_credentials(token)
with grpc.secure_channel("{grpc}", grpc.composite_channel_credentials(tls, bearer)) as channel:
    print(channel.unary_unary("/wechat.store.v1.MerchantService/ListCategories")(b"")[:60])
'

Make a token for a caller of your own:
  {program} token new"#
    )
}
