//! Compiles `proto/` without an installed protoc.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message;
use prost_types::{FieldDescriptorProto, FileDescriptorSet};
use protox::prost_reflect::Kind;

/// The package of the contract.
const PACKAGE: &str = ".wechat.store.v1";
/// Responses that many callers get. They are encoded once.
const ENCODED: [&str; 3] =
    ["ListCategoriesResponse", "ListDistrictsResponse", "WatchAuditEventsResponse"];
/// The one record with a secret code. `src/pb.rs` has its `Debug`, which hides the code.
const WITH_CODE: &str = "internal.platform.v1.AuthorizerRecord";
/// The one message with an access token. `src/pb.rs` has its `Debug`, which hides the token.
const WITH_TOKEN: &str = "wechat.store.v1.GetAccessTokenResponse";

#[expect(clippy::disallowed_methods, reason = "build scripts read the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    build_info()?;
    if env::var("HOST")? == env::var("TARGET")? && has_glibc((2, 36)) {
        // The table of relocations is a hundred times smaller, and less of it is read into memory.
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

    // Reflection serves these with their comments and options. prost would drop the options.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("rpcs.rs"), rpcs(&descriptors, &accesses(&compiler)?))?;
    // Messages and clients first, then the servers. Some of their responses are already encoded.
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .skip_debug([WITH_TOKEN])
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
    records()?;
    health(&out)
}

/// Gives the code the facts about this build: the commit, the target and the compiler.
///
/// The commit is `GIT_COMMIT`, or that of the checkout. A debug build that depended on the checkout would
/// compile everything again after each commit, so it has a commit only by the variable.
#[expect(clippy::disallowed_methods, reason = "build scripts read the environment")]
fn build_info() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=GIT_COMMIT");
    let commit = match env::var("GIT_COMMIT") {
        Ok(commit) if !commit.is_empty() => Some(commit),
        _ if env::var("PROFILE")? == "release" => checked_out(),
        _ => None,
    };
    println!("cargo:rustc-env=BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    println!("cargo:rustc-env=BUILD_TARGET={}", env::var("TARGET")?);
    let compiler = output(Command::new(env::var("RUSTC")?).arg("--version"));
    println!("cargo:rustc-env=BUILD_RUSTC={}", compiler.as_deref().unwrap_or("unknown"));
    Ok(())
}

/// Returns the commit of the checkout, and lets cargo run this again when it changes. Returns `None` if this
/// folder is not the root of a checkout.
fn checked_out() -> Option<String> {
    let git = |arguments: &[&str]| output(Command::new("git").arg("rev-parse").args(arguments));
    // The sources can be a folder in the repository of another project.
    if !git(&["--show-prefix"])?.is_empty() {
        return None;
    }
    // The second file changes with each commit, but it can be missing.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["--git-path", file]).filter(|path| Path::new(path).exists());
        path.into_iter().for_each(|path| println!("cargo:rerun-if-changed={path}"));
    }
    git(&["HEAD"])
}

/// Returns the output of a command, without the end of the line. Returns `None` if it fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Compiles the records that the state stores. They are not a part of the contract, and reflection does
/// not serve them.
fn records() -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true);
    compiler
        .open_files(["internal/journal/v1/record.proto", "internal/platform/v1/record.proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(false)
        .build_server(false)
        .skip_debug([WITH_CODE])
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Compiles the server of gRPC's health protocol, with `List`, which tonic-health does not have. The
/// messages that tonic-health has are taken from there. The protocol is not a part of the contract.
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

/// Returns the access that each RPC needs, such as `Read`, by the RPC's full name.
///
/// Fails if an RPC does not name it.
fn accesses(compiler: &protox::Compiler) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let pool = compiler.descriptor_pool();
    let option = pool.get_extension_by_name("wechat.store.v1.access").ok_or("no access option")?;
    let Kind::Enum(values) = option.kind() else { return Err("access is not an enum".into()) };
    let mut accesses = BTreeMap::new();
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let number = method.options().get_extension(&option).as_enum_number().unwrap_or_default();
        let access = match values.get_value(number).as_ref().map(|value| value.name()) {
            Some("ACCESS_READ") => "Read",
            Some("ACCESS_WRITE") => "Write",
            Some("ACCESS_ADMIN") => "Admin",
            _ => return Err(format!("{} has no option (access)", method.full_name()).into()),
        };
        accesses.insert(method.full_name().to_owned(), access.to_owned());
    }
    Ok(accesses)
}

/// Returns a row for each RPC, which `src/pb.rs` turns into trait implementations: its kind, its access, its
/// path, its name, its request and its response. The fields are named there, so a renamed field is a compile
/// error.
fn rpcs(descriptors: &FileDescriptorSet, accesses: &BTreeMap<String, String>) -> String {
    let local = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let messages = || descriptors.file.iter().flat_map(|file| &file.message_type);
    let has = |message: &str, is: fn(&FieldDescriptorProto) -> bool| {
        messages().any(|one| one.name() == message && one.field.iter().any(is))
    };
    let mut rows = String::from("rpcs! {\n");
    for service in descriptors.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            let (request, response) = (local(method.input_type()), local(method.output_type()));
            let writes = has(&request, |field| field.name() == "request_id");
            let is_reviewed = has(&response, |field| field.type_name().ends_with(".Submission"));
            let kind = match (writes, is_reviewed) {
                (false, _) => "read",
                (true, false) => "write",
                (true, true) => "reviewed",
            };
            let name = format!("{}/{}", service.name(), method.name());
            let package = PACKAGE.trim_start_matches('.');
            let access = &accesses[&format!("{package}.{}.{}", service.name(), method.name())];
            let path = format!("/{package}.{name}");
            rows.push_str(&format!(
                "    {kind} {access} {path:?} {name:?} {request} {response};\n"
            ));
        }
    }
    rows + "}\n"
}

/// Returns whether this machine has this version of glibc, or a later one.
fn has_glibc(wanted: (u32, u32)) -> bool {
    let text = output(Command::new("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_default();
    let version = text.strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let version =
        version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.is_some_and(|version: (u32, u32)| version >= wanted)
}
