//! The page on which a merchant authorizes a component.
//!
//! At WeChat it is on mp.weixin.qq.com. A person can open it here, and a test can post its form.

use std::fmt::Write;

use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};

use super::{ComponentState, authorization};
use crate::{
    AccountKind,
    world::{Incoming, Reply, World},
};

/// The page for a computer, and the one for a phone.
const PATHS: &[&str] = &["/cgi-bin/componentloginpage", "/safe/bindcomponent"];
/// The page suggests this many accounts. Any other account can be typed in.
const SUGGESTIONS: usize = 50;

/// The parameters of the page, or the fields of its form.
#[derive(Debug, Default)]
struct Form(Vec<(String, String)>);

impl Form {
    fn field(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(own, _)| own == name);
        field.map_or("", |(_, value)| value)
    }

    /// Returns the ticked permission sets.
    fn permission_sets(&self) -> Result<Vec<u16>, String> {
        let ticked = self.0.iter().filter(|(name, _)| name == "permission_set");
        let sets = ticked.map(|(_, id)| id.parse().map_err(|_| format!("no permission set {id}")));
        let sets: Vec<_> = sets.collect::<Result<_, _>>()?;
        if sets.is_empty() { Err("tick at least one permission set".to_owned()) } else { Ok(sets) }
    }
}

/// Answers a request for the page, or its form. Returns `None` for every other request.
pub(crate) fn page(world: &mut World, request: &Incoming) -> Option<Reply> {
    if !PATHS.contains(&request.path.as_str()) {
        return None;
    }
    let mut form: Vec<_> = form_urlencoded::parse(&request.bytes).into_owned().collect();
    form.extend(request.query.clone());
    let form = Form(form);
    let answer = match request.method {
        Method::GET => show(world, &request.path, &form),
        Method::POST => confirm(world, &form),
        _ => Err("the page has only GET and POST".to_owned()),
    };
    Some(answer.unwrap_or_else(|problem| {
        let text = format!("<p>{}</p>", escaped(&problem));
        html(StatusCode::BAD_REQUEST, &text)
    }))
}

/// Returns the component that asks. Fails if its code is not valid, or there is no way back.
fn asking<'a>(world: &'a mut World, form: &Form) -> Result<&'a mut ComponentState, String> {
    let (now, component) = (world.now(), form.field("component_appid"));
    let state = super::find(world, component)?;
    let code = state.pre_auth_codes.get(form.field("pre_auth_code"));
    if code.is_none_or(|expires| now >= *expires) {
        return Err("the pre_auth_code is unknown, used or expired".to_owned());
    }
    let target = form.field("redirect_uri").parse::<Uri>();
    let scheme = target.as_ref().ok().and_then(Uri::scheme_str);
    if !matches!(scheme, Some("http" | "https")) {
        return Err("the redirect_uri must start with http:// or https://".to_owned());
    }
    Ok(state)
}

/// Returns the page with its form.
fn show(world: &mut World, path: &str, form: &Form) -> Result<Reply, String> {
    let sets = asking(world, form)?.settings.permission_sets.clone();
    let mut page = format!("<form method=\"post\" action=\"{}\">", escaped(path));
    for name in ["component_appid", "pre_auth_code", "redirect_uri"] {
        let value = escaped(form.field(name));
        let _ = write!(page, "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">");
    }
    let component = escaped(form.field("component_appid"));
    let only = escaped(form.field("biz_appid"));
    let _ = write!(
        page,
        "<p>The third-party platform {component} asks to act for your account.</p>\n\
         <p><label>Account: <input name=\"app_id\" list=\"accounts\" value=\"{only}\" required>\
         </label></p>\n<datalist id=\"accounts\">"
    );
    for app_id in offered(world, form).take(SUGGESTIONS) {
        let _ = write!(page, "<option value=\"{}\">", escaped(app_id));
    }
    page.push_str("</datalist>\n<p>Permission sets:</p>\n");
    for id in sets {
        let _ = writeln!(
            page,
            "<p><label><input type=\"checkbox\" name=\"permission_set\" value=\"{id}\" checked> \
             {id}</label></p>"
        );
    }
    page.push_str("<p><button>Authorize</button></p>\n</form>");
    Ok(html(StatusCode::OK, &page))
}

/// Returns the accounts that the link offers: all, those of one kind, or one account.
fn offered<'a>(world: &'a World, form: &'a Form) -> impl Iterator<Item = &'a String> {
    let kind = match form.field("auth_type") {
        "1" => Some(AccountKind::Official),
        "2" => Some(AccountKind::MiniProgram),
        _ => None,
    };
    let only = form.field("biz_appid");
    let fits = move |app_id: &str, own| {
        kind.is_none_or(|kind| kind == own) && (only.is_empty() || only == app_id)
    };
    let accounts = world.accounts.iter();
    accounts.filter(move |(id, tenant)| fits(id, tenant.kind)).map(|(id, _)| id)
}

/// Confirms for the merchant, and sends the browser back to the component.
fn confirm(world: &mut World, form: &Form) -> Result<Reply, String> {
    let state = asking(world, form)?;
    let sets = form.permission_sets()?;
    if let Some(set) = sets.iter().find(|set| !state.settings.permission_sets.contains(set)) {
        return Err(format!("the platform does not offer permission set {set}"));
    }
    let app_id = form.field("app_id");
    if !offered(world, form).any(|offered| offered == app_id) {
        return Err(format!("the link does not offer the account {app_id}"));
    }
    let code = form.field("pre_auth_code").to_owned();
    let component = form.field("component_appid");
    let confirmed = authorization::authorize(world, component, app_id, sets, Some(code.clone()))?;
    super::find(world, component)?.pre_auth_codes.remove(&code);
    let answer = form_urlencoded::Serializer::new(String::new())
        .append_pair("auth_code", &confirmed.code)
        .append_pair("expires_in", &confirmed.expires_in.to_string())
        .finish();
    let target = form.field("redirect_uri");
    let separator = if target.contains('?') { '&' } else { '?' };
    let header = Some((header::LOCATION, format!("{target}{separator}{answer}")));
    Ok(Reply { header, ..html(StatusCode::FOUND, "") })
}

fn html(status: StatusCode, content: &str) -> Reply {
    let body = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <title>Authorize a third-party platform (simulated)</title></head>\n\
         <body>\n{content}\n</body>\n</html>\n"
    );
    Reply {
        status,
        content_type: "text/html; charset=utf-8",
        header: None,
        body: Bytes::from(body),
    }
}

/// Returns a text that a browser shows as it is, also inside an attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}
