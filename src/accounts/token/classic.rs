//! `token`: every call makes a new value and ends the old one five minutes later.

use futures_util::{FutureExt, future::BoxFuture};

use super::{FetchError, Fetched, SecretUnreadable, Source, ask};
use crate::{
    config::SecretSource,
    util::id::AppId,
    wechat::{Client, Endpoint, Tries, token::ClassicToken},
};

/// For accounts whose other systems use this kind too and that one process refreshes alone.
#[derive(Debug)]
pub(super) struct Classic {
    pub(super) app_id: AppId,
    pub(super) secret: SecretSource,
}

impl Source for Classic {
    fn path(&self) -> &'static str {
        ClassicToken::PATH
    }

    fn can_force(&self) -> bool {
        false
    }

    fn fetch<'a>(
        &'a self,
        client: &'a Client,
        tries: &'a mut Tries,
        _force: bool,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        async move {
            let secret = self.secret.read().map_err(SecretUnreadable::from)?;
            let call = ClassicToken { appid: self.app_id.clone(), secret };
            ask(client, call, tries).await
        }
        .boxed()
    }
}
