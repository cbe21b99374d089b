//! Responses and their certification (version 2), made by ic-asset-certification from what is published.

use std::collections::BTreeMap;

use ic_asset_certification::{Asset, AssetConfig, AssetEncoding, AssetFallbackConfig, AssetMap, AssetRouter};
use ic_http_certification::{HttpRequest, Method, StatusCode};
use shared_types::Digest;
use shared_types::ui::{
    ASSETS_PATH, ContentEncoding, HttpGatewayRequest, HttpGatewayResponse, INDEX_PATH, NOT_FOUND_PATH,
    SiteConfig, SiteFile, SiteVariable,
};

use crate::rules::extension;

/// Shown at every path before anything is published.
const EMPTY_PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>OHMS</title>\
    <p>Nothing is published here yet.</p>";

/// How long browsers may keep a file whose name changes with its content: a year, in seconds.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// What pages know of the network.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The network's root key, DER.
    pub root_key: Vec<u8>,
    /// Variables, those of the canister's settings included.
    pub variables: Vec<SiteVariable>,
    /// Origins that pages may connect to besides their own.
    pub connect_origins: Vec<String>,
}

impl Environment {
    /// `settings` are the variables of the canister's settings; those of `config` go before them.
    pub fn new(root_key: Vec<u8>, settings: Vec<SiteVariable>, config: &SiteConfig) -> Self {
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        for variable in settings.into_iter().chain(config.variables.clone()) {
            variables.insert(variable.name, variable.value);
        }
        let variables = variables.into_iter().map(|(name, value)| SiteVariable { name, value }).collect();
        Self { root_key, variables, connect_origins: config.connect_origins.clone() }
    }

    /// The cookie that `@icp-sdk/core/agent/canister-env` reads.
    fn cookie(&self) -> String {
        let mut value = "ic_root_key=".to_owned();
        value.push_str(&hex::encode(&self.root_key));
        for SiteVariable { name, value: text } in &self.variables {
            value.extend(["&", name, "=", text]);
        }
        format!("ic_env={}; Path=/; SameSite=Lax", percent_encode(&value))
    }

    /// The Content-Security-Policy: everything from this origin, nothing inline.
    fn content_security_policy(&self) -> String {
        let connect: String = self.connect_origins.iter().flat_map(|origin| [" ", origin.as_str()]).collect();
        format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
             connect-src 'self'{connect}; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        )
    }
}

/// Percent-encoding of everything but unreserved characters (RFC 3986, section 2.3).
fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

/// The certified responses: a cache of what is published.
pub struct Responses(AssetRouter<'static>);

impl Responses {
    /// Certifies `files`, whose bytes are in `contents`.
    ///
    /// # Panics
    /// When a content is missing, which a publication excludes.
    pub fn certify(
        files: &[SiteFile],
        contents: &BTreeMap<Digest, Vec<u8>>,
        environment: &Environment,
    ) -> Self {
        let mut router = AssetRouter::new();
        let (mut assets, mut configs, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            for variant in &file.variants {
                let path = format!("{}{}", file.path, extension(variant.encoding));
                let bytes = contents.get(&variant.sha256).expect("what is published is complete").clone();
                assets.push(Asset::new(path.clone(), bytes));
                if variant.encoding != ContentEncoding::Identity {
                    hidden.push(path);
                }
            }
            configs.push(config_of(file, environment));
        }
        if files.is_empty() {
            assets.push(Asset::new(INDEX_PATH, EMPTY_PAGE.as_bytes()));
            let page = SiteFile {
                path: INDEX_PATH.to_owned(),
                content_type: "text/html; charset=utf-8".to_owned(),
                immutable: false,
                variants: Vec::new(),
            };
            configs.push(config_of(&page, environment));
        }
        // Paths and types were checked when the batch began; the library refuses nothing else.
        router.certify_assets(assets, configs).expect("checked files can be certified");
        // The library takes variants for files of their own, too.
        router.delete_assets_by_path(hidden.iter().map(String::as_str));
        Self(router)
    }

    /// What the canister certifies.
    pub fn root_hash(&self) -> [u8; 32] {
        self.0.root_hash()
    }

    /// The response to a request, with its certificate.
    pub fn respond(&self, certificate: &[u8], request: &HttpGatewayRequest) -> HttpGatewayResponse {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return plain(405, "This canister answers GET and HEAD.");
        }
        let headers = request.headers.iter().filter(|(name, value)| {
            // A range that is no chunk of the library's may be ignored (RFC 9110, section 14.2).
            !name.eq_ignore_ascii_case("range") || self.has_chunk(&request.url, value)
        });
        let request = HttpRequest::builder()
            .with_method(Method::GET)
            .with_url(request.url.clone())
            .with_headers(headers.cloned().collect())
            .build();
        match self.0.serve_asset(certificate, &request) {
            Ok(response) => HttpGatewayResponse {
                status_code: response.status_code().as_u16(),
                headers: response.headers().to_vec(),
                body: response.body().to_vec().into(),
            },
            Err(error) => plain(400, &error.to_string()),
        }
    }

    /// Whether `range` is what the library has certified a part of a large file for, the first part excepted.
    fn has_chunk(&self, url: &str, range: &str) -> bool {
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let begin = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        let begin = begin.filter(|digits| !digits.starts_with('0')).and_then(|digits| digits.parse().ok());
        begin.is_some_and(|begin| self.0.get_assets().get(path, None, Some(begin)).is_some())
    }
}

fn plain(status_code: u16, text: &str) -> HttpGatewayResponse {
    let headers = vec![("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())];
    HttpGatewayResponse { status_code, headers, body: text.as_bytes().to_vec().into() }
}

fn config_of(file: &SiteFile, environment: &Environment) -> AssetConfig {
    let is_page = file.content_type.starts_with("text/html");
    let cache = if file.immutable { IMMUTABLE } else { "no-cache" };
    let mut headers = vec![
        ("cache-control", cache.to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("referrer-policy", "same-origin".to_owned()),
        ("cross-origin-resource-policy", "same-origin".to_owned()),
        ("strict-transport-security", "max-age=31536000; includeSubDomains".to_owned()),
        // A worker is bound by the policy of its own script.
        ("content-security-policy", environment.content_security_policy()),
    ];
    if is_page {
        headers.extend([
            ("x-frame-options", "DENY".to_owned()),
            (
                "permissions-policy",
                "camera=(), microphone=(), geolocation=(), payment=(), usb=(), bluetooth=()".to_owned(),
            ),
            ("set-cookie", environment.cookie()),
        ]);
    }
    if file.path == INDEX_PATH {
        // Windows of identity providers and wallets answer the page that opened them; such pages themselves, which
        // may be here under other names, need their opener.
        headers.push(("cross-origin-opener-policy", "same-origin-allow-popups".to_owned()));
    }
    let fallback =
        |scope: &str, status| AssetFallbackConfig { scope: scope.to_owned(), status_code: Some(status) };
    let encodings = file.variants.iter().filter_map(|variant| match variant.encoding {
        ContentEncoding::Identity => None,
        ContentEncoding::Gzip => Some(AssetEncoding::Gzip.default_config()),
        ContentEncoding::Brotli => Some(AssetEncoding::Brotli.default_config()),
    });
    AssetConfig::File {
        path: file.path.clone(),
        content_type: Some(file.content_type.clone()),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        fallback_for: match file.path.as_str() {
            INDEX_PATH => vec![fallback("/", StatusCode::OK)],
            NOT_FOUND_PATH => vec![fallback(ASSETS_PATH, StatusCode::NOT_FOUND)],
            _ => Vec::new(),
        },
        aliased_by: if file.path == INDEX_PATH { vec!["/".to_owned()] } else { Vec::new() },
        encodings: encodings.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_asset_certification::ASSET_CHUNK_SIZE;
    use shared_types::ui::FileVariant;

    fn file(path: &str, content_type: &str, variants: &[(ContentEncoding, &[u8])]) -> SiteFile {
        SiteFile {
            path: path.to_owned(),
            content_type: content_type.to_owned(),
            immutable: path.starts_with(ASSETS_PATH),
            variants: variants
                .iter()
                .map(|(encoding, bytes)| FileVariant {
                    encoding: *encoding,
                    sha256: Digest::of(bytes),
                    bytes: bytes.len() as u64,
                })
                .collect(),
        }
    }

    fn responses() -> Responses {
        use ContentEncoding::{Brotli, Gzip, Identity};
        let large = vec![7; 2 * ASSET_CHUNK_SIZE + 5];
        let files = [
            file("/404.html", "text/html", &[(Identity, b"not here")]),
            file("/assets/a.js", "text/javascript", &[(Identity, b"1"), (Gzip, b"gz"), (Brotli, b"br")]),
            file("/assets/large.bin", "application/octet-stream", &[(Identity, &large)]),
            file("/index.html", "text/html; charset=utf-8", &[(Identity, b"page"), (Gzip, b"page.gz")]),
        ];
        let bytes: [&[u8]; 7] = [b"not here", b"1", b"gz", b"br", b"page", b"page.gz", &large];
        let contents = bytes.iter().map(|bytes| (Digest::of(bytes), bytes.to_vec())).collect();
        let config = SiteConfig {
            variables: vec![SiteVariable {
                name: "PUBLIC_CANISTER_ID:model".into(),
                value: "aaaaa-aa".into(),
            }],
            connect_origins: vec!["http://localhost:4943".into()],
        };
        let settings = ["PUBLIC_CANISTER_ID:model", "PUBLIC_B"]
            .map(|name| SiteVariable { name: name.into(), value: "settings".into() });
        Responses::certify(&files, &contents, &Environment::new(vec![0xab, 1], settings.into(), &config))
    }

    fn get(responses: &Responses, url: &str, headers: &[(&str, &str)]) -> HttpGatewayResponse {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = HttpGatewayRequest {
            method: "GET".into(),
            url: url.into(),
            headers,
            body: Vec::new().into(),
            certificate_version: Some(2),
        };
        responses.respond(b"certificate", &request)
    }

    fn header<'a>(response: &'a HttpGatewayResponse, name: &str) -> Option<&'a str> {
        let found = response.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn pages_files_and_variants_are_served() {
        let responses = responses();
        for (url, accepted, status, body) in [
            ("/", "", 200, "page"),
            ("/index.html?a=b", "gzip", 200, "page.gz"),
            ("/agents/some-agent", "", 200, "page"),
            ("/agents/some-agent", "gzip, br", 200, "page.gz"),
            ("/assets/a.js", "gzip, deflate, br", 200, "br"),
            ("/assets/a.js", "gzip", 200, "gz"),
            ("/assets/a.js", "", 200, "1"),
            ("/assets/old.js", "gzip, br", 404, "not here"),
            ("/assets/a.js.br", "", 404, "not here"),
        ] {
            let response = get(&responses, url, &[("Accept-Encoding", accepted)]);
            assert_eq!((response.status_code, response.body.as_slice()), (status, body.as_bytes()), "{url}");
            assert!(header(&response, "ic-certificate").is_some_and(|value| value.contains("version=2")));
            assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"));
        }
        assert_eq!(header(&get(&responses, "/assets/a.js", &[]), "cache-control"), Some(IMMUTABLE));
        assert_eq!(header(&get(&responses, "/", &[]), "cache-control"), Some("no-cache"));
    }

    #[test]
    fn pages_know_the_network_and_have_a_policy() {
        let responses = responses();
        let page = get(&responses, "/any/where", &[]);
        let cookie = "ic_env=ic_root_key%3Dab01%26PUBLIC_B%3Dsettings%26PUBLIC_CANISTER_ID%3Amodel%3Daaaaa-aa; Path=/; \
                      SameSite=Lax";
        assert_eq!(header(&page, "set-cookie"), Some(cookie));
        let policy = header(&page, "content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'; script-src 'self';"));
        assert!(policy.contains("connect-src 'self' http://localhost:4943;"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(header(&get(&responses, "/assets/a.js", &[]), "set-cookie"), None);
    }

    #[test]
    fn ranges_are_chunks_or_ignored() {
        let responses = responses();
        let part = |range: &str| get(&responses, "/assets/large.bin", &[("Range", range)]);
        let last = part(&format!("bytes={}-", 2 * ASSET_CHUNK_SIZE));
        assert_eq!((last.status_code, last.body.len()), (206, 5));
        for range in ["bytes=0-", "bytes=1-5", "bytes=-3", "bytes=99999999999-", "pages=1"] {
            let response = part(range);
            assert_eq!((response.status_code, response.body.len()), (206, ASSET_CHUNK_SIZE), "{range}");
        }
        let small = get(&responses, "/assets/a.js", &[("range", "bytes=0-")]);
        assert_eq!((small.status_code, small.body.as_slice()), (200, b"1".as_slice()));
    }

    #[test]
    fn before_the_first_publication_a_page_says_so() {
        let responses = Responses::certify(&[], &BTreeMap::new(), &Environment::default());
        assert_eq!(get(&responses, "/agents", &[]).body, EMPTY_PAGE.as_bytes());
    }
}
