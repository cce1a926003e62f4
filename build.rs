//! Compiles `proto/` without an installed protoc.

use std::{env, error::Error, fmt::Write, fs, path::PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

#[expect(clippy::disallowed_methods, reason = "how cargo speaks to scripts")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
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
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

/// Says of every request which account and which write it names, and of every response to a write
/// how it looks where WeChat's was lost.
fn addressed(descriptors: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    let messages = descriptors.file.iter().flat_map(|file| &file.message_type);
    let services = || descriptors.file.iter().flat_map(|file| &file.service);
    for message in messages {
        let name = message.name();
        if message.field.iter().any(|field| field.name() == "settled") {
            writeln!(
                code,
                "impl Settled for {name} {{
                    fn settled() -> Self {{ Self {{ settled: true, ..Self::default() }} }}
                }}"
            )?;
        }
        let method = services().find_map(|service| {
            let takes = format!(".wechat.store.v1.{name}");
            let method = service.method.iter().find(|method| method.input_type() == takes)?;
            Some(format!("{}/{}", service.name(), method.name()))
        });
        let Some(method) = method.filter(|_| name.ends_with("Request")) else { continue };
        let take = |field: &str| {
            let known = message.field.iter().any(|candidate| candidate.name() == field);
            if known {
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
    Ok(code)
}
