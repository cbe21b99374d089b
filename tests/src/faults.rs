//! Faults on demand in a network: the client of `local-net`'s interface for them.

use local_net::network::faults::{FaultPlan, FaultTrace};
use pocket_ic::PocketIc;
use reqwest::{Method, StatusCode};
use tokio::runtime::Runtime;

/// The interface of a `local-net` for faults in one of its instances.
#[derive(Debug)]
pub struct Faults {
    runtime: Runtime,
    client: reqwest::Client,
    url: String,
}

impl Faults {
    /// The faults of `pic`; `None` when its server has none, as PocketIC.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn of(pic: &PocketIc) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = format!("{}instances/{}/faults", pic.get_server_url(), pic.instance_id());
        let faults = Self { runtime, client: reqwest::Client::new(), url };
        let (status, _) =
            faults.send(Method::POST, serde_json::to_string(&FaultPlan::default()).expect("JSON"));
        status.is_success().then_some(faults)
    }

    /// Begins to follow `plan`.
    ///
    /// # Panics
    /// When the plan makes no sense.
    pub fn set(&self, plan: &FaultPlan) {
        let (status, text) = self.send(Method::POST, serde_json::to_string(plan).expect("JSON"));
        assert!(status.is_success(), "{status}: {text}");
    }

    /// Ends the plan; what happened.
    ///
    /// # Panics
    /// When there is none.
    pub fn clear(&self) -> FaultTrace {
        let (status, text) = self.send(Method::DELETE, String::new());
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).expect("a trace")
    }

    /// What happened so far; `None` without a plan.
    pub fn trace(&self) -> Option<FaultTrace> {
        let (status, text) = self.send(Method::GET, String::new());
        status.is_success().then(|| serde_json::from_str(&text).expect("a trace"))
    }

    fn send(&self, method: Method, body: String) -> (StatusCode, String) {
        let request = self.client.request(method, &self.url).header("content-type", "application/json");
        self.runtime.block_on(async {
            let response = request.body(body).send().await.expect("the server answers");
            (response.status(), response.text().await.expect("text"))
        })
    }
}

impl Drop for Faults {
    /// Says what had happened when a test failed.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(trace) = self.trace()
        {
            eprintln!("{trace}");
        }
    }
}
