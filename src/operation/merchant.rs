//! The store mini program itself.

use std::sync::Arc;

use super::{Error, Operations};
use crate::{
    context::{Context, Stage},
    pb,
    wechat::merchant::GetMerchantCategory,
};

impl Operations {
    /// The categories, remembered by account.
    pub(crate) async fn categories(
        &self,
        ctx: &Context,
    ) -> Result<Arc<pb::ListCategoriesResponse>, Error> {
        let account = self.account::<GetMerchantCategory>(ctx)?.clone();
        let (ops, key) = (self.clone(), account.app_id.clone());
        let fetch = || async move {
            let reply = ops.fetch(&account, GetMerchantCategory {}).await?;
            Ok(reply.into())
        };
        ctx.stage.reach(Stage::WeChat);
        self.0.categories.get(key, ctx.deadline, fetch).await
    }
}
