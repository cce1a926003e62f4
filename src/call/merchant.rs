//! The store mini program itself.

use std::sync::Arc;

use super::{Calls, Error};
use crate::{
    context::{Context, Stage},
    pb,
    util::codec::Encoded,
    wechat::merchant::GetMerchantCategory,
};

impl Calls {
    /// Returns the categories, which are cached by account.
    pub(crate) async fn categories(
        &self,
        ctx: &Context,
    ) -> Result<Arc<Encoded<pb::ListCategoriesResponse>>, Error> {
        let account = self.account::<GetMerchantCategory>(ctx).await?;
        let key = account.app_id.clone();
        let fetch = || {
            let (calls, account) = (self.clone(), account.clone());
            async move {
                let reply = calls.fetch(&account, GetMerchantCategory {}).await?;
                Ok(Encoded::new(&reply.into()))
            }
        };
        ctx.progress.reach(Stage::WeChat);
        self.0.categories.get(key, ctx.deadline, fetch).await
    }
}
