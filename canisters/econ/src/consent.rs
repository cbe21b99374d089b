//! Consent messages of ICRC-21 for the methods that people pay with.

use candid::{Decode, Principal};
use icrc_ledger_types::icrc21::errors::{ErrorInfo, Icrc21Error};
use icrc_ledger_types::icrc21::requests::{
    ConsentMessageMetadata, ConsentMessageRequest, DisplayMessageType,
};
use icrc_ledger_types::icrc21::responses::{ConsentInfo, ConsentMessage, FieldsDisplay, Value};
use shared_types::econ::payment::{ChangeTime, PayArgs};
use shared_types::econ::{ChangeTierArgs, InvoiceArgs, PaymentMethod, SubscribeArgs};

use crate::economy::Economy;

/// Longest argument that is decoded, in bytes: the arguments of these methods are far smaller.
const MAX_ARG_BYTES: usize = 1_000;

/// What is shown: a title, and lines of a name and a value.
struct Text {
    intent: String,
    fields: Vec<(String, String)>,
}

impl Text {
    fn new(intent: impl Into<String>) -> Self {
        Self { intent: intent.into(), fields: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    fn paid_by(self, economy: &Economy, method: &PaymentMethod) -> Self {
        let symbol = economy.ledger(method.ledger).map_or("?", |ledger| ledger.symbol.as_str()).to_owned();
        self.with("Token", format!("{symbol} (ledger {})", method.ledger))
            .with("From", method.from.to_string())
    }
}

fn dollars(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

fn unavailable(reason: impl ToString) -> Icrc21Error {
    Icrc21Error::ConsentMessageUnavailable(ErrorInfo { description: reason.to_string() })
}

/// The message for a call of `caller`.
///
/// # Errors
/// [`Icrc21Error::UnsupportedCanisterCall`] for other methods, [`Icrc21Error::ConsentMessageUnavailable`] for arguments that can't be
/// read or that the method would refuse.
pub fn message(
    economy: &Economy,
    caller: Principal,
    request: &ConsentMessageRequest,
    now_ns: u64,
) -> Result<ConsentInfo, Icrc21Error> {
    if request.arg.len() > MAX_ARG_BYTES {
        return Err(unavailable(format!(
            "the argument has {} bytes, at most {MAX_ARG_BYTES}",
            request.arg.len()
        )));
    }
    let text = text(economy, caller, &request.method, &request.arg, now_ns)?;
    let consent_message = match request.user_preferences.device_spec {
        Some(DisplayMessageType::FieldsDisplay) => ConsentMessage::FieldsDisplayMessage(FieldsDisplay {
            intent: text.intent,
            fields: text.fields.into_iter().map(|(name, content)| (name, Value::Text { content })).collect(),
        }),
        Some(DisplayMessageType::GenericDisplay) | None => {
            let fields = text.fields.iter().map(|(name, value)| format!("\n\n**{name}:**\n{value}"));
            ConsentMessage::GenericDisplayMessage(format!("# {}{}", text.intent, fields.collect::<String>()))
        }
    };
    // The messages are in English, whatever was asked for.
    let metadata = ConsentMessageMetadata {
        language: "en".to_owned(),
        utc_offset_minutes: request.user_preferences.metadata.utc_offset_minutes,
    };
    Ok(ConsentInfo { consent_message, metadata })
}

fn text(
    economy: &Economy,
    caller: Principal,
    method: &str,
    arg: &[u8],
    now_ns: u64,
) -> Result<Text, Icrc21Error> {
    let account = economy.account(caller);
    match method {
        "subscribe" => {
            let args = Decode!(arg, SubscribeArgs).map_err(unavailable)?;
            let terms = economy.terms(&args.tier, now_ns).map_err(unavailable)?;
            let text = Text::new(format!("Subscribe to OHMS {}", terms.tier))
                .with("Price", dollars(terms.price_cents))
                .with("Every", format!("{} days, until you cancel", terms.period_days))
                .with("Tokens", terms.tokens.to_string())
                .with("Agents", format!("{}, {} creations", terms.max_agents, terms.creations));
            Ok(text.paid_by(economy, &args.method))
        }
        "change_tier" => {
            let args = Decode!(arg, ChangeTierArgs).map_err(unavailable)?;
            let terms = economy.terms(&args.tier, now_ns).map_err(unavailable)?;
            let text =
                Text::new(format!("Change to OHMS {}", terms.tier)).with("Price", dollars(terms.price_cents));
            let period = account
                .subscription
                .period
                .as_ref()
                .ok_or_else(|| unavailable("there is no subscription"))?;
            Ok(match args.time {
                ChangeTime::Renewal => text.with("From", "the next period on"),
                ChangeTime::Now if terms.price_cents > period.terms.price_cents => {
                    let cents = period.upgrade(&terms, now_ns).cents;
                    let text = text.with("Now", dollars(cents - cents.min(account.credit_cents)));
                    account
                        .method
                        .as_ref()
                        .map_or_else(|| text_without_method(&terms.tier), |m| text.paid_by(economy, m))
                }
                ChangeTime::Now => text.with("Now", "the difference becomes credit for the next invoices"),
            })
        }
        "pay" => {
            let args = Decode!(arg, PayArgs).map_err(unavailable)?;
            let invoice = economy.invoice(caller, &InvoiceArgs::Id(args.invoice)).map_err(unavailable)?;
            let text = Text::new(format!("Pay invoice {} of OHMS", invoice.id))
                .with("For", format!("{} ({:?})", invoice.terms.tier, invoice.kind))
                .with("Amount", dollars(invoice.total_cents));
            Ok(text.paid_by(economy, args.method.as_ref().unwrap_or(&invoice.method)))
        }
        "set_payment_method" => {
            let method = Decode!(arg, PaymentMethod).map_err(unavailable)?;
            Ok(Text::new("Pay renewals of OHMS from this account").paid_by(economy, &method))
        }
        "cancel" => {
            Ok(Text::new("Cancel OHMS").with("Ends", "with the period that is paid; it is not renewed"))
        }
        "resume" => Ok(Text::new("Take the cancellation of OHMS back").with("Renewal", "as before")),
        _ => Err(Icrc21Error::UnsupportedCanisterCall(ErrorInfo {
            description: format!("`{method}` asks for no consent"),
        })),
    }
}

fn text_without_method(tier: &str) -> Text {
    Text::new(format!("Change to OHMS {tier}")).with("Payment", "no account to pay from is known")
}
