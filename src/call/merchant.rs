//! The store mini program itself.

use std::sync::Arc;

use super::{Error, Operations};
use crate::{
    context::{Context, Stage},
    pb,
    util::codec::Encoded,
    wechat::merchant::GetMerchantCategory,
};

impl Operations {
    /// The categories, remembered by account.
    pub(crate) async fn categories(
        &self,
        ctx: &Context,
    ) -> Result<Arc<Encoded<pb::ListCategoriesResponse>>, Error> {
        let account = self.account::<GetMerchantCategory>(ctx)?;
        let key = account.app_id.clone();
        let fetch = || {
            let (ops, account) = (self.clone(), account.clone());
            async move {
                let reply = ops.fetch(&account, GetMerchantCategory {}).await?;
                Ok(Encoded::new(&reply.into()))
            }
        };
        ctx.stage.reach(Stage::WeChat);
        self.0.categories.get(key, ctx.deadline, fetch).await
    }
}
