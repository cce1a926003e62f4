//! The source `stable_token`: one token for all users while it lives.

use futures_util::{FutureExt, future::BoxFuture};

use super::{FetchError, Fetched, Source, ask, read_secret};
use crate::{
    config::SecretSource,
    util::id::AppId,
    wechat::{Client, Endpoint, Tries, token::StableToken},
};

/// The default source. It is safe for any number of replicas.
#[derive(Debug)]
pub(super) struct Stable {
    pub(super) app_id: AppId,
    pub(super) secret: Option<SecretSource>,
}

impl Source for Stable {
    fn path(&self) -> &'static str {
        StableToken::PATH
    }

    fn can_force(&self) -> bool {
        true
    }

    fn fetch<'a>(
        &'a self,
        client: &'a Client,
        tries: &'a mut Tries,
        force: bool,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        async move {
            let secret = read_secret(self.secret.as_ref())?;
            let call = StableToken::new(self.app_id.clone(), secret, force);
            ask(client, call, tries).await
        }
        .boxed()
    }
}
