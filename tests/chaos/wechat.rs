//! WeChat and its objects before the first call: stores, nearby places, and places on the map.

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use wechat_simulator::{
    Account, AccountKind, COMPANY, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, OFFICIAL_SECRET, Settings,
    Simulator, audit::State,
};
use wechat_store_gateway::testing::Clock;

use crate::gateway::exchange;

pub(crate) const PICTURE: &str = "http://mmbiz.qpic.cn/mmbiz_png/first/0";
/// The number of mini programs. Each has its own write queue.
const MINI_PROGRAMS: usize = 6;
/// The number of stores that are changed repeatedly.
const STORES: u64 = 24;
/// The number of existing nearby places of each mini program.
const POIS: u64 = 4;

/// A simulator and its address.
pub(crate) struct WeChat {
    pub(crate) simulator: Simulator,
    pub(crate) address: SocketAddr,
}

/// The objects that callers use.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// Stores to change.
    pub(crate) stores: Vec<String>,
    /// Nearby places to replace and to show, with their mini programs.
    pub(crate) pois: Vec<(String, String)>,
    /// Mini programs.
    pub(crate) mini_programs: Vec<String>,
    /// Places without a store.
    pub(crate) places: Mutex<Vec<String>>,
    /// Stores to delete.
    pub(crate) doomed_stores: Mutex<Vec<String>>,
    /// Hidden nearby places to delete.
    pub(crate) doomed_pois: Mutex<Vec<(String, String)>>,
}

/// Returns the milliseconds since 1970, as in the simulator's journal.
pub(crate) fn now() -> u64 {
    let since = Clock::system().wall().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("not so late")
}

fn mini_program(number: usize) -> String {
    match number {
        0 => MINI_PROGRAM_APP_ID.to_owned(),
        number => format!("wx1000000000000{number:03}"),
    }
}

fn secret(number: usize) -> String {
    format!("secret-{number}")
}

impl WeChat {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut settings = Settings { seed, ..Settings::default() };
        settings.accounts.extend((1..MINI_PROGRAMS).map(|number| Account {
            app_id: mini_program(number),
            secret: secret(number),
            kind: AccountKind::MiniProgram,
            callback: None,
        }));
        let simulator = Simulator::new(settings);
        let rules = json!({ "store_limit": 1_000_000, "nearby_limit": 1_000_000 });
        simulator.control("POST", "settings", &rules).expect("set");
        tokio::spawn(simulator.clone().run(listener, std::future::pending()));
        Self { simulator, address }
    }

    /// Returns the settings of the additional accounts.
    pub(crate) fn sections() -> String {
        let section = |number| {
            format!(
                "[[accounts]]\napp_id = \"{}\"\nkind = \"mini_program\"\nsecret = \"{}\"\n",
                mini_program(number),
                secret(number)
            )
        };
        (1..MINI_PROGRAMS).map(section).collect()
    }

    /// Creates the objects for callers, and `plenty` of each kind that is used up.
    pub(crate) async fn stock(&self, plenty: u64) -> Stock {
        self.set_pause(0);
        let mut stock = Stock::default();
        let official = self.token(OFFICIAL_APP_ID, OFFICIAL_SECRET).await;
        let (mut places, mut stores) = (Vec::new(), Vec::new());
        for number in 0..STORES + 4 * plenty {
            let place = json!({
                "name": format!("place {number}"), "province": "广东省", "city": "广州市",
                "district": "海珠区", "introduct": "-", "districtid": "440105",
                "photo": PICTURE, "license": PICTURE, "category": "美食:中餐厅",
                "address": "新港中路397号", "latitude": "23.1", "longitude": "113.3",
                "telephone": "020-1",
            });
            let made = self.call("/wxa/create_map_poi", &official, &place).await;
            let base_id = made["data"]["base_id"].as_u64().expect("an id");
            places.push(self.simulator.approve(base_id).expect("open").expect("a place"));
        }
        for number in 0..STORES + plenty {
            let store = json!({
                "map_poi_id": places.pop().expect("enough"), "hour": "10:00-21:30",
                "pic_list": json!({ "list": [PICTURE] }).to_string(), "contract_phone": "020-1",
                "credential": format!("stock-{number}"),
            });
            let made = self.call("/wxa/add_store", &official, &store).await;
            let audit_id = made["data"]["audit_id"].as_u64().expect("an id");
            stores.push(self.simulator.approve(audit_id).expect("open").expect("a store"));
        }
        for number in 0..MINI_PROGRAMS {
            let app_id = mini_program(number);
            let secret = match number {
                0 => wechat_simulator::MINI_PROGRAM_SECRET.to_owned(),
                number => secret(number),
            };
            let token = self.token(&app_id, &secret).await;
            for poi in 0..POIS + plenty / 8 {
                let credential = format!("{:015}", 1_000 * number as u64 + poi);
                let poi_id = self.add_poi(&token, &app_id, &credential).await;
                if poi < POIS {
                    stock.pois.push((app_id.clone(), poi_id));
                    continue;
                }
                let hide = json!({ "poi_id": poi_id, "status": 0 });
                self.call("/wxa/setnearbypoishowstatus", &token, &hide).await;
                stock.doomed_pois.get_mut().expect("ours").push((app_id.clone(), poi_id));
            }
            stock.mini_programs.push(app_id);
        }
        let doomed = stores.split_off(usize::try_from(STORES).expect("small"));
        self.set_pause(1_000);
        // Otherwise the first calls of the gateway would come too soon after these.
        sleep(Duration::from_secs(1)).await;
        self.simulator.take_calls();
        Stock { stores, places: places.into(), doomed_stores: doomed.into(), ..stock }
    }

    async fn add_poi(&self, token: &str, app_id: &str, credential: &str) -> String {
        let service =
            json!({ "id": 2, "type": 1, "name": "快递", "appid": app_id, "path": "a", "desc": "" });
        let poi = json!({
            "is_comm_nearby": "1", "store_name": "-", "address": "-", "contract_phone": "020-1",
            "pic_list": json!({ "list": [PICTURE] }).to_string(), "hour": "10:00-21:30",
            "credential": credential, "company_name": COMPANY, "kf_info": "", "poi_id": "",
            "service_infos": json!({ "service_infos": [service] }).to_string(),
            "qualification_list": "", "map_poi_id": "",
        });
        let made = self.call("/wxa/addnearbypoi", token, &poi).await;
        let audit_id = made["data"]["audit_id"].as_u64().expect("an id");
        self.simulator.approve(audit_id).expect("open").expect("a place")
    }

    /// Approves every open review.
    pub(crate) fn approve_all(&self) {
        let audits = self.simulator.audits();
        for audit in audits.into_iter().filter(|audit| audit.state == State::Pending) {
            // It may have been withdrawn in the meantime.
            let _ = self.simulator.approve(audit.audit_id);
        }
    }

    fn set_pause(&self, millis: u64) {
        let rules = json!({ "nearby_pause_ms": millis });
        self.simulator.control("POST", "settings", &rules).expect("set");
    }

    async fn token(&self, app_id: &str, secret: &str) -> String {
        let asked = json!({ "grant_type": "client_credential", "appid": app_id, "secret": secret });
        let answer = self.call("/cgi-bin/stable_token", "", &asked).await;
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// Makes a call past the gateway.
    async fn call(&self, path: &str, token: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "POST {path}?access_token={token} HTTP/1.1\r\nhost: wechat\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (_, answer) = exchange(self.address, &request).await.expect("it answers");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer["errcode"].as_i64().unwrap_or_default() == 0, "{path}: {answer}");
        answer
    }
}
