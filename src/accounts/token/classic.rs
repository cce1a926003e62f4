//! The source `token`: every call makes a new token and ends the previous one five minutes later.

use futures_util::{FutureExt, future::BoxFuture};

use super::{FetchError, Fetched, Source, ask, read_secret};
use crate::{
    config::SecretSource,
    util::id::AppId,
    wechat::{Client, Endpoint, Tries, token::ClassicToken},
};

/// The source for accounts that other systems use with this kind of token, and that only one
/// process refreshes.
#[derive(Debug)]
pub(super) struct Classic {
    pub(super) app_id: AppId,
    pub(super) secret: Option<SecretSource>,
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
            let secret = read_secret(self.secret.as_ref())?;
            let call = ClassicToken { appid: self.app_id.clone(), secret };
            ask(client, call, tries).await
        }
        .boxed()
    }
}
