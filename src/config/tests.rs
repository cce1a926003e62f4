use super::*;

const GOOD: &str = r#"
[listen]
grpc = "127.0.0.1:6000"

[wechat]
hosts = ["http://127.0.0.1:8090"]

[[accounts]]
app_id = "wx0000000000000001"
kind = "official"
default = true
secret = { env = "BRAND_A" }

[[accounts]]
app_id = "wx0000000000000002"
kind = "mini_program"
secret = "literal-secret"
token = "classic"
"#;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn errors(file: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    let errors = Settings::parse(file, &environment(pairs)).expect_err(file);
    errors.iter().map(ToString::to_string).collect()
}

fn secret_of(account: &Account) -> String {
    let secret = account.secret.as_ref().expect("a secret").read();
    secret.expect("in the environment").expose().to_owned()
}

#[test]
fn environment_overrides_file() {
    let environment = environment(&[
        ("BRAND_A", "hush"),
        ("WECHAT_STORE_GATEWAY__LISTEN__GRPC", "127.0.0.1:6001"),
        ("WECHAT_STORE_GATEWAY__LIMITS__DRAIN_MS", "7"),
    ]);
    let settings = Settings::parse(GOOD, &environment).expect("good settings");
    assert_eq!(settings.listen.grpc.port(), 6001);
    assert_eq!(settings.limits.drain_ms, 7);
    assert_eq!(secret_of(&settings.accounts[0]), "hush");
    assert_eq!(settings.accounts[1].token, TokenKind::Classic);
}

#[test]
fn token_sources_need_no_secret_and_print_none() {
    for (token, printed) in [
        ("\"cloudbase\"", "cloudbase = \"/.tencentcloudbase/wx/cloudbase_access_token\""),
        ("{ cloudbase = \"/a\" }", "cloudbase = \"/a\""),
        ("\"open_interface\"", "token = \"open_interface\""),
        ("{ file = \"/a\", field = \"t\" }", "file = \"/a\"\nfield = \"t\""),
        ("{ url = \"https://a/hush?k=hush\", header = \"X-Key: hush\" }", "https://a [hidden]"),
        ("{ url = \"http://127.0.0.1:1/t\" }", "http://127.0.0.1:1 [hidden]"),
        ("{ redis_key = \"k\", url = \"redis://:hush@a\" }", "redis_key = \"k\""),
    ] {
        let file = with_token(token).replace("\"official\"", "\"mini_program\"");
        let settings = Settings::parse(&file, &Environment::new());
        let settings = settings.unwrap_or_else(|errors| panic!("{token}: {errors:?}"));
        assert!(settings.accounts[0].secret.is_none());
        let text = toml::to_string(&settings).expect("settings print");
        assert!(text.contains(printed), "{token}: {text}");
        assert!(!text.contains("hush") && !format!("{settings:?}").contains("hush"), "{token}");
    }
    let plain = format!("[wechat]\nhosts = [\"http://api.weixin.qq.com\"]\n{}", in_cloud(""));
    Settings::parse(&plain, &Environment::new()).expect("no token can be exposed");
}

#[test]
fn two_variables_make_one_default_account() {
    let variables = [("WECHAT_APP_ID", "wx0123456789abcdef"), ("WECHAT_APP_SECRET", "hush")];
    let settings = Settings::parse("", &environment(&variables)).expect("enough");
    let [account] = &settings.accounts[..] else { panic!("one account") };
    assert!(account.default);
    assert_eq!(account.kind, AccountKind::Official);
}

#[test]
fn all_errors_are_returned_with_their_keys() {
    let file = r#"
        [listen]
        grpc = "0.0.0.0:50051"
        grcp = 1
        [wechat]
        hosts = ["https://a", "http://api.weixin.qq.com/wxa"]
        proxy = "proxy:3128"
        ca_file = "/no/such"
        [limits]
        drain_ms = "long"
        default_deadline_ms = 0
        connections = 0
        callback_connections_per_address = 100001
        calls = 1
        unfinished_requests = 0
        request_memory_mib = 31
        request_silence_ms = 99
        connection_age_ms = 999
        keepalive_timeout_ms = 0
        message_kib = 4097
        [[accounts]]
        kind = "shop"
        secret = { env = "NOT_SET" }
        [[accounts]]
        app_id = "nonsense"
        kind = "official"
        secret = 7
        [extra]
    "#;
    let found = errors(file, &[]);
    for key in [
        "listen.grpc:",
        "listen.grcp:",
        "wechat.hosts[1]:",
        "wechat.proxy:",
        "wechat.ca_file: /no/such: ",
        "limits.drain_ms:",
        "limits.default_deadline_ms:",
        "limits.connections:",
        "limits.callback_connections_per_address:",
        "limits.calls:",
        "limits.unfinished_requests:",
        "limits.request_memory_mib:",
        "limits.request_silence_ms:",
        "limits.connection_age_ms:",
        "limits.keepalive_timeout_ms:",
        "limits.message_kib:",
        "accounts[0].app_id:",
        "accounts[0].kind:",
        "accounts[0].secret: environment variable NOT_SET is not set",
        "accounts[1].app_id:",
        "accounts[1].secret:",
        "extra:",
    ] {
        assert!(found.iter().any(|error| error.starts_with(key)), "{key} in {found:#?}");
    }
}

const ACCOUNT: &str =
    "[[accounts]]\napp_id = \"wx0000000000000001\"\nkind = \"official\"\nsecret = \"s\"\n";

/// Returns an account in cloud hosting with further keys.
fn in_cloud(more: &str) -> String {
    format!(
        "[[accounts]]\napp_id = \"wx0000000000000002\"\nkind = \"mini_program\"\n\
         token = \"open_interface\"\n{more}\n"
    )
}

/// Returns an account with these tokens and no secret.
fn with_token(token: &str) -> String {
    ACCOUNT.replace("secret = \"s\"", &format!("token = {token}"))
}

const CALLER: &str = "[[callers]]\nname = \"a\"\nrole = \"reader\"\n";

#[test]
fn broken_rule_returns_exactly_its_error() {
    let id = "app_id = \"wx0000000000000001\"";
    let (kind, secret) = ("kind = \"official\"", "secret = \"s\"");
    for (file, error) in [
        (
            format!("callers = \"anyone\"\n[listen]\ngrpc = \"0.0.0.0:1\"\n{ACCOUNT}"),
            "listen.grpc: a non-loopback address would expose plaintext gRPC",
        ),
        (
            format!("callers = \"anyone\"\n[token_service]\nenabled = true\n{ACCOUNT}"),
            "token_service.enabled: would give the access tokens to anyone",
        ),
        (
            format!("[listen]\ngrpc = \"0.0.0.0:1\"\nplaintext = \"behind-a-mesh\"\n{ACCOUNT}"),
            "callers: missing; on a non-loopback address",
        ),
        (
            format!("[listen]\nplaintext = \"behind-a-mesh\"\n{ACCOUNT}"),
            "callers: missing; behind a mesh or a proxy (listen.plaintext), also on a loopback",
        ),
        (
            format!(
                "callers = \"anyone\"\n[listen]\nplaintext = \"behind-a-mesh\"\n\
                 mesh_identity_header = \"l5d-client-id\"\n{ACCOUNT}"
            ),
            "listen.mesh_identity_header: identifies no caller",
        ),
        (format!("callers = \"any\"\n{ACCOUNT}"), "callers: must be \"anyone\""),
        (format!("{ACCOUNT}{CALLER}tokens = [\"12\"]"), "callers[0].tokens[0]: not a SHA-256"),
        (
            format!("{ACCOUNT}{CALLER}tokens = \"wsg_\\\", expected\""),
            "callers[0].tokens: invalid type: string \"…\", expected a sequence",
        ),
        (format!("{ACCOUNT}{CALLER}"), "callers[0].tokens: this caller cannot prove"),
        (
            format!("{ACCOUNT}{CALLER}token = \"a\"\ncertificates = [\"a\"]"),
            "callers[0].token: unknown field",
        ),
        (
            format!("{ACCOUNT}{CALLER}certificates = [\"*.a\"]"),
            "callers[0].certificates[0]: must be a URI",
        ),
        (
            format!(
                "{ACCOUNT}[[callers]]\nname = \"a b\"\nrole = \"reader\"\ncertificates = [\"a\"]"
            ),
            "callers[0].name: must be 1 to 64 characters",
        ),
        (
            format!("{ACCOUNT}[[callers]]\nname = \"a\"\ncertificates = [\"a\"]"),
            "callers[0].role: missing",
        ),
        (
            format!("{ACCOUNT}{CALLER}certificates = [\"a\"]\nroles = {{ wx1 = \"admin\" }}"),
            "callers[0].roles.wx1: not an AppID",
        ),
        (
            format!(
                "{ACCOUNT}{CALLER}certificates = [\"a\"]\nroles = {{ wx00000000000000ff = \"admin\" }}"
            ),
            "callers[0].roles.wx00000000000000ff: no [[accounts]] section",
        ),
        (
            format!("{ACCOUNT}{CALLER}certificates = [\"a\"]\n{CALLER}certificates = [\"b\"]"),
            "callers[1].name: duplicate name a",
        ),
        (
            format!(
                "{ACCOUNT}{CALLER}certificates = [\"a\"]\n[[callers]]\nname = \"b\"\nrole = \"reader\"\n\
                 certificates = [\"a\"]"
            ),
            "callers[1].certificates[0]: another caller",
        ),
        (
            format!("[wechat]\nhosts = [\"weixin\"]\n{ACCOUNT}"),
            "wechat.hosts[0]: \"weixin\" is not a URL",
        ),
        (
            format!("[wechat]\nhosts = [\"https://a/wxa\"]\n{ACCOUNT}"),
            "wechat.hosts[0]: must have only a scheme",
        ),
        (
            format!("[wechat]\nhosts = [\"https://a?b=c\"]\n{ACCOUNT}"),
            "wechat.hosts[0]: must have only a scheme",
        ),
        (
            format!("[wechat]\nhosts = [\"https://b@a\"]\n{ACCOUNT}"),
            "wechat.hosts[0]: must have only a scheme",
        ),
        (
            format!("[wechat]\nhosts = [\"http://a\"]\n{ACCOUNT}"),
            "wechat.hosts[0]: plain HTTP would expose access tokens",
        ),
        (format!("[wechat]\nhosts = [\"ftp://a\"]\n{ACCOUNT}"), "wechat.hosts[0]: the scheme"),
        (
            format!("[wechat]\nhosts = [\"http://api.weixin.qq.com\"]\n{ACCOUNT}{}", in_cloud("")),
            "wechat.hosts[0]: plain HTTP would expose access tokens",
        ),
        (in_cloud("secret = \"s\""), "accounts[0].secret: has no use with this token"),
        (in_cloud("").replace("mini_program", "official"), "accounts[0].token: needs kind"),
        (in_cloud("force_refresh = true"), "accounts[0].force_refresh: has no effect here"),
        (
            in_cloud("callback = { mode = \"cloud\" }"),
            "accounts[0].callback.public_route_closed: must be true",
        ),
        (
            in_cloud(
                "callback = { mode = \"cloud\", public_route_closed = true, token = \"abc\" }",
            ),
            "accounts[0].callback.token: has no use with mode = \"cloud\"",
        ),
        (
            in_cloud(
                "callback = { mode = \"plain\", public_route_closed = true, token = \"abc\" }",
            ),
            "accounts[0].callback.public_route_closed: is only for mode",
        ),
        (
            with_token("{ cloudbase = \"a\" }").replace("official", "mini_program"),
            "accounts[0].token.cloudbase: must be an absolute path",
        ),
        (with_token("{ file = \"a\" }"), "accounts[0].token.file: must be an absolute path"),
        (with_token("\"new\""), "accounts[0].token: must be \"stable\""),
        (with_token("{ path = \"/a\" }"), "accounts[0].token: must be \"stable\""),
        (with_token("{ field = \"a\" }"), "accounts[0].token: must name one place"),
        (with_token("{ redis_key = \"a\" }"), "accounts[0].token: must name one place"),
        (
            with_token("{ file = \"/a\", url = \"https://a\" }"),
            "accounts[0].token: must name one place",
        ),
        (
            with_token("{ file = \"/a\", header = \"a: b\" }"),
            "accounts[0].token: header is only for the url",
        ),
        (with_token("{ file = \"/a\", ca = \"/b\" }"), "accounts[0].token: ca is only for the url"),
        (
            with_token("{ redis_key = \"a\", url = \"redis://a\", ca = \"/b\" }"),
            "accounts[0].token.ca: ",
        ),
        (with_token("{ file = \"/a\", field = \"\" }"), "accounts[0].token.field: must be"),
        (with_token("{ url = \"http://a/t\" }"), "accounts[0].token.url: must begin with https"),
        (with_token("{ url = \"ftp://a/t\" }"), "accounts[0].token.url: must begin with https"),
        (with_token("{ url = \"a\" }"), "accounts[0].token.url: not a URL"),
        (
            with_token("{ url = \"https://name:word@a/t\" }"),
            "accounts[0].token.url: must have no user name",
        ),
        (
            with_token("{ url = \"https://a/t\", header = \"word\" }"),
            "accounts[0].token.header: not a header",
        ),
        (
            with_token("{ url = \"https://a/t\", ca = \"/no/such\" }"),
            "accounts[0].token.ca: /no/such: ",
        ),
        (
            with_token("{ redis_key = \"\", url = \"redis://a\" }"),
            "accounts[0].token.redis_key: empty",
        ),
        (
            with_token("{ redis_key = \"a\", url = \"https://a\" }"),
            "accounts[0].token.url: not the URL of a Redis",
        ),
        (
            format!("[limits]\ndefault_deadline_ms = 0\n{ACCOUNT}"),
            "limits.default_deadline_ms: must be between 1 and",
        ),
        (
            format!("[limits]\nmax_deadline_ms = 14999\n{ACCOUNT}"),
            "limits.default_deadline_ms: must be between 1 and limits.max_deadline_ms (14999), but is 15000",
        ),
        (
            format!("[limits]\nmax_deadline_ms = 3600001\n{ACCOUNT}"),
            "limits.max_deadline_ms: must be at most 3600000",
        ),
        (
            format!("[limits]\naccount_concurrency = 0\n{ACCOUNT}"),
            "limits.account_concurrency: must be between 1",
        ),
        (
            format!("[limits]\naccount_concurrency = 10001\n{ACCOUNT}"),
            "limits.account_concurrency: must be between 1 and 10000, but is 10001",
        ),
        (
            format!("[limits]\nwatches_per_connection = 0\n{ACCOUNT}"),
            "limits.watches_per_connection: must be between 1 and 1000000, but is 0",
        ),
        (
            format!("[limits]\nwatches_per_address = 0\n{ACCOUNT}"),
            "limits.watches_per_address: must be between 1 and 1000000, but is 0",
        ),
        (format!("[wechat]\nhosts = []\n{ACCOUNT}"), "wechat.hosts: empty"),
        (
            format!("[wechat]\nhosts = [\"https://a\", 7]\n{ACCOUNT}"),
            "wechat.hosts[1]: invalid type",
        ),
        (format!("[wechat]\nca_file = 7\n{ACCOUNT}"), "wechat.ca_file: invalid type"),
        (format!("[wechat]\nhost = \"https://a\"\n{ACCOUNT}"), "wechat.host: unknown field"),
        (format!("{ACCOUNT}[extra]"), "extra: unknown section"),
        (
            format!("[accounts]\n{id}\n{kind}\n{secret}"),
            "accounts: not a list of sections; write it as [[accounts]]",
        ),
        (format!("[[accounts]]\n{kind}\n{secret}"), "accounts[0].app_id: missing"),
        (
            format!("[[accounts]]\napp_id = \"wx1\"\n{kind}\n{secret}"),
            "accounts[0].app_id: not an AppID",
        ),
        (format!("[[accounts]]\n{id}\n{secret}"), "accounts[0].kind: missing"),
        (
            format!("[[accounts]]\n{id}\nkind = \"shop\"\n{secret}"),
            "accounts[0].kind: unknown variant",
        ),
        (format!("[[accounts]]\n{id}\n{kind}"), "accounts[0].secret: missing"),
        (
            format!("[[accounts]]\n{id}\n{kind}\nsecret = \" \""),
            "accounts[0].secret: the secret is empty",
        ),
        (
            format!("[[accounts]]\n{id}\n{kind}\nsecret = {{ file = \"/no/such\" }}"),
            "accounts[0].secret: /no/such: ",
        ),
        (
            format!("[[accounts]]\n{id}\n{kind}\nsecret = \"…\""),
            "accounts[0].secret: the secret is a placeholder; set the real secret",
        ),
        (
            format!("[[accounts]]\n{id}\n{kind}\nsecret = \"[hidden]\""),
            "accounts[0].secret: the secret is a placeholder",
        ),
        (
            format!("{ACCOUNT}callback = {{ token = \"a!\", mode = \"plain\" }}"),
            "accounts[0].callback.token: not a Token of WeChat; must be 3 to 32",
        ),
        (
            format!("[listen]\nadmin = \"localhost:1\"\n{ACCOUNT}"),
            "listen.admin: must be an IP address and a port, such as 127.0.0.1:50051",
        ),
        (
            format!("{ACCOUNT}token = \"classic\"\nforce_refresh = true"),
            "accounts[0].force_refresh: has no effect here; it requires token",
        ),
    ] {
        let found = errors(&file, &[]);
        assert!(found.len() == 1 && found[0].starts_with(error), "{found:?} in {file}");
    }
}

#[test]
fn broken_environment_rule_returns_its_error() {
    let account = ("WECHAT_APP_ID", "wx0000000000000001");
    let secret = ("WECHAT_APP_SECRET", "s");
    for (variables, error) in [
        (&[account][..], "accounts[0].secret: environment variable WECHAT_APP_SECRET is not set"),
        (
            &[account, secret, ("WECHAT_ACCOUNT_KIND", "shop")],
            "WECHAT_ACCOUNT_KIND: unknown kind; must be",
        ),
        (
            &[account, secret, ("WECHAT_STORE_GATEWAY__LISTEN", "x")],
            "WECHAT_STORE_GATEWAY__LISTEN: names a section without a key",
        ),
        (
            &[account, secret, ("WECHAT_STORE_GATEWAY__LISTEN__GRCP", "x")],
            "WECHAT_STORE_GATEWAY__LISTEN__GRCP: unknown field",
        ),
        (
            &[account, secret, ("WECHAT_STORE_GATEWAY__LIMIT__CALLS", "9")],
            "WECHAT_STORE_GATEWAY__LIMIT__CALLS: unknown section limit; the sections are",
        ),
        (
            &[account, secret, ("WECHAT_STORE_GATEWAY__LISTEN__GRPC", "localhost:1")],
            "WECHAT_STORE_GATEWAY__LISTEN__GRPC: must be an IP address and a port",
        ),
        (
            &[account, secret, ("WECHAT_STORE_GATEWAY__LIMITS__CALLS", "1")],
            "WECHAT_STORE_GATEWAY__LIMITS__CALLS: must be between 2",
        ),
        (
            &[account, secret, ("WECHAT_STORE_GATEWAY__WECHAT__HOSTS", "[\"weixin\"]")],
            "WECHAT_STORE_GATEWAY__WECHAT__HOSTS: \"weixin\" is not a URL",
        ),
        (&[("WECHAT_APP_ID", "wx1"), secret], "WECHAT_APP_ID: not an AppID"),
        (
            &[account, ("WECHAT_APP_SECRET", "…")],
            "accounts[0].secret: environment variable WECHAT_APP_SECRET is a placeholder",
        ),
    ] {
        let found = errors("", variables);
        assert!(found.len() == 1 && found[0].starts_with(error), "{found:?}");
    }
    let found = errors(ACCOUNT, &[("WECHAT_STORE_GATEWAY__ACCOUNTS__SECRET", "x")]);
    let error = "WECHAT_STORE_GATEWAY__ACCOUNTS__SECRET: cannot override a list";
    assert!(found.len() == 1 && found[0].starts_with(error), "{found:?}");
    let callers = format!("{ACCOUNT}{CALLER}certificates = [\"a\"]");
    let found = errors(&callers, &[("WECHAT_STORE_GATEWAY__CALLERS", "anyone")]);
    let error = "WECHAT_STORE_GATEWAY__CALLERS: contradicts callers in the file";
    assert!(found.len() == 1 && found[0].starts_with(error), "{found:?}");
}

#[test]
fn allowed_settings_are_accepted() {
    for file in [
        "callers = \"anyone\"\n[listen]\ngrpc = \"0.0.0.0:1\"\nplaintext = \"behind-a-mesh\"\n",
        "[listen]\ngrpc = \"[::1]:1\"\n",
        "[wechat]\nhosts = [\"http://localhost:8090\"]\n",
        "[wechat]\nhosts = [\"http://[::1]:8090/\"]\n",
        "[wechat]\nhosts = [\"http://api.weixin.qq.com\"]\nallow_http = true\n",
        "[limits]\ndefault_deadline_ms = 3600000\nmax_deadline_ms = 3600000\n",
        "",
    ] {
        let read = Settings::parse(&format!("{file}{ACCOUNT}"), &Environment::new());
        assert!(read.is_ok(), "{file}: {read:?}");
    }
    let variables = [
        ("WECHAT_APP_ID", "wx0123456789abcdef"),
        ("WECHAT_APP_SECRET", "hush"),
        ("WECHAT_ACCOUNT_KIND", "mini_program"),
    ];
    let settings = Settings::parse("", &environment(&variables)).expect("good settings");
    assert_eq!(settings.accounts[0].kind, AccountKind::MiniProgram);
}

#[test]
fn duplicate_account_or_default_is_an_error() {
    let account = "[[accounts]]\napp_id = \"wx0000000000000001\"\nkind = \"official\"\n\
                   default = true\nsecret = \"s\"\n";
    let found = errors(&account.repeat(2), &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn one_error_hides_no_other() {
    let account = "[[accounts]]\napp_id = \"nonsense\"\nkind = \"official\"\ndefault = true\n";
    let callback = "[accounts.callback]\ntoken = \"a!\"\nmode = \"open\"\naes_key = \"short\"\nkept = []\n\
                    forward_to = [{ url = \"http://a\" }, { url = \"http://b\", since = [] }]\n";
    let found = errors(&format!("{account}{account}{callback}"), &[]);
    let keys = found.iter().filter_map(|error| error.split(": ").next()).collect::<Vec<_>>();
    for key in [
        "accounts[0].app_id",
        "accounts[0].secret",
        "accounts[1].app_id",
        "accounts[1].secret",
        "accounts[1].default",
        "accounts[1].callback.token",
        "accounts[1].callback.mode",
        "accounts[1].callback.aes_key",
        "accounts[1].callback.kept",
        "accounts[1].callback.forward_to[1].since",
    ] {
        assert!(keys.contains(&key), "{key} in {found:#?}");
    }
    assert_eq!(keys.len(), 10, "{found:#?}");
}

#[test]
fn printed_secret_names_its_source() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    std::fs::write(&path, "hush").expect("a file");
    let file = format!("secret = {{ file = {path:?} }}\n");
    for (secret, variables, printed) in [
        ("secret = { env = \"S\" }\n", &[("S", "hush")][..], "[accounts.secret]\nenv = \"S\"\n"),
        ("secret = \"hush\"\n", &[], "secret = \"[hidden]\"\n"),
        (&file, &[], &format!("[accounts.secret]\nfile = {path:?}\n")),
    ] {
        let text = ACCOUNT.replace("secret = \"s\"\n", secret);
        let settings = Settings::parse(&text, &environment(variables)).expect("good settings");
        let shown = toml::to_string(&settings).expect("settings print");
        assert!(shown.contains(printed) && !shown.contains("hush"), "{printed} in {shown}");
    }
}

#[test]
fn secret_file_is_read_again_without_line_break() {
    let file = std::env::temp_dir().join(format!("wechat-secret-{}", std::process::id()));
    let source = SecretSource::File { file: file.clone() };
    for secret in ["first", "second"] {
        std::fs::write(&file, format!("{secret}\n")).expect("a file");
        assert_eq!(source.read().expect("readable").expose(), secret);
    }
    std::fs::remove_file(&file).expect("it was there");
    assert!(source.read().is_err());
}

#[test]
fn malformed_toml_names_its_line() {
    assert!(errors("[listen]\ngrpc = ", &[])[0].starts_with("line 2:"));
}

#[test]
fn secret_variable_is_read_without_line_break() {
    let settings = Settings::parse(GOOD, &environment(&[("BRAND_A", "hush\n")])).expect("good");
    assert_eq!(secret_of(&settings.accounts[0]), "hush");
}

#[test]
fn secret_file_without_secret_is_an_error() {
    let wrong = |path: &str| {
        let file = format!("secret = {{ file = \"{path}\" }}");
        errors(&GOOD.replace("secret = \"literal-secret\"", &file), &[("BRAND_A", "hush")])
    };
    for path in [concat!(env!("CARGO_MANIFEST_DIR"), "/src"), "/dev/null", "/there/is/none"] {
        let [error] = &wrong(path)[..] else { panic!("one error: {path}") };
        assert!(error.starts_with(&format!("accounts[1].secret: {path}: ")), "{error}");
    }
}

#[test]
fn host_with_path_or_user_is_an_error() {
    for host in ["a/b", "user@a", ":password@a", "a?b", "a#b"] {
        let file = GOOD.replace("http://127.0.0.1:8090", &format!("https://{host}"));
        let found = errors(&file, &[("BRAND_A", "hush")]);
        assert!(
            found[0].starts_with("wechat.hosts[0]: must have only a scheme"),
            "{host}: {found:#?}"
        );
    }
}

#[test]
fn each_wrong_host_has_its_own_error() {
    let hosts = r#"hosts = ["https://a", "ftp://b", "weixin", "https://A:443/", "https://c"]"#;
    let found = errors(&format!("[wechat]\n{hosts}\n{ACCOUNT}"), &[]);
    let keys: Vec<_> = found.iter().map(|error| error.split(':').next()).collect();
    let expected = [1, 2, 3].map(|index| format!("wechat.hosts[{index}]"));
    assert_eq!(keys, expected.each_ref().map(|key| Some(key.as_str())), "{found:#?}");
    assert!(found[2].ends_with("duplicate host https://A:443/; remove it"), "{found:#?}");
}

#[test]
fn environment_sets_hosts_and_proxy() {
    let environment = environment(&[
        ("BRAND_A", "hush"),
        ("WECHAT_STORE_GATEWAY__WECHAT__HOSTS", r#"["https://a", "https://b"]"#),
        ("WECHAT_STORE_GATEWAY__WECHAT__PROXY", "http://proxy:3128"),
    ]);
    let wechat = Settings::parse(GOOD, &environment).expect("good settings").wechat;
    assert_eq!(wechat.hosts, ["https://a", "https://b"]);
    assert_eq!(wechat.proxy.expect("a proxy").to_string(), "http://proxy:3128");
}

#[test]
fn proxy_password_is_never_shown() {
    let read = |proxy: &str| {
        let file = GOOD.replace("[wechat]", &format!("[wechat]\nproxy = \"{proxy}\""));
        Settings::parse(&file, &environment(&[("BRAND_A", "quiet")]))
    };
    for (proxy, shown) in [
        ("http://10.0.0.1:3128", "http://10.0.0.1:3128"),
        ("https://proxy/", "https://proxy"),
        ("http://me:hush@proxy:3128", "http://[hidden]@proxy:3128"),
        ("http://hush@proxy", "http://[hidden]@proxy"),
    ] {
        let settings = read(proxy).expect(proxy);
        let printed = toml::to_string(&settings).expect("settings print");
        assert!(printed.contains(&format!("proxy = \"{shown}\"")), "{printed}");
        assert!(!printed.contains("hush") && !format!("{settings:?}").contains("hush"));
    }
    for wrong in ["", "proxy:3128", "socks5://me:hush@proxy", "http://me:hush@proxy/a", "http://"] {
        let found = read(wrong).expect_err(wrong);
        assert_eq!(found.len(), 1, "{wrong}");
        assert!(found[0].key == "wechat.proxy" && !found[0].message.contains("hush"), "{wrong}");
    }
}

/// The certificate of an authority, PEM.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut named = rcgen::CertificateParams::default();
    named.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    named.self_signed(&key).expect("a certificate").pem()
}

#[test]
fn ca_file_must_have_only_valid_certificates() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("authorities.pem");
    let name = path.display().to_string();
    let read = |content: &str| {
        std::fs::write(&path, content).expect("a file");
        let variables = [("BRAND_A", "hush"), ("WECHAT_STORE_GATEWAY__WECHAT__CA_FILE", &name)];
        Settings::parse(GOOD, &environment(&variables))
    };
    let (one, other) = (authority(), authority());
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    for (content, count) in [
        (one.clone(), 1),
        (format!("# ours\n{one}\n# theirs\n{other}"), 2),
        (format!("{key}{one}"), 1),
    ] {
        let settings = read(&content).expect("good settings");
        let printed = toml::to_string(&settings).expect("settings print");
        assert!(printed.contains(&format!("ca_file = \"{name}\"")), "{printed}");
        let file = settings.wechat.ca_file.expect("a file");
        assert_eq!(file.read().expect("certificates").len(), count, "{content}");
    }
    let (none, malformed) = ("the file has no certificate", "certificate 1 in it is malformed");
    let lines = "-----BEGIN CERTIFICATE-----\naHVzaA==\n-----END CERTIFICATE-----\n";
    for (content, expected) in [
        ("", none),
        ("hush", none),
        (&key, none),
        (lines, malformed),
        (&one.replace("-----END", "hush"), malformed),
        (&format!("{one}{lines}"), "certificate 2 in it is malformed"),
    ] {
        let found = read(content).expect_err(content);
        let key = "WECHAT_STORE_GATEWAY__WECHAT__CA_FILE";
        assert_eq!((found.len(), found[0].key.as_str()), (1, key), "{content}");
        assert!(found[0].message.starts_with(&format!("{name}: {expected}")), "{}", found[0]);
    }
}

#[test]
fn settings_without_account_are_an_error() {
    assert_eq!(errors("", &[]).len(), 1);
}

#[test]
fn printed_settings_hide_secrets() {
    let environment = environment(&[("BRAND_A", "hush")]);
    let settings = Settings::parse(GOOD, &environment).expect("good settings");
    let printed = toml::to_string(&settings).expect("settings print");
    assert!(printed.contains("[hidden]"), "{printed}");
    for secret in ["hush", "literal-secret"] {
        assert!(!printed.contains(secret), "{printed}");
        assert!(!format!("{settings:?}").contains(secret));
    }
}

#[test]
fn example_file_shows_every_setting_with_its_default() {
    let example = include_str!("../../settings.example.toml");
    let environment = environment(&[("BRAND_A_SECRET", "hush")]);
    let shown = Settings::parse(example, &environment).expect("a good example");
    let plain =
        "[[accounts]]\napp_id = \"wx0123456789abcdef\"\nkind = \"official\"\nsecret = \"s\"";
    let unset = Settings::parse(plain, &environment).expect("good settings");
    let sections = |settings: &Settings| {
        let mut table = Table::try_from(settings).expect("settings are a table");
        table.remove("accounts");
        table
    };
    assert_eq!(sections(&shown), sections(&unset), "the example changes a default");

    let mut keys: Vec<String> = [
        "plaintext",
        "[listen.tls]",
        "[listen.admin_tls]",
        "client_ca",
        "client_certificates",
        "proxy",
        "ca_file",
        "app_id",
        "[[platforms]]",
        "authorization_page",
    ]
    .map(str::to_owned)
    .to_vec();
    for (section, value) in Table::try_from(&unset).expect("settings are a table") {
        keys.push(format!("[{section}]"));
        let table = value.as_table().or_else(|| value.get(0).and_then(Value::as_table));
        // `callers` can be a text.
        keys.extend(table.into_iter().flat_map(|table| table.keys().cloned()));
    }
    for key in keys {
        assert!(example.contains(&key), "{key} is not in settings.example.toml");
    }
}

const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// The good settings with this as the second account's callback.
fn with_callback(callback: &str) -> String {
    format!("{GOOD}\ncallback = {callback}\n")
}

#[test]
fn callback_mode_is_safe_by_default() {
    let file = with_callback(&format!(r#"{{ token = "push-token", aes_key = "{KEY}" }}"#));
    let settings = Settings::parse(&file, &environment(&[("BRAND_A", "hush")])).expect("good");
    assert!(settings.accounts[0].callback.is_none());
    let callback = settings.accounts[1].callback.as_ref().expect("a callback");
    assert_eq!(callback.mode, CallbackMode::Safe);
    let printed = toml::to_string(&settings).expect("settings print");
    for secret in ["push-token", KEY] {
        assert!(!printed.contains(secret) && !format!("{settings:?}").contains(secret));
    }
}

#[test]
fn wrong_callback_returns_errors_with_keys() {
    let wrong = |callback: &str| errors(&with_callback(callback), &[("BRAND_A", "hush")]);
    for (callback, expected) in [
        (r#"{ token = "push-token" }"#.to_owned(), "accounts[1].callback.aes_key: missing"),
        (
            r#"{ token = "push-token", aes_key = "short" }"#.to_owned(),
            "accounts[1].callback.aes_key: not an EncodingAESKey",
        ),
        (format!(r#"{{ aes_key = "{KEY}" }}"#), "accounts[1].callback.token: missing"),
        (r#"{ token = "push-token", mode = "open" }"#.to_owned(), "accounts[1].callback.mode: "),
        (
            r#"{ token = "push-token", mode = "plain", forward_to = [{ url = "ftp://a" }] }"#
                .to_owned(),
            "accounts[1].callback.forward_to[0].url: ",
        ),
    ] {
        let found = wrong(&callback);
        assert!(found.iter().any(|error| error.starts_with(expected)), "{found:#?}");
    }
}

#[test]
fn environment_variables_configure_callback() {
    let account = [("WECHAT_APP_ID", "wx0123456789abcdef"), ("WECHAT_APP_SECRET", "hush")];
    for (more, mode) in [
        (vec![], None),
        (vec![("WECHAT_CALLBACK_TOKEN", "push-token")], Some(CallbackMode::Plain)),
        (
            vec![("WECHAT_CALLBACK_TOKEN", "push-token"), ("WECHAT_CALLBACK_AES_KEY", KEY)],
            Some(CallbackMode::Safe),
        ),
    ] {
        let variables: Vec<_> = account.into_iter().chain(more).collect();
        let settings = Settings::parse("", &environment(&variables)).expect("enough");
        let callback = settings.accounts[0].callback.as_ref();
        assert_eq!(callback.map(|callback| callback.mode), mode);
    }
}

#[test]
fn state_url_hides_its_password() {
    let read = |url: &str| {
        let file = format!("{GOOD}\n[state]\nurl = \"{url}\"\nplain_secrets = true\n");
        Settings::parse(&file, &environment(&[("BRAND_A", "hush")])).map(|settings| settings.state)
    };
    for (url, shown) in [
        ("sqlite:/var/lib/state.db", "sqlite:/var/lib/state.db"),
        ("sqlite:state.db", "sqlite:state.db"),
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("redis://:hush@redis", "redis://[hidden]@redis"),
        ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
    ] {
        assert_eq!(read(url).expect(url).url.to_string(), shown);
    }
    for wrong in ["", "sqlite:", "sqlite:/", "/state.db", "http://redis", "redis:hush"] {
        let found = read(wrong).expect_err(wrong);
        assert_eq!(found.len(), 1, "{wrong}");
        assert!(found[0].key == "state.url" && !found[0].message.contains("hush"), "{wrong}");
    }
}

const STATE_KEY: &str = "c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM=";

/// Returns settings with lines of `[state]`.
fn with_state(lines: &str) -> String {
    format!("{GOOD}\n[state]\n{lines}\n")
}

#[test]
fn state_keys_come_from_every_secret_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    // Programs print base64 with or without padding, and a line break.
    std::fs::write(&path, format!("{}\n", STATE_KEY.trim_end_matches('='))).expect("a file");
    let keys = format!("keys = [{{ env = \"KEY\" }}, {{ file = {path:?} }}, {STATE_KEY:?}]");
    let settings = with_state(&format!("url = \"redis://redis\"\n{keys}"));
    let environment = environment(&[("BRAND_A", "hush"), ("KEY", STATE_KEY)]);
    let settings = Settings::parse(&settings, &environment).expect("good settings");
    let expected = parse_state_key(&STATE_KEY.to_owned().into()).expect("a key");
    assert_eq!(settings.state.keys.len(), 3);
    for source in &settings.state.keys {
        let key = parse_state_key(&source.read().expect("readable")).expect("a key");
        assert_eq!(key, expected);
    }
    assert_eq!(state_key_text(&expected).expose(), STATE_KEY);
    let printed = toml::to_string(&settings).expect("TOML");
    assert!(printed.contains("env = \"KEY\"") && printed.contains("[hidden]"), "{printed}");
    for text in [printed, format!("{settings:?}")] {
        assert!(!text.contains(STATE_KEY.trim_end_matches('=')), "{text}");
    }
}

#[test]
fn wrong_state_key_is_refused_without_quoting_it() {
    for wrong in ["hush", "aHVzaA==", &STATE_KEY[4..], &STATE_KEY.repeat(2)] {
        let found =
            errors(&with_state(&format!("keys = [{STATE_KEY:?}, {wrong:?}]")), &[("BRAND_A", "x")]);
        let [error] = &found[..] else { panic!("one error: {found:?}") };
        assert!(error.starts_with("state.keys[1]: not a key of the state"), "{error}");
        assert!(!error.contains(wrong), "{error}");
    }
}

#[test]
fn redis_needs_keys_or_plain_secrets() {
    let redis = "url = \"redis://redis\"";
    let read = |lines: &str| {
        Settings::parse(&with_state(lines), &environment(&[("BRAND_A", "hush")]))
            .map(|read| read.state)
    };
    for url in [redis, "url = \"redis+unix:///redis\""] {
        let found = read(url).expect_err("no keys");
        let [error] = &found[..] else { panic!("one error: {found:?}") };
        assert_eq!(error.key, "state.keys");
        for remedy in ["wechat-store-gateway state key", "plain_secrets = true"] {
            assert!(error.message.contains(remedy), "{error}");
        }
    }
    let sealed = read(&format!("{redis}\nkeys = [{STATE_KEY:?}]")).expect("enough");
    assert!(!sealed.plain_secrets && sealed.keys.len() == 1);
    let plain = read(&format!("{redis}\nplain_secrets = true")).expect("enough");
    assert!(plain.plain_secrets && plain.keys.is_empty());
    let file = read("").expect("a file has a key of its own");
    assert!(!file.plain_secrets && file.keys.is_empty());
    let (usable, found) =
        Settings::parse_usable(&with_state(redis), &environment(&[("BRAND_A", "hush")]));
    assert_eq!((found.len(), usable.expect("the rest").accounts.len()), (1, 2));
}

#[test]
fn new_state_key_needs_a_restart() {
    let read = |keys: &str| {
        let file = with_state(&format!("keys = [{keys}]"));
        Settings::parse(&file, &environment(&[("BRAND_A", "hush")])).expect("good settings")
    };
    let other = "YW5vdGhlci1zdGF0ZS1rZXktd2l0aC0zMi1ieXRlcyE=";
    let (old, new) = (read(&format!("{STATE_KEY:?}")), read(&format!("{other:?}")));
    let refused = Changes::between(&old, &new).needing_restart();
    assert_eq!(refused.iter().map(|error| &*error.key).collect::<Vec<_>>(), ["state.keys"]);
    assert!(Changes::between(&old, &read(&format!("{STATE_KEY:?}"))).is_empty());
}

#[test]
fn redis_settings_fit_their_url() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("writable");
        path.display().to_string()
    };
    let (password, empty) = (file("password", "hush\n"), file("empty", ""));
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["redis".to_owned()]).expect("a certificate");
    let (ca, key) = (file("ca.pem", &cert.pem()), file("key.pem", &signing_key.serialize_pem()));
    let tls = format!("[state.tls]\nca = \"{ca}\"\ncertificate = \"{ca}\"\nkey = \"{key}\"");
    let sentinel = "sentinel_user = \"gateway\"\nsentinel_password = \"hush\"";
    let parse = |url: &str, more: &str| {
        let file = format!("{ACCOUNT}[state]\nurl = \"{url}\"\nplain_secrets = true\n{more}\n");
        Settings::parse(&file, &environment(&[])).map_err(|errors| {
            let errors = errors.iter().map(ToString::to_string);
            errors.collect::<Vec<_>>().join("; ")
        })
    };
    for (url, more) in [
        ("redis://gateway@redis", format!("password = {{ file = \"{password}\" }}")),
        ("rediss://redis", tls.clone()),
        ("rediss-sentinel://s/n", format!("password = \"hush\"\n{sentinel}\n{tls}")),
    ] {
        let settings = parse(url, &more).expect(url);
        let printed = toml::to_string(&settings).expect("TOML") + &format!("{settings:?}");
        assert!(!printed.contains("hush\n") && !printed.contains("\"hush"), "{printed}");
        assert!(printed.contains("[hidden]") || !more.contains("= \"hush"), "{printed}");
    }
    for (url, more, expected) in [
        ("redis://:hush@redis", "password = \"hush\"".to_owned(), "state.password: state.url has"),
        ("sqlite:a", "password = \"hush\"".to_owned(), "state.password: is only for"),
        ("redis://redis", format!("password = {{ file = \"{empty}\" }}"), "the file is empty"),
        ("redis://redis", sentinel.to_owned(), "state.sentinel_user: is only for"),
        (
            "redis-sentinel://s/n",
            "sentinel_user = \"hush\"".to_owned(),
            "sentinel_password: missing",
        ),
        ("redis://redis", tls.clone(), "state.tls: is only for"),
        (
            "rediss://redis",
            format!("[state.tls]\ncertificate = \"{ca}\""),
            "state.tls.key: missing",
        ),
        (
            "rediss://redis",
            format!("[state.tls]\nkey = \"{key}\""),
            "state.tls.certificate: missing",
        ),
        ("rediss://redis", format!("[state.tls]\nca = \"{key}\""), "no certificate"),
        ("rediss://redis", tls.replace("key.pem", "ca.pem"), "no usable unencrypted private key"),
        ("rediss://redis", tls.replace("ca.pem", "none.pem"), "none.pem: No such file"),
    ] {
        let error = parse(url, &more).map(drop).expect_err(expected);
        assert!(error.contains(expected) && !error.contains("hush"), "{url} {more}: {error}");
    }
}

#[test]
fn invisible_character_is_an_error_with_its_key() {
    let id = "wx0000000000000001";
    for (file, environment, expected) in [
        (
            format!("[[accounts]]\napp_id = \"{id}\u{200b}\"\nkind = \"official\"\nsecret = \"s\""),
            &[][..],
            "accounts[0].app_id: contains an invisible character (U+200B) at position 19",
        ),
        (
            format!("[[accounts]]\napp_id = \"{id}\"\nkind = \"official\"\nsecret = \"\u{feff}s\""),
            &[],
            "accounts[0].secret: contains a byte order mark (U+FEFF) at position 1",
        ),
        (
            format!(
                "[[accounts]]\napp_id = \"{id}\"\nkind = \"official\"\nsecret = {{ env = \"S\" }}"
            ),
            &[("S", "s\u{200d}t")],
            "accounts[0].secret: environment variable S contains an invisible character (U+200D) at position 2",
        ),
        (
            format!(
                "[[accounts]]\napp_id = \"{id}\"\nkind = \"official\"\nsecret = \"s\"\n\
                 [accounts.callback]\ntoken = \"\u{feff}t\"\nmode = \"plain\"\n\
                 forward_to = [{{ url = \"http://a/\u{2060}\" }}]"
            ),
            &[],
            "accounts[0].callback.forward_to[0].url: contains an invisible character (U+2060)",
        ),
        (
            "[wechat]\nhosts = [\"https://api.weixin.qq.com\u{200b}\"]\n".to_owned(),
            &[],
            "wechat.hosts[0]: contains an invisible character (U+200B) at position 26",
        ),
        (
            String::new(),
            &[("WECHAT_STORE_GATEWAY__STATE__URL", "\u{feff}sqlite:state.db")],
            "WECHAT_STORE_GATEWAY__STATE__URL: contains a byte order mark (U+FEFF) at position 1",
        ),
        (
            String::new(),
            &[("WECHAT_APP_ID", "wx00000000000000\u{200b}01"), ("WECHAT_APP_SECRET", "s")],
            "WECHAT_APP_ID: contains an invisible character (U+200B) at position 17",
        ),
        (
            String::new(),
            &[("WECHAT_APP_ID", id), ("WECHAT_APP_SECRET", "\u{feff}s")],
            "accounts[0].secret: environment variable WECHAT_APP_SECRET contains a byte order mark",
        ),
    ] {
        let found = errors(&file, environment);
        assert!(found.iter().any(|error| error.starts_with(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn secret_file_with_invisible_character_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    let source = SecretSource::File { file: path.clone() };
    for (content, wrong) in [
        ("\u{feff}hush\n", Some("byte order mark (U+FEFF) at position 1")),
        ("hush\u{200b}\n", Some("invisible character (U+200B) at position 5")),
        ("hu\nsh\n", Some("line break (U+000A) at position 3")),
        ("hush\r\n", None),
    ] {
        std::fs::write(&path, content).expect("a file");
        let file = format!("secret = {{ file = {path:?} }}");
        let file = GOOD.replace("secret = \"literal-secret\"", &file);
        let read = Settings::parse(&file, &environment(&[("BRAND_A", "hush")]));
        let Some(wrong) = wrong else {
            read.expect("good settings");
            assert_eq!(source.read().expect("readable").expose(), "hush");
            continue;
        };
        let [error] = &read.expect_err("an error")[..] else { panic!("one error") };
        let error = error.to_string();
        let expected = format!("accounts[1].secret: {}: contains ", path.display());
        assert!(error.starts_with(&expected) && error.contains(wrong), "{error}");
        // The file may change while the service runs.
        let error = source.read().expect_err("refused").to_string();
        assert!(error.contains(wrong) && !error.contains("hush"), "{error}");
    }
}

#[test]
fn settings_file_can_begin_with_byte_order_mark() {
    let settings = format!("\u{feff}{GOOD}");
    Settings::parse(&settings, &environment(&[("BRAND_A", "hush")])).expect("good settings");
}

/// Writes the files of a listener, and returns the settings with them.
fn with_tls(folder: &std::path::Path, certificate: &str, key: &str, more: &str) -> String {
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    };
    let (certificate, key) = (write("tls.crt", certificate), write("tls.key", key));
    format!(
        "callers = \"anyone\"\n[listen]\ngrpc = \"0.0.0.0:1\"\ntls = {{ certificate = \"{certificate}\", key = \"{key}\"{more} }}\n\
         {ACCOUNT}"
    )
}

#[test]
fn certificate_files_are_checked_before_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let issue = |year| {
        let mut params = rcgen::CertificateParams::new(["a.internal".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    };
    let (good, key) = issue(2100);
    let (expired, expired_key) = issue(2020);
    let settings =
        |certificate: &str, key: &str, more: &str| with_tls(folder.path(), certificate, key, more);
    let read =
        Settings::parse(&settings(&good, &key, ""), &Environment::new()).expect("good settings");
    assert!(read.listen.tls.is_some_and(|files| files.client_ca.is_none()));
    let demand = |demand| format!(", client_certificates = \"{demand}\"");
    let (none, missing) = (String::new(), ", client_ca = \"/no/such\"".to_owned());
    for (certificate, key, more, expected) in [
        ("", "", &none, &["certificate: the file has no cert", "key: the file has no unenc"][..]),
        (&good, &good, &none, &["key: the file has no unenc"]),
        (&good, &expired_key, &none, &["key: does not belong to the first certificate"]),
        (&expired, &expired_key, &none, &["certificate: the certificate expired at 2020-01-01T"]),
        (&good, &key, &missing, &["client_ca: No such file"]),
        (&good, &key, &demand("optional"), &["client_certificates: needs client_ca"]),
        (&good, &key, &demand("sometimes"), &["client_certificates: unknown variant"]),
    ] {
        let found = errors(&settings(certificate, key, more), &[]);
        let paths = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let without_path = |error: &String| {
            let paths = paths.iter().map(|path| path.display().to_string());
            let paths = paths.chain(["/no/such".to_owned()]);
            paths.fold(error.clone(), |error, path| error.replacen(&format!(": {path}: "), ": ", 1))
        };
        // Without a readable section, the address needs one.
        let found = found.iter().filter(|error| !error.starts_with("listen.grpc"));
        let found = found.map(without_path).collect::<Vec<_>>();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(&format!("listen.tls.{expected}")), "{found} {expected}");
        }
    }
    let contradiction =
        settings(&good, &key, "").replace("[listen]", "[listen]\nplaintext = \"behind-a-mesh\"");
    assert!(errors(&contradiction, &[])[0].starts_with("listen.plaintext: contradicts"));
}

#[test]
fn broken_issuer_returns_exactly_its_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file.display().to_string()
    };
    let (good, bad) = (file("good", "{\"keys\":[]}"), file("bad", "{\"keys\":{}}"));
    let issuer = "issuer = \"https://a\"";
    let audiences = "audiences = [\"gateway\"]";
    let jwks = &format!("jwks = {{ file = {good:?} }}");
    let fine = format!("{issuer}\n{audiences}\n{jwks}");
    let with = |jwks: &str| format!("{issuer}\n{audiences}\njwks = {{ {jwks} }}");
    for (keys, error) in [
        (format!("{audiences}\n{jwks}"), "issuers[0].issuer: missing"),
        (format!("{fine}\n[[issuers]]\n{fine}"), "issuers[1].issuer: duplicate issuer https://a"),
        (format!("{issuer}\n{jwks}"), "issuers[0].audiences: must have at least one"),
        (
            format!("{issuer}\naudiences = [\"a\", \"\"]\n{jwks}"),
            "issuers[0].audiences: must have at least one",
        ),
        (format!("{fine}\nleeway = 9"), "issuers[0].leeway: unknown field"),
        (format!("{issuer}\n{audiences}"), "issuers[0].jwks: must be { file"),
        (with(""), "issuers[0].jwks: must be { file"),
        (with(&format!("file = {good:?}, url = \"https://a\"")), "issuers[0].jwks: must be { file"),
        (with(&format!("file = {good:?}, ca = \"x\"")), "issuers[0].jwks: ca and bearer are only"),
        (with("file = \"/no/such\""), "issuers[0].jwks.file: /no/such: "),
        (with(&format!("file = {bad:?}")), "issuers[0].jwks.file: "),
        (with("url = \"a\""), "issuers[0].jwks.url: must begin with https://"),
        (with("url = \"http://a/jwks\""), "issuers[0].jwks.url: must begin with https://"),
        (with("url = \"https://a:secret@b\""), "issuers[0].jwks.url: has a password in it"),
        (with("url = \"https://a\", ca = \"/no/such\""), "issuers[0].jwks.ca: /no/such: "),
        (
            with("url = \"https://a\", bearer = { env = \"NOT_SET\" }"),
            "issuers[0].jwks.bearer: environment variable NOT_SET is not set",
        ),
    ] {
        let found = errors(&format!("{ACCOUNT}[[issuers]]\n{keys}"), &[]);
        assert!(found.len() == 1 && found[0].starts_with(error), "{found:?} for {keys}");
    }
    let jwt = "jwt = [{ issuer = \"https://b\", subject = \"c\" }]";
    let caller = format!("[[callers]]\nname = \"c\"\nrole = \"reader\"\n{jwt}");
    let found = errors(&format!("{ACCOUNT}{caller}\n[[issuers]]\n{fine}"), &[]);
    assert_eq!(
        found,
        ["callers[0].jwt[0].issuer: unknown issuer https://b; add an [[issuers]] section for it"]
    );
    for keys in [
        fine.clone(),
        with("url = \"https://a/jwks?tenant=b\""),
        with("url = \"http://127.0.0.1:8080/jwks\", bearer = \"hush\""),
    ] {
        let settings =
            Settings::parse(&format!("{ACCOUNT}[[issuers]]\n{keys}"), &Environment::new());
        let settings = settings.unwrap_or_else(|errors| panic!("{errors:?} for {keys}"));
        assert_eq!(settings.issuers[0].audiences, ["gateway"]);
        let shown = toml::to_string(&settings).expect("serializable");
        assert!(!shown.contains("hush") && !shown.contains("tenant"), "{shown}");
    }
}

#[test]
fn activity_log_is_stderr_or_an_absolute_path() {
    let account =
        "[[accounts]]\napp_id = \"wx0123456789abcdef\"\nkind = \"official\"\nsecret = \"s\"";
    let log = |path: &str| {
        let file = format!("{account}\n[activity]\nlog = \"{path}\"");
        Settings::parse(&file, &Environment::new())
    };
    let settings = log("/var/log/activity.jsonl").expect("good settings");
    assert_eq!(settings.activity.log, ActivityTarget::File("/var/log/activity.jsonl".into()));
    assert_eq!(log("stderr").expect("good settings").activity.log, ActivityTarget::Stderr);
    let errors = log("stdout").expect_err("a relative path");
    assert_eq!(errors[0].key, "activity.log");
}

#[test]
fn lost_callers_need_a_restart() {
    let parse = |file: &str| Settings::parse(file, &Environment::new()).expect("good settings");
    let known = parse(&format!("{ACCOUNT}{CALLER}certificates = [\"a\"]"));
    let open = parse(ACCOUNT);
    let needing = Changes::between(&known, &open).needing_restart();
    assert_eq!(needing.iter().map(|error| error.key.as_str()).collect::<Vec<_>>(), ["callers"]);
    assert!(Changes::between(&open, &known).needing_restart().is_empty());
}
