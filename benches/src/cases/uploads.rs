//! Pictures, which are large requests.

use bytes::{Bytes, BytesMut};
use wechat_store_gateway::pb;

use crate::{
    cases::reads::{Cast, compare_all},
    floor::UPLOAD,
    load::Shape,
    rounds::{Bound, GATEWAY, Report, TWIN},
    world::World,
};

const SHAPE: Shape = Shape::new(4, 1);
/// The beginning of a PNG file.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";

/// The end of a PNG file.
const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// Measures uploads that are as large as most pictures, and as large as possible.
pub async fn uploads(world: &World) -> anyhow::Result<Report> {
    let cast = Cast::start(world).await?;
    let proxy = world.proxy(&cast.upstream).await?;
    let [first, second] = &cast.gateways;
    let servers = [
        (GATEWAY, first.process.pid(), first.grpc.into()),
        (TWIN, second.process.pid(), second.grpc.into()),
        ("(b)", proxy.process.pid(), proxy.address.into()),
    ];
    let mut report = Report::new("uploads: UploadTemporaryImage, passed on");
    for mebibytes in [1, 10] {
        let request = pb::UploadTemporaryImageRequest {
            content: picture(mebibytes << 20),
            ..Default::default()
        };
        let (measured, _) =
            compare_all(world, &cast.upstream, UPLOAD, &request, SHAPE, &servers).await?;
        report.say(&format!("{mebibytes} MiB, 4 at a time."));
        report.samples(&measured);
        report.claims(&[
            measured.ratio(GATEWAY, "(b)", "CPU", |sample| sample.cpu, Bound::AtMost(1.15)),
            measured.ratio(GATEWAY, "(b)", "MB", |sample| sample.memory, Bound::Told),
        ]);
    }
    Ok(report)
}

fn picture(length: usize) -> Bytes {
    let mut picture = BytesMut::zeroed(length);
    picture[..PNG.len()].copy_from_slice(PNG);
    picture[length - END.len()..].copy_from_slice(END);
    picture.freeze()
}
