//! Runs `call --rows` with ten thousand stores, and kills its process and the gateway's several
//! times.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use wechat_simulator::{Settings, Simulator};

use crate::{
    gateway::{Gateway, MOMENT},
    leaks, print_figures, random,
};

const PATH: &str = "/wxa/add_store";
/// As many stores as a large brand has.
const ROWS: usize = 10_000;
/// Many times the usual duration, for a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// The most that the memory of a process may grow from its first measurement to its last, in KB.
const GROWTH: u64 = 32 * 1024;

/// The processes to kill, in this order.
const KILLS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

#[tokio::test(flavor = "multi_thread")]
async fn killed_import_adds_every_store_once() {
    let rows = option_env!("DURABILITY_ROWS").map_or(ROWS, |rows| rows.parse().expect("a number"));
    let mut random = random("import");
    let (wechat, address) = wechat(rows).await;
    let mut gateway = Gateway::start(address, "sqlite:{folder}/state.db").await;
    let file = write_rows(&wechat, rows, gateway.folder());
    let began = Instant::now();
    let mut client = Client::start(&gateway, &file);
    let mut memory = Memory::default();

    for (kill, (the_gateway, the_client)) in KILLS.iter().enumerate() {
        // Each kill has its own quarter of the rows.
        let at = rows * (kill + 1) / 4 - random.usize(..rows / 10);
        while stores(&wechat) < at {
            memory.look(stores(&wechat), rows, began, &gateway, &client);
            client.runs(began);
            sleep(5 * MOMENT).await;
        }
        print_figures(&format!(
            "killed after {}: gateway {the_gateway}, client {the_client}",
            stores(&wechat)
        ));
        if *the_client {
            client.kill();
        }
        if *the_gateway {
            gateway.kill();
            memory.forget("gateway");
            sleep(Duration::from_millis(random.u64(..1000))).await;
            gateway.spawn();
            gateway.serves().await;
        }
        if *the_client {
            memory.forget("client");
            client = Client::start(&gateway, &file);
        }
    }

    let status = loop {
        memory.look(stores(&wechat), rows, began, &gateway, &client);
        match client.ended(began) {
            Some(status) => break status,
            None => sleep(MOMENT).await,
        }
    };
    assert!(status.success(), "{status}: {}", client.output());
    let seconds = began.elapsed().as_secs_f64();

    let outcomes = client.outcomes();
    assert_eq!(outcomes.len(), rows);
    assert!(outcomes.values().all(|line| line["outcome"] == "ok"), "{}", client.output());
    // The writes that were running when the gateway was killed.
    let recovered = outcomes.values().filter(|line| line["response"]["recovered"] == true).count();
    // No call too many was sent. WeChat itself would have refused most of them.
    let mut asked = BTreeMap::new();
    for call in wechat.calls(PATH) {
        *asked.entry(call.body["credential"].to_string()).or_insert(0) += 1;
    }
    assert_eq!((asked.len(), stores(&wechat)), (rows, rows));
    let twice: Vec<_> = asked.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    print_figures(&format!(
        "import: {rows} stores in {seconds:.1} s, {:.0} a second; {} kills, {recovered} lost replies \
         were recovered; the last client: {}",
        rows as f64 / seconds,
        KILLS.len(),
        client.output().lines().last().unwrap_or_default(),
    ));
    memory.print_figures();
}

/// Starts a WeChat with room for this many stores.
async fn wechat(rows: usize) -> (Simulator, SocketAddr) {
    let wechat = Simulator::new(Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(wechat.clone().run(listener, std::future::pending()));
    wechat.control("POST", "settings", &json!({ "store_limit": rows })).expect("a limit");
    (wechat, address)
}

fn write_rows(wechat: &Simulator, rows: usize, folder: &Path) -> PathBuf {
    let places = wechat.control("POST", "map_pois", &json!({ "count": rows })).expect("places");
    let mut text = String::new();
    for (number, place) in places["map_poi_ids"].as_array().expect("ids").iter().enumerate() {
        let row = json!({
            "map_poi_id": place,
            "picture_urls": ["http://mmbiz.qpic.cn/mmbiz_png/a/0"],
            "contact_phone": "020-89190388",
            "hours": { "open": "10:00", "close": "21:30" },
            "license_number": format!("9144{number:08}"),
            "client_reference": format!("shop-{number}"),
        });
        writeln!(text, "{row}").expect("a text");
    }
    let file = folder.join("rows.jsonl");
    fs::write(&file, text).expect("a file");
    file
}

/// Returns the number of stores at WeChat.
fn stores(wechat: &Simulator) -> usize {
    let accounts = wechat.control("GET", "accounts", &Value::Null).expect("accounts");
    let accounts = accounts["accounts"].as_array().expect("a list");
    let stores = accounts.iter().filter_map(|account| account["stores"].as_u64());
    usize::try_from(stores.sum::<u64>()).expect("small")
}

/// A running `call --rows`.
struct Client {
    process: Child,
    folder: PathBuf,
}

impl Client {
    fn start(gateway: &Gateway, rows: &Path) -> Self {
        let folder = gateway.folder().to_owned();
        let process = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"))
            .args(["call", "StoreService/AddStore", "--at-once", "16", "--address"])
            .arg(gateway.grpc.to_string())
            .arg("--rows")
            .arg(rows)
            .arg("--results")
            .arg(folder.join("results.jsonl"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("output")).expect("a file"))
            .spawn();
        Self { process: process.expect("the binary starts"), folder }
    }

    fn ended(&mut self, began: Instant) -> Option<ExitStatus> {
        assert!(began.elapsed() < LIMIT, "it does not end: {}", self.output());
        self.process.try_wait().expect("its status")
    }

    fn runs(&mut self, began: Instant) {
        let ended = self.ended(began);
        assert!(ended.is_none(), "{ended:?}: {}", self.output());
    }

    fn kill(&mut self) {
        self.process.kill().expect("ours");
        self.process.wait().expect("killed");
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).expect("its output")
    }

    /// Returns the last result of each row.
    fn outcomes(&self) -> BTreeMap<u64, Value> {
        let lines = fs::read_to_string(self.folder.join("results.jsonl")).expect("results");
        let lines =
            lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a result"));
        lines.map(|line| (line["row"].as_u64().expect("a row"), line)).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        leaks::check(&self.output());
    }
}

/// The memory of the processes at every tenth of the import, in KB.
#[derive(Default)]
struct Memory {
    looks: Vec<(usize, Duration, u64, u64)>,
    /// The first measurement of each process since its start.
    first: BTreeMap<&'static str, (usize, u64)>,
}

impl Memory {
    fn look(
        &mut self,
        done: usize,
        rows: usize,
        began: Instant,
        gateway: &Gateway,
        client: &Client,
    ) {
        // A process that has just started is still its parent's image.
        if done == 0 {
            return;
        }
        let gateway = gateway.process_id().and_then(resident);
        let (Some(gateway), Some(client)) = (gateway, resident(client.process.id())) else {
            return;
        };
        for (name, now) in [("gateway", gateway), ("client", client)] {
            let (since, first) = *self.first.entry(name).or_insert((done, now));
            // Before that, it still loads its data.
            if done < since + rows / 50 {
                self.first.insert(name, (since, now));
            } else {
                assert!(now < first + GROWTH, "{name} grew from {first} KB to {now} KB");
            }
        }
        let tenth = |done: usize| done * 10 / rows;
        if self.looks.last().is_none_or(|(last, ..)| tenth(done) > tenth(*last)) {
            self.looks.push((done, began.elapsed(), gateway, client));
        }
    }

    /// Forgets the measurements of a process that is started again.
    fn forget(&mut self, name: &'static str) {
        self.first.remove(name);
    }

    fn print_figures(&self) {
        for (done, time, gateway, client) in &self.looks {
            let seconds = time.as_secs_f64();
            print_figures(&format!(
                "memory after {done:>5} stores, {seconds:>4.1} s: gateway {gateway} KB, client {client} KB"
            ));
        }
    }
}

/// Returns the memory of a running process in KB.
fn resident(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
