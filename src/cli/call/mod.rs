//! `call`: a gRPC client that needs no proto files, because it loads the types by reflection.

// Not grpcurl: a container without a shell has only this binary.

use std::{io, str::FromStr, time::Duration};

use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
};

pub(super) use self::{client::Client, json::parse_request};
use super::{
    Failure, print,
    seconds::seconds,
    target::{AUTHORIZATION, Target},
};
use crate::config::Environment;

mod client;
mod json;
mod manual;
mod reflection;
mod rows;

/// How much later than its deadline a service can return DEADLINE_EXCEEDED.
const GRACE: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Prints the response as JSON. Prints one line per message if the method is a stream.

An error goes to standard error: as text on a terminal, otherwise or with --json as JSON with all
details. The exit code is then 64 plus the gRPC code, such as 67 for INVALID_ARGUMENT.

Examples:
  wechat-store-gateway call --list
  wechat-store-gateway call --describe StoreService/AddStore
  wechat-store-gateway call StoreService/ListStores
  wechat-store-gateway call MapPoiService/ResolveDistrict '{\"names\": [\"广东\", \"海珠区\"]}'
  wechat-store-gateway call AuditService/WatchAuditEvents '{\"position\": \"WATCH_POSITION_EARLIEST\"}'
  wechat-store-gateway call StoreService/AddStore --rows stores.jsonl --check
  wechat-store-gateway call --address https://gateway.internal:50051 --ca ca.pem \\
    --token-file /run/secrets/token StoreService/ListStores
  wechat-store-gateway call StoreService/AddStore --rows stores.jsonl --results results.jsonl

With --rows you can repeat the command after any interruption. Each row without a request_id gets one
that is computed from its content, so the service does not execute the row twice within 24 hours. With
--results FILE there is no time limit: rows that are ok in the file are not sent again. Equal rows are
sent once.

Exit codes with --rows, the first that applies:
  5  interrupted by a signal
  4  stopped early, or rows without a response: run the command again
  3  rows with an unknown outcome: WriteService can resolve them
  2  rows that failed
  0  all rows are ok";

/// The arguments of `call`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Call {
    /// The method, such as StoreService/ListStores; the package can be omitted
    #[arg(value_name = "SERVICE/METHOD", required_unless_present_any = ["list", "describe"])]
    method: Option<String>,
    /// The request as JSON; - reads it from standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    request: String,
    /// List all services and methods
    #[arg(long, conflicts_with_all = ["method", "describe"])]
    list: bool,
    /// Describe a service, a method, a message, an enum or a value, such as STORE_NOT_FOUND
    #[arg(long, value_name = "NAME", conflicts_with = "method")]
    describe: Option<String>,
    /// The deadline of the call [default: limits.default_deadline_ms of the service]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    deadline: Option<Duration>,
    /// Send this metadata; can be repeated
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE")]
    headers: Vec<Header>,
    /// Print an error as JSON on a terminal too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    rows: rows::Rows,
}

impl Call {
    /// Runs the command.
    pub async fn run(mut self, environment: &Environment) -> Result<(), Failure> {
        self.target = self.target.with_environment(environment);
        let (json, target) = (self.json, self.target.clone());
        let result = self.execute().await;
        let result = result.map_err(|failure| failure.with_target(&target));
        result.map_err(|failure| if json { failure.with_json() } else { failure })
    }

    async fn execute(self) -> Result<(), Failure> {
        if self.headers.iter().any(|header| header.key.as_str() == AUTHORIZATION) {
            return Err(Failure::usage(
                "--header: other users of this machine can read a token in an argument; use --token-file FILE, \
                 or the environment variable WECHAT_STORE_GATEWAY_TOKEN",
            ));
        }
        let client = Client::connect(&self.target).await?;
        if self.list {
            return Ok(print::line(manual::list(&client))?);
        }
        if let Some(name) = &self.describe {
            return Ok(print::line(manual::describe(&client, name)?)?);
        }
        let method = client.method(self.method.as_deref().unwrap_or_default())?;
        if self.rows.wanted() {
            return self.rows.run(client, method, self.deadline, self.headers).await;
        }
        let request = self.request(&client, &method)?;
        let call = async {
            let mut responses = client.start(&method, request).await?;
            while let Some(response) = responses.message().await? {
                print::line(to_json(&response, method.is_server_streaming())?)?;
            }
            Ok(())
        };
        match self.deadline {
            None => call.await,
            // tonic does not end a stream at its deadline if the service does not.
            Some(deadline) => {
                let late = Status::deadline_exceeded("the service did not end the call in time");
                let call = tokio::time::timeout(deadline + GRACE, call);
                call.await.unwrap_or_else(|_| Err(late.into()))
            }
        }
    }

    fn request(
        &self,
        client: &Client,
        method: &MethodDescriptor,
    ) -> Result<Request<DynamicMessage>, Failure> {
        let message = match self.request.trim() {
            "-" => client.request(method, &io::read_to_string(io::stdin())?)?,
            text => client.request(method, text)?,
        };
        Ok(with_metadata(message, self.deadline, &self.headers))
    }
}

/// Returns a request with its deadline and metadata.
fn with_metadata(
    message: DynamicMessage,
    deadline: Option<Duration>,
    headers: &[Header],
) -> Request<DynamicMessage> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    for Header { key, value } in headers {
        request.metadata_mut().append(key.clone(), value.clone());
    }
    request
}

fn to_json(message: &DynamicMessage, on_one_line: bool) -> Result<String, Failure> {
    let text = if on_one_line {
        serde_json::to_string(message)
    } else {
        serde_json::to_string_pretty(message)
    };
    text.map_err(Failure::new)
}

/// One entry of the metadata of a call.
#[derive(Clone, Debug)]
struct Header {
    key: AsciiMetadataKey,
    value: AsciiMetadataValue,
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once(':').ok_or("must be KEY:VALUE")?;
        let key = key.trim().to_ascii_lowercase();
        let key =
            key.parse().map_err(|_| "the key must be a header name that does not end in -bin")?;
        let value = value.trim().parse().map_err(|_| "the value must be visible ASCII")?;
        Ok(Self { key, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_split_at_first_colon() {
        let Header { key, value } = "X-Caller: a:b".parse().expect("a header");
        assert_eq!((key.as_str(), value.to_str().ok()), ("x-caller", Some("a:b")));
        for wrong in ["no colon", "spaced key:v", "some-bin:v", "k:a\nb"] {
            assert!(wrong.parse::<Header>().is_err(), "{wrong}");
        }
    }
}
