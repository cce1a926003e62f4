//! The calls that the gateway answers.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use tonic::Code;

use super::{Metrics, attribute::CAUSED_BY};
use crate::telemetry::{
    code_name,
    conventions::{ERROR_TYPE, OTHER_METHOD, RPC_METHOD, RPC_STATUS_CODE, RPC_SYSTEM_NAME},
    is_server_failure,
};

/// A call that is not answered yet. It is recorded when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    metrics: Metrics,
    method: &'static str,
    began: Instant,
    code: Code,
    caused_by_caller: bool,
}

impl Metrics {
    /// Begins to measure a call. `None` stands for every method that the gateway does not have.
    pub(crate) fn begin_call(&self, method: Option<&'static str>) -> Running {
        let method = method.unwrap_or(OTHER_METHOD);
        let (metrics, began) = (self.clone(), Instant::now());
        Running { metrics, method, began, code: Code::Cancelled, caused_by_caller: false }
    }

    /// Records a call that is answered.
    fn record_call(&self, call: &Running, duration: Duration) {
        let code_name = code_name(call.code);
        let attributes = [
            KeyValue::new(RPC_SYSTEM_NAME, "grpc"),
            KeyValue::new(RPC_METHOD, call.method),
            KeyValue::new(RPC_STATUS_CODE, code_name),
            KeyValue::new(ERROR_TYPE, code_name),
            KeyValue::new(CAUSED_BY, "caller"),
        ];
        let given = match (is_server_failure(call.code), call.caused_by_caller) {
            (true, true) => &attributes[..],
            (true, false) => &attributes[..4],
            (false, _) => &attributes[..3],
        };
        self.0.rpc_duration.record(duration.as_secs_f64(), given);
    }
}

impl Running {
    /// Sets the code of the answer. Without an answer, the caller has left, and the code is CANCELLED.
    pub(crate) fn set_code(&mut self, code: Code) {
        self.code = code;
    }

    /// Notes that the caller caused the failure, though its code is one of a failing server.
    pub(crate) fn set_caused_by_caller(&mut self) {
        self.caused_by_caller = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.metrics.record_call(self, self.began.elapsed());
    }
}
