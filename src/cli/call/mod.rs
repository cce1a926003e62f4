//! `call`: a gRPC client that needs no files, for it asks the service what there is (reflection).

use std::{io, str::FromStr, time::Duration};

use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
};

pub(super) use self::{
    client::{Client, read},
    refusal::Refusal,
};
use super::{Failure, print, seconds::seconds, target::Target};

mod client;
mod codec;
mod manual;
mod reflection;
mod refusal;
mod rows;

/// How much later than its deadline a service may say that it has passed.
const GRACE: Duration = Duration::from_millis(200);

const MANY: &str = "\
An error is printed to standard error as JSON; the exit code is then 64 plus the gRPC code.

With --rows, repeat the command after any interruption: rows without a request_id get one from what
stands in them, and what was executed in the last 24 hours is not executed again. With --results
FILE that has no end: rows that are ok there are not sent. Two equal rows are sent once.

Exit codes with --rows, the first that is true:
  5  interrupted by a signal
  4  stopped early, or rows without an answer: run it again
  3  rows whose outcome nobody knows: WriteService settles them
  2  rows that failed
  0  every row is ok";

/// Calls a method and prints what it answers as JSON: a message over several lines, or, for a
/// stream, a line per message.
///
/// An error is printed to standard error as JSON, with its details. The exit code is then 64 plus
/// the gRPC code, such as 67 for INVALID_ARGUMENT.
#[derive(Debug, clap::Args)]
#[command(after_help = MANY)]
pub struct Call {
    /// What to call, such as StoreService/ListStores; packages can be left out
    #[arg(value_name = "SERVICE/METHOD", required_unless_present_any = ["list", "describe"])]
    method: Option<String>,
    /// The request; - reads it from standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    request: String,
    #[command(flatten)]
    target: Target,
    /// List the services and their methods
    #[arg(long, conflicts_with_all = ["method", "describe"])]
    list: bool,
    /// Describe a service, a method, a message or an enum
    #[arg(long, value_name = "NAME", conflicts_with = "method")]
    describe: Option<String>,
    /// Give up after this time; without it the service decides
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    deadline: Option<Duration>,
    /// Send this metadata; can be repeated
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE")]
    headers: Vec<Header>,
    #[command(flatten)]
    rows: rows::Rows,
}

impl Call {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
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
        let request = self.request(&method)?;
        let answers = async {
            let mut answers = client.start(&method, request).await?;
            while let Some(answer) = answers.message().await? {
                print::line(json(&answer, method.is_server_streaming())?)?;
            }
            Ok(())
        };
        match self.deadline {
            None => answers.await,
            // Nothing on this side ends a stream whose service does not.
            Some(deadline) => {
                let late = Status::deadline_exceeded("the service did not end the call in time");
                let answers = tokio::time::timeout(deadline + GRACE, answers);
                answers.await.unwrap_or_else(|_| Err(late.into()))
            }
        }
    }

    fn request(&self, method: &MethodDescriptor) -> Result<Request<DynamicMessage>, Failure> {
        let message = match self.request.trim() {
            "-" => read(method.input(), &io::read_to_string(io::stdin())?)?,
            text => read(method.input(), text)?,
        };
        Ok(addressed(message, self.deadline, &self.headers))
    }
}

/// A request with all that goes with it.
fn addressed(
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

fn json(message: &DynamicMessage, on_one_line: bool) -> Result<String, Failure> {
    let text = if on_one_line {
        serde_json::to_string(message)
    } else {
        serde_json::to_string_pretty(message)
    };
    text.map_err(Failure::new)
}

/// Metadata that goes with a call.
#[derive(Clone, Debug)]
struct Header {
    key: AsciiMetadataKey,
    value: AsciiMetadataValue,
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once(':').ok_or("has to be KEY:VALUE")?;
        let key = key.trim().to_ascii_lowercase();
        let key = key.parse().map_err(|_| "the key has to be a header's name, without -bin")?;
        let value = value.trim().parse().map_err(|_| "the value has to be visible ASCII")?;
        Ok(Self { key, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_split_at_the_first_colon() {
        let Header { key, value } = "X-Caller: a:b".parse().expect("a header");
        assert_eq!((key.as_str(), value.to_str().ok()), ("x-caller", Some("a:b")));
        for wrong in ["no colon", "spaced key:v", "some-bin:v", "k:a\nb"] {
            assert!(wrong.parse::<Header>().is_err(), "{wrong}");
        }
    }
}
