//! The bearer token that each call carries.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

use crate::util::{id::Secret, lock};

/// The name of the metadata that carries the token.
pub(in crate::cli) const AUTHORIZATION: &str = "authorization";

/// The place of the token.
#[derive(Clone, Debug)]
pub(super) enum TokenSource {
    None,
    Environment(Secret),
    File(PathBuf),
}

/// Adds the token to each call.
///
/// A file is read for each call, so a command that runs for hours uses a replaced token. If the file
/// cannot be read, the last token stays, because a file is empty for a moment while it is written.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Bearer {
    file: Option<PathBuf>,
    last: Arc<Mutex<Option<AsciiMetadataValue>>>,
}

impl Bearer {
    /// Reads the token. Fails if there is none at its place.
    pub(super) fn new(source: TokenSource) -> Result<Self, String> {
        let (file, last) = match source {
            TokenSource::None => (None, None),
            TokenSource::Environment(token) => {
                let value = header(token.expose());
                (None, Some(value.map_err(|problem| format!("{}: {problem}", super::TOKEN))?))
            }
            TokenSource::File(file) => {
                let value = read(&file);
                let wrong = |problem| format!("--token-file: {}: {problem}", file.display());
                let value = value.map_err(wrong)?;
                (Some(file), Some(value))
            }
        };
        Ok(Self { file, last: Arc::new(Mutex::new(last)) })
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let mut last = lock(&self.last);
        if let Some(value) = self.file.as_ref().and_then(|file| read(file).ok()) {
            *last = Some(value);
        }
        if let Some(value) = &*last {
            request.metadata_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok(request)
    }
}

fn read(file: &Path) -> Result<AsciiMetadataValue, String> {
    Ok(header(&fs::read_to_string(file).map_err(|error| error.to_string())?)?)
}

/// Returns the header with a token. An error does not quote the token.
fn header(token: &str) -> Result<AsciiMetadataValue, &'static str> {
    let token = token.trim();
    if token.is_empty() {
        return Err("there is no token in it");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("not a bearer token; must be one line of visible ASCII without spaces");
    }
    let value = format!("Bearer {token}").parse::<AsciiMetadataValue>();
    let mut value = value.map_err(|_| "not a bearer token")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(bearer: &mut Bearer) -> String {
        let request = bearer.call(Request::new(())).expect("a request");
        let value = request.metadata().get(AUTHORIZATION).expect("a token");
        value.to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn replaced_file_is_used_by_the_next_call() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        fs::write(&file, "first\n").expect("a file");
        let mut bearer = Bearer::new(TokenSource::File(file.clone())).expect("a token");
        let mut other = bearer.clone();
        assert_eq!(sent(&mut bearer), "Bearer first");
        fs::write(&file, "second\n").expect("a file");
        assert_eq!(sent(&mut bearer), "Bearer second");
        // While the file is written, and while it is replaced.
        fs::write(&file, "").expect("a file");
        assert_eq!(sent(&mut bearer), "Bearer second");
        fs::remove_file(&file).expect("it was there");
        assert_eq!(sent(&mut other), "Bearer second");
    }

    #[test]
    fn wrong_token_is_refused_without_quoting_it() {
        for (text, expected) in
            [("", "no token"), (" \n", "no token"), ("hush hush", "one line"), ("密", "one line")]
        {
            let source = TokenSource::Environment(text.to_owned().into());
            let problem = Bearer::new(source).expect_err(text);
            assert!(problem.contains(expected) && !problem.contains("hush"), "{problem}");
        }
        let missing = Bearer::new(TokenSource::File("/no/such".into())).expect_err("no file");
        assert!(missing.starts_with("--token-file: /no/such: "), "{missing}");
    }
}
