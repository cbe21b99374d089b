//! Requests to the hub: what there is, and the bytes of files, from where an earlier transfer ended.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache;
use crate::output::HintExt;

/// Where the hub is, if `HF_ENDPOINT` does not say otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Times that a transfer is taken up again before it counts as failed, as long as none of them brings a byte.
const ATTEMPTS: u32 = 5;

/// How long a connection may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);

const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// Why the hub gives nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no connection, or it ended.
    #[error("{endpoint} can't be reached")]
    Unreachable {
        /// Where the hub is.
        endpoint: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The hub refuses.
    #[error("the hub says {status}{}", .code.as_ref().map(|code| format!(", {code}")).unwrap_or_default())]
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// Its name for the reason.
        code: Option<String>,
    },
    /// The hub's answer is not what its interface promises.
    #[error("the hub's answer is not valid: {0}")]
    Answer(String),
    /// A file can't be written.
    #[error("`{path}` can't be written")]
    Write {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// This error, with what to do about it; `model` is what was asked for.
    pub(super) fn hinted(self, model: &str) -> anyhow::Error {
        let code = |wanted: &str| matches!(&self, Self::Refused { code: Some(code), .. } if code == wanted);
        let status = match &self {
            Self::Refused { status, .. } => Some(status.as_u16()),
            _ => None,
        };
        let hint = match status {
            _ if code("GatedRepo") => {
                format!("ask for access on the page of {model}, and set HF_TOKEN to a token of that account")
            }
            _ if code("RevisionNotFound") => "check the revision after `@`".to_owned(),
            Some(401) => {
                "check the name; a private or gated model needs a token in HF_TOKEN, or `hf auth login`"
                    .to_owned()
            }
            Some(403) => {
                format!("the token may not read {model}: ask for access on its page, or use another token")
            }
            Some(404) => "check the name and the revision".to_owned(),
            Some(429) => "wait a while; with a token in HF_TOKEN the hub allows more".to_owned(),
            Some(_) => "run the same command again; what is downloaded is kept".to_owned(),
            None => {
                "check the connection and run the same command again; what is downloaded is kept".to_owned()
            }
        };
        match Err::<std::convert::Infallible, _>(self).hint(|| hint) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

/// A file, as the hub describes it.
#[derive(Debug)]
pub(super) struct File {
    /// The name of its blob: a hash.
    pub(super) name: String,
    pub(super) hash: Option<Hash>,
    pub(super) bytes: u64,
    /// Where it is.
    url: String,
}

/// A hash that tells whether a file is the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// Of the file: those in large-file storage.
    Sha256(String),
    /// Of git's blob, with its header: all others.
    Git(String),
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hash) => write!(f, "SHA-256 {hash}"),
            Self::Git(hash) => write!(f, "git's {hash}"),
        }
    }
}

impl Hash {
    /// The hash that an entity tag is, if it is one.
    fn of_tag(tag: &str) -> Option<Self> {
        let hexadecimal = tag.bytes().all(|b| b.is_ascii_hexdigit());
        match tag.len() {
            64 if hexadecimal => Some(Self::Sha256(tag.to_ascii_lowercase())),
            40 if hexadecimal => Some(Self::Git(tag.to_ascii_lowercase())),
            _ => None,
        }
    }

    /// Whether it is that of the file at `path`.
    pub(super) fn matches(&self, path: &Path) -> std::io::Result<bool> {
        let mut file = std::fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        let (mut sha256, mut git) = (Sha256::new(), Sha1::new_with_prefix(format!("blob {bytes}\0")));
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(match self {
                    Self::Sha256(hash) => *hash == hex::encode(sha256.finalize()),
                    Self::Git(hash) => *hash == hex::encode(git.finalize()),
                });
            }
            match self {
                Self::Sha256(_) => sha256.update(&buffer[..read]),
                Self::Git(_) => git.update(&buffer[..read]),
            }
        }
    }
}

/// Talks to the hub.
pub(super) struct Client {
    endpoint: String,
    token: Option<String>,
    http: reqwest::Client,
    /// Follows no redirects: the headers that name a file are those of the first answer.
    direct: reqwest::Client,
}

impl Client {
    /// A client for the hub at `HF_ENDPOINT`, with the token of `HF_TOKEN` or of `hf auth login`.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| ENDPOINT.to_owned());
        let build = || {
            let agent = concat!("novaq/", env!("CARGO_PKG_VERSION"));
            reqwest::Client::builder().user_agent(agent).connect_timeout(SILENCE).read_timeout(SILENCE)
        };
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: cache::token(),
            http: build().build()?,
            direct: build().redirect(redirect::Policy::none()).build()?,
        })
    }

    fn request(&self, client: &reqwest::Client, method: Method, url: &str) -> RequestBuilder {
        let url = if url.starts_with('/') { format!("{}{url}", self.endpoint) } else { url.to_owned() };
        // Elsewhere the token is nobody's business.
        let token = self.token.as_ref().filter(|_| is_within(&url, &self.endpoint));
        let request = client.request(method, &url);
        match token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        Error::Unreachable { endpoint: self.endpoint.clone(), source }
    }

    /// What the hub says at `path`.
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let request = self.request(&self.http, Method::GET, path);
        let response = accepted(request.send().await.map_err(|e| self.unreachable(e))?)?;
        let bytes = response.bytes().await.map_err(|e| self.unreachable(e))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Answer(e.to_string()))
    }

    /// What the file at `path` is.
    pub(super) async fn describe(&self, path: &str) -> Result<File, Error> {
        let mut url = path.to_owned();
        // A repository that was renamed is elsewhere on the hub; other redirects lead to the storage.
        for _ in 0..5 {
            let request = self.request(&self.direct, Method::HEAD, &url);
            let response = request.send().await.map_err(|e| self.unreachable(e))?;
            let location = text(response.headers(), &LOCATION);
            match location {
                Some(location) if response.status().is_redirection() && location.starts_with('/') => {
                    url = location;
                }
                _ => return described(response, url),
            }
        }
        Err(Error::Answer("too many redirects".to_owned()))
    }

    /// Appends to `path` what it lacks of `file`; `arrived` is told the bytes that are there.
    ///
    /// A connection that ends early is opened again, from where it ended.
    pub(super) async fn download(
        &self,
        file: &File,
        path: &Path,
        arrived: impl Fn(u64),
    ) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            let before = length(path);
            let result = self.attempt(file, path, &arrived).await;
            let there = length(path);
            match result {
                Ok(()) if there == file.bytes => return Ok(()),
                Ok(()) if there > file.bytes => {
                    // Not the bytes that were announced; they are of no use.
                    let _ = std::fs::remove_file(path);
                    return Err(Error::Answer(format!("{there} bytes came, {} were announced", file.bytes)));
                }
                Err(error @ (Error::Write { .. } | Error::Answer(_))) => return Err(error),
                Err(Error::Refused { status, code }) if status.is_client_error() => {
                    return Err(Error::Refused { status, code });
                }
                result => {
                    attempts = if there > before { 0 } else { attempts + 1 };
                    if attempts >= ATTEMPTS {
                        let ended = || Error::Answer(format!("{there} of {} bytes came", file.bytes));
                        return Err(result.err().unwrap_or_else(ended));
                    }
                    tracing::info!(there, of = file.bytes, "the connection ended; opening it again");
                    tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(attempts)).await;
                }
            }
        }
    }

    /// The bytes of `file` in `range`, which is within it. They are not checked: the hash is one of the whole file.
    pub(super) async fn part(&self, file: &File, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let asked = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let request = self.request(&self.http, Method::GET, &file.url).header(RANGE, asked);
        let mut response = accepted(request.send().await.map_err(|e| self.unreachable(e))?)?;
        // A storage that knows no ranges gives the file from its first byte.
        let skipped = if response.status() == StatusCode::PARTIAL_CONTENT {
            check_range(&response, range.start)?;
            0
        } else {
            range.start as usize
        };
        let wanted = skipped + (range.end - range.start) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < wanted {
            match response.chunk().await.map_err(|e| self.unreachable(e))? {
                Some(chunk) => bytes.extend(chunk),
                None => return Err(Error::Answer(format!("{} of {wanted} bytes came", bytes.len()))),
            }
        }
        Ok(bytes[skipped..wanted].to_vec())
    }

    /// One connection.
    async fn attempt(&self, file: &File, path: &Path, arrived: &impl Fn(u64)) -> Result<(), Error> {
        let failed = |source| Error::Write { path: path.display().to_string(), source };
        let mut there = length(path);
        if there >= file.bytes {
            // A file of no bytes has to be made.
            return OpenOptions::new().create(true).append(true).open(path).map(|_| ()).map_err(failed);
        }
        let mut request = self.request(&self.http, Method::GET, &file.url);
        if there > 0 {
            request = request.header(RANGE, format!("bytes={there}-"));
        }
        let mut response = accepted(request.send().await.map_err(|e| self.unreachable(e))?)?;
        let mut options = OpenOptions::new();
        if response.status() == StatusCode::PARTIAL_CONTENT {
            check_range(&response, there)?;
            options.append(true);
        } else {
            // All of it comes, whether asked for or not.
            there = 0;
            options.write(true).truncate(true);
        }
        let mut out = options.create(true).open(path).map_err(failed)?;
        arrived(there);
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            out.write_all(&chunk).map_err(failed)?;
            there += chunk.len() as u64;
            arrived(there);
        }
        out.flush().map_err(failed)
    }
}

/// Whether `url` is one of the hub at `endpoint`.
fn is_within(url: &str, endpoint: &str) -> bool {
    url.strip_prefix(endpoint).is_some_and(|rest| rest.starts_with('/'))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Fails if the part of a file that `response` brings does not begin at `first`.
fn check_range(response: &Response, first: u64) -> Result<(), Error> {
    let range = text(response.headers(), &CONTENT_RANGE).unwrap_or_default();
    if range.starts_with(&format!("bytes {first}-")) {
        return Ok(());
    }
    Err(Error::Answer(format!("`{range}` is not the range that was asked for")))
}

/// `response`, if it is no refusal.
fn accepted(response: Response) -> Result<Response, Error> {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return Ok(response);
    }
    Err(Error::Refused { status, code: text(response.headers(), &ERROR_CODE) })
}

/// The file that the headers of `response` describe, asked for at `url`.
fn described(response: Response, url: String) -> Result<File, Error> {
    let response = accepted(response)?;
    let headers = response.headers();
    let tag = text(headers, &LINKED_ETAG).or_else(|| text(headers, &ETAG));
    let tag = tag.ok_or_else(|| Error::Answer(format!("`{url}` has no entity tag")))?;
    let name = tag.trim_start_matches("W/").trim_matches('"').to_owned();
    // It becomes the name of a file.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Error::Answer(format!("`{name}` is no entity tag of the hub")));
    }
    let size = text(headers, &LINKED_SIZE).or_else(|| text(headers, &reqwest::header::CONTENT_LENGTH));
    let bytes = size.and_then(|size| size.parse().ok());
    let bytes = bytes.ok_or_else(|| Error::Answer(format!("`{url}` does not say how long it is")))?;
    Ok(File { hash: Hash::of_tag(&name), name, bytes, url })
}
