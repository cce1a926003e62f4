//! A connection to a gateway that does not enforce deadlines, unlike tonic's. Every answer
//! therefore comes from the gateway. It reconnects after a failure.

use std::{
    error::Error,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use http::Uri;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::Mutex};
use tonic::body::Body;
use tower::Service;

/// A channel to a gateway. Clones share one connection.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    address: SocketAddr,
    connection: Arc<Mutex<Option<http2::SendRequest<Body>>>>,
}

impl Door {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: Arc::default() }
    }

    pub(crate) fn origin(&self) -> Uri {
        format!("http://{}", self.address).parse().expect("a URL")
    }

    async fn connected(self) -> Result<http2::SendRequest<Body>, Box<dyn Error + Send + Sync>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        tokio::spawn(driver);
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Incoming>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let door = self.clone();
        async move {
            let mut sender = door.connected().await?;
            sender.ready().await?;
            Ok(sender.send_request(request).await?)
        }
        .boxed()
    }
}
