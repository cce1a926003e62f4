//! Compiles `proto/` without an installed protoc.

use std::{
    env,
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message;
use prost_types::FileDescriptorSet;

/// What everything in `proto/` belongs to.
const PACKAGE: &str = ".wechat.store.v1";
/// Responses that are the same for many, and so are encoded once.
const ENCODED: [&str; 3] =
    ["ListCategoriesResponse", "ListDistrictsResponse", "WatchAuditEventsResponse"];

#[expect(clippy::disallowed_methods, reason = "how cargo speaks to scripts")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    if env::var("HOST")? == env::var("TARGET")? && has_glibc((2, 36)) {
        // The table of what the loader has to adjust is a hundred times smaller, and so is what of it
        // is read into memory.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    let mut files = fs::read_dir("proto/wechat/store/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.sort();
    compiler.open_files(files)?;
    let descriptors = compiler.file_descriptor_set();

    // Reflection serves these, comments included.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("addressed.rs"), addressed(&descriptors)?)?;
    // Messages and clients; then the servers, some of whose responses are encoded already.
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .compile_fds(descriptors.clone())?;
    let servers = out.join("servers");
    fs::create_dir_all(&servers)?;
    let mut build = tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::util::codec::Codec")
        .extern_path(PACKAGE, "crate::pb")
        .out_dir(servers);
    for name in ENCODED {
        let encoded = format!("crate::util::codec::Encoded<crate::pb::{name}>");
        build = build.extern_path(format!("{PACKAGE}.{name}"), encoded);
    }
    build.compile_fds(descriptors)?;
    journal()?;
    health(&out)
}

/// Compiles the messages that the journal stores. They are no part of the contract, and reflection does
/// not serve them.
fn journal() -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("internal/journal/v1/record.proto")?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(false)
        .build_server(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The server of gRPC's own health protocol, with `List`, which tonic-health lacks; what tonic-health has
/// is taken from there. It is no part of the contract.
fn health(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.open_file("grpc/health/v1/health.proto")?;
    let descriptors = compiler.file_descriptor_set();
    fs::write(out.join("health.bin"), descriptors.encode_to_vec())?;
    let mut build = tonic_prost_build::configure();
    for name in ["HealthCheckRequest", "HealthCheckResponse"] {
        build = build
            .extern_path(format!(".grpc.health.v1.{name}"), format!("::tonic_health::pb::{name}"));
    }
    build.compile_fds(descriptors)?;
    Ok(())
}

/// Says of every request which account and which write it names, and of every response to a write
/// how it looks where WeChat's was lost.
fn addressed(descriptors: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let (mut code, mut recovered) = (String::new(), String::new());
    let messages = descriptors.file.iter().flat_map(|file| &file.message_type);
    let services = || descriptors.file.iter().flat_map(|file| &file.service);
    for message in messages {
        let name = message.name();
        let has = |field: &str| message.field.iter().any(|candidate| candidate.name() == field);
        if has("recovered") {
            let poi_id = if has("submission") && has("nearby_poi_id") {
                "if let Some(submission) = &submission { self.nearby_poi_id.clone_from(&submission.nearby_poi_id); }"
            } else {
                ""
            };
            let submission = match has("submission") {
                true => "self.submission = submission;",
                false => "let _ = submission;",
            };
            writeln!(
                code,
                "impl Recovered for {name} {{
                    fn recover(&mut self, submission: Option<Submission>) {{
                        {poi_id}
                        {submission}
                        self.recovered = true;
                    }}
                }}"
            )?;
            let method = services().find_map(|service| {
                let answers = format!(".wechat.store.v1.{name}");
                let method =
                    service.method.iter().find(|method| method.output_type() == answers)?;
                Some(format!("{}/{}", service.name(), method.name()))
            });
            let method = method.unwrap_or_default();
            writeln!(recovered, "{method:?} => by_type::<{name}>(response, submission),")?;
        }
        let method = services().find_map(|service| {
            let takes = format!(".wechat.store.v1.{name}");
            let method = service.method.iter().find(|method| method.input_type() == takes)?;
            Some(format!("{}/{}", service.name(), method.name()))
        });
        let Some(method) = method.filter(|_| name.ends_with("Request")) else { continue };
        let take = |field: &str| {
            if has(field) {
                format!("std::mem::take(&mut self.{field})")
            } else {
                "String::new()".into()
            }
        };
        writeln!(
            code,
            "impl Addressed for {name} {{
                const METHOD: &'static str = {method:?};
                fn take_app_id(&mut self) -> String {{ {} }}
                fn take_request_id(&mut self) -> String {{ {} }}
                fn take_client_reference(&mut self) -> String {{ {} }}
            }}",
            take("app_id"),
            take("request_id"),
            take("client_reference"),
        )?;
    }
    writeln!(
        code,
        "/// The response to a write of this method, encoded, as [`Recovered::settle`] makes it from
        /// an encoded one that may be empty. `None` if it writes nothing.
        ///
        /// Fails where it is no such response.
        pub fn recovered(
            method: &str,
            response: &[u8],
            submission: Option<Submission>,
        ) -> Result<Option<Vec<u8>>, prost::DecodeError> {{
            fn by_type<R: Recovered>(
                response: &[u8],
                submission: Option<Submission>,
            ) -> Result<Option<Vec<u8>>, prost::DecodeError> {{
                let mut response = R::decode(response)?;
                response.recover(submission);
                Ok(Some(response.encode_to_vec()))
            }}
            match method {{
                {recovered}
                _ => Ok(None),
            }}
        }}"
    )?;
    Ok(code)
}

/// Whether this machine has this version of glibc, or a later one.
fn has_glibc(wanted: (u32, u32)) -> bool {
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let version =
        version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.is_some_and(|version: (u32, u32)| version >= wanted)
}
