//! Making canisters' HTTP requests for a live network.

use super::instance::Instance;
use crate::{
    management::{Outcall, headers_bytes},
    network::Network,
    reject::{Reject, RejectCode},
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use clap::ValueEnum;
use ic_management_canister_types::{HttpHeader, HttpMethod, HttpRequestResult};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::net::lookup_host;

/// How long a server may take to answer, as on the Internet Computer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The `user-agent` of requests whose canister gave none, as on the Internet Computer.
const USER_AGENT: &str = "ic/1.0";

/// Where canisters' requests may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Reach {
    /// Nowhere: every request is rejected.
    None,
    /// To this machine.
    #[default]
    Loopback,
    /// Everywhere.
    Any,
}

/// Finds loopback addresses only.
struct LoopbackResolver;

impl Resolve for LoopbackResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = found.filter(|address| address.ip().is_loopback()).collect();
            if addresses.is_empty() {
                return Err(not_allowed(name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn not_allowed(host: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("`{host}` is not this machine; allow other targets with `--outcalls any`"),
    )
}

/// Sends canisters' requests.
struct Sender {
    client: Client,
    reach: Reach,
}

impl Sender {
    fn new(reach: Reach) -> reqwest::Result<Self> {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .user_agent(USER_AGENT)
            // A server may close an idle connection just when the next request takes it.
            .pool_max_idle_per_host(0)
            // Proxies would take requests to other machines.
            .no_proxy();
        let builder = match reach {
            Reach::None | Reach::Loopback => builder.dns_resolver(Arc::new(LoopbackResolver)),
            Reach::Any => builder,
        };
        Ok(Self { client: builder.build()?, reach })
    }

    /// The answer to a canister's request.
    async fn send(&self, outcall: Outcall) -> Result<HttpRequestResult, Reject> {
        let fatal = |message: String| Reject::system(RejectCode::SysFatal, message);
        let url: Url =
            outcall.url.parse().map_err(|e| fatal(format!("Failed to parse URL `{}`: {e}", outcall.url)))?;
        self.check_target(&url).map_err(|e| fatal(e.to_string()))?;
        let request = self
            .client
            .request(method(outcall.method), url)
            .headers(headers(&outcall.headers).map_err(fatal)?)
            .body(outcall.body.clone());
        let response = request.send().await.map_err(|e| rejected(&e))?;
        receive(response, outcall.response_limit()).await
    }

    /// Names are checked by the resolver, when it is known what they stand for.
    fn check_target(&self, url: &Url) -> io::Result<()> {
        let Some(host) = url.host_str() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{url}` has no host")));
        };
        match self.reach {
            Reach::Any => Ok(()),
            Reach::None => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "this network makes no HTTP outcalls; allow them with `--outcalls loopback` or `--outcalls any`",
            )),
            Reach::Loopback => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(address) if !address.is_loopback() => Err(not_allowed(host)),
                _ => Ok(()),
            },
        }
    }
}

fn method(method: HttpMethod) -> Method {
    match method {
        HttpMethod::GET => Method::GET,
        HttpMethod::HEAD => Method::HEAD,
        HttpMethod::POST => Method::POST,
        HttpMethod::PUT => Method::PUT,
        HttpMethod::DELETE => Method::DELETE,
        HttpMethod::PATCH => Method::PATCH,
    }
}

fn headers(headers: &[HttpHeader]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for HttpHeader { name, value } in headers {
        let parsed =
            HeaderName::try_from(name).map_err(|e| format!("Failed to parse header `{name}`: {e}"))?;
        let value = HeaderValue::try_from(value)
            .map_err(|e| format!("Failed to parse the value of header `{name}`: {e}"))?;
        map.append(parsed, value);
    }
    // The length is that of the body, whatever the canister wrote.
    map.remove(header::CONTENT_LENGTH);
    Ok(map)
}

/// The response, if headers and body together do not exceed `limit` bytes.
async fn receive(mut response: reqwest::Response, limit: u64) -> Result<HttpRequestResult, Reject> {
    let fatal = |message: String| Reject::system(RejectCode::SysFatal, message);
    let mut headers = Vec::new();
    for (name, value) in response.headers() {
        let value = value
            .to_str()
            .map_err(|_| fatal(format!("Failed to parse the value of header `{name}`: not visible ASCII")))?;
        headers.push(HttpHeader { name: name.to_string(), value: value.to_owned() });
    }
    let room = limit
        .checked_sub(headers_bytes(&headers) as u64)
        .ok_or_else(|| fatal(format!("Header size exceeds specified response size limit {limit}")))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| rejected(&e))? {
        if (body.len() + chunk.len()) as u64 > room {
            return Err(fatal(format!("Http body exceeds size limit of {limit} bytes.")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(HttpRequestResult { status: response.status().as_u16().into(), headers, body })
}

fn rejected(error: &reqwest::Error) -> Reject {
    if error.is_timeout() {
        return Reject::system(RejectCode::SysFatal, "Timeout expired");
    }
    let mut causes = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    Reject::system(RejectCode::SysTransient, format!("Failed to connect: {}", causes.join(": ")))
}

/// Makes the requests of `instance`'s canisters while it is live, until the instance is gone.
///
/// # Errors
/// When the HTTP client cannot be set up.
pub fn serve(instance: &Arc<Instance>, reach: Reach) -> reqwest::Result<()> {
    let sender = Arc::new(Sender::new(reach)?);
    let mut outcalls = instance.outcalls();
    // The instance must be able to end while this task waits.
    let instance = Arc::downgrade(instance);
    tokio::spawn(async move {
        let mut sent = 0;
        while outcalls.changed().await.is_ok() {
            let (live, made) = *outcalls.borrow_and_update();
            if !live || made == sent {
                continue;
            }
            let Some(running) = instance.upgrade() else { return };
            let waiting = running.run(move |network: &mut Network| {
                network
                    .outcalls()
                    .filter(|(id, _)| *id >= sent)
                    .map(|(id, o)| (id, o.clone()))
                    .collect::<Vec<_>>()
            });
            let Ok(waiting) = waiting.await else { return };
            sent = made;
            for (id, outcall) in waiting {
                tokio::spawn(answer(instance.clone(), sender.clone(), id, outcall));
            }
        }
    });
    Ok(())
}

async fn answer(instance: Weak<Instance>, sender: Arc<Sender>, id: u64, outcall: Outcall) {
    let answer = sender.send(outcall).await;
    // The outcall may have expired, and the network may be gone: then nobody waits for the answer.
    let Some(instance) = instance.upgrade() else { return };
    let answered = instance.run(move |network| network.answer_outcall(id, vec![answer]).err()).await;
    if let Ok(Some(error)) = answered {
        tracing::debug!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_checked_by_address() {
        let allowed =
            |reach: Reach, url: &str| Sender::new(reach).unwrap().check_target(&url.parse().unwrap()).is_ok();
        for here in ["http://127.0.0.1/", "http://127.9.9.9:80/", "https://[::1]/", "http://0x7f000001/"] {
            assert!(allowed(Reach::Loopback, here), "{here}");
            assert!(!allowed(Reach::None, here), "{here}");
        }
        for elsewhere in [
            "http://192.0.2.1/",
            "http://[2001:db8::1]/",
            "http://3221225985/",
            "http://0.0.0.0/",
            "http://[::]/",
        ] {
            assert!(!allowed(Reach::Loopback, elsewhere), "{elsewhere}");
            assert!(allowed(Reach::Any, elsewhere), "{elsewhere}");
        }
        assert!(!allowed(Reach::Any, "data:text/plain,hello"), "there is no host");
    }

    #[tokio::test]
    async fn names_are_checked_by_what_they_stand_for() {
        let found = LoopbackResolver.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(found.into_iter().all(|address| address.ip().is_loopback()));
        // What a name server could answer.
        let error = LoopbackResolver.resolve("192.0.2.1".parse().unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("`192.0.2.1` is not this machine"), "{error}");
    }
}
