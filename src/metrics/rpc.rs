//! The calls that the gateway answers.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use tonic::Code;

use super::Metrics;
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
}

impl Metrics {
    /// Begins to measure a call. `None` stands for every method that the gateway does not have.
    pub(crate) fn begin_call(&self, method: Option<&'static str>) -> Running {
        let method = method.unwrap_or(OTHER_METHOD);
        Running { metrics: self.clone(), method, began: Instant::now(), code: Code::Cancelled }
    }

    /// Records a call that is answered.
    fn record_call(&self, method: &'static str, code: Code, duration: Duration) {
        let code_name = code_name(code);
        let attributes = [
            KeyValue::new(RPC_SYSTEM_NAME, "grpc"),
            KeyValue::new(RPC_METHOD, method),
            KeyValue::new(RPC_STATUS_CODE, code_name),
            KeyValue::new(ERROR_TYPE, code_name),
        ];
        let given = if is_server_failure(code) { &attributes[..] } else { &attributes[..3] };
        self.0.rpc_duration.record(duration.as_secs_f64(), given);
    }
}

impl Running {
    /// Sets the code of the answer. Without an answer, the caller has left, and the code is CANCELLED.
    pub(crate) fn set_code(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.metrics.record_call(self.method, self.code, self.began.elapsed());
    }
}
