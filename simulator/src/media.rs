//! Uploads: temporary media, which have ids, and pictures, which have addresses.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    endpoint::{Bearer, Call, Endpoint, Part},
    error::Refusal,
    world::World,
};

/// Temporary media expire after this time.
const LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// A field accepts at most this many media ids.
const LIST_LIMIT: usize = 5;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::upload("/cgi-bin/media/upload", Bearer::Anyone, upload)
        .permission_sets(&[1, 3, 8, 9, 11, 19, 30, 31, 100]),
    Endpoint::upload("/cgi-bin/media/uploadimg", Bearer::Anyone, upload_image)
        .permission_sets(&[1, 8, 9, 11, 18, 37, 100]),
];

/// A temporary file.
#[derive(Debug)]
pub(super) struct Media {
    expires: Instant,
}

/// `POST /cgi-bin/media/upload` — 新增临时素材
///
/// The page limits images to 2 MB in one place and to 10 MB in another. Here the limit is 10 MB.
/// The reply has no errcode. For a thumb, its id is called `thumb_media_id`.
fn upload(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let kind = call.query.get("type").map_or("", String::as_str);
    let (limit, endings): (usize, &[&str]) = match kind {
        "image" => (10 * MIB, &["png", "jpg", "jpeg", "gif"]),
        "thumb" => (64 * KIB, &["jpg", "jpeg"]),
        "voice" => (2 * MIB, &["amr", "mp3"]),
        "video" => (10 * MIB, &["mp4"]),
        _ => return Err(Refusal::new(40004)),
    };
    let part = part(call)?;
    let name = part.file_name.as_deref().unwrap_or_default().to_ascii_lowercase();
    let (_, ending) = name.rsplit_once('.').ok_or(Refusal::new(40005))?;
    let is_image = matches!(kind, "image" | "thumb");
    if !endings.contains(&ending) || is_image && image_kind(&part.bytes).is_none() {
        return Err(Refusal::new(40005));
    }
    if part.bytes.len() > limit {
        return Err(Refusal::new(40006));
    }
    let media_id = world.mint.text("media_id", 64);
    let (expires, created_at) = (world.now() + LIFE, world.clock.unix());
    world.tenant(&call.app_id)?.media.insert(media_id.clone(), Media { expires });
    let id_field = if kind == "thumb" { "thumb_media_id" } else { "media_id" };
    Ok(json!({ "type": kind, id_field: media_id, "created_at": created_at }))
}

/// `POST /cgi-bin/media/uploadimg` — 上传图文消息内的图片获取URL
///
/// Accepts jpg and png below 1 MB. The reply is an address with plain http, without errcode.
fn upload_image(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let part = part(call)?;
    let kind = match image_kind(&part.bytes) {
        Some("gif") | None => return Err(Refusal::new(40005)),
        Some(kind) => kind,
    };
    if part.bytes.len() >= MIB {
        return Err(Refusal::new(40009));
    }
    let id = world.mint.text("picture", 86);
    let suffix = if kind == "png" { "png" } else { "jpg" };
    let url = format!("http://mmbiz.qpic.cn/mmbiz_{suffix}/{id}/0?wx_fmt={kind}");
    Ok(json!({ "url": url }))
}

fn part(call: &Call) -> Result<&Part, Refusal> {
    let part = call.part.as_ref().filter(|part| part.name == "media" && part.file_name.is_some());
    match part.ok_or(Refusal::new(41005))? {
        part if part.bytes.is_empty() => Err(Refusal::new(44001)),
        part => Ok(part),
    }
}

/// Returns the type of a picture by its first bytes.
fn image_kind(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 3] =
        [(b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif")];
    kinds.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind)
}

/// Checks a field of media ids, joined by `|`: at most five, each uploaded by this account and not
/// expired. An empty field is valid.
pub(super) fn check_list(world: &World, app_id: &str, ids: &str) -> Result<(), Refusal> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = ids.split('|').collect();
    if ids.len() > LIST_LIMIT {
        return Err(Refusal::new(40097));
    }
    let known = |id: &&str| {
        let media = world.accounts.get(app_id).and_then(|tenant| tenant.media.get(*id));
        media.is_some_and(|media| world.now() < media.expires)
    };
    if ids.iter().all(known) { Ok(()) } else { Err(Refusal::new(85056)) }
}
