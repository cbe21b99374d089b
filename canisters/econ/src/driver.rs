//! Working on invoices and transfers: steps are decided on by [`crate::charges`] and performed by [`crate::platform`].

use ic_cdk::api::time;
use shared_types::econ::EconError;
use shared_types::econ::payment::InvoiceId;

use crate::charges::Work;
use crate::economy::Task;
use crate::events::TransferId;
use crate::platform;
use crate::state::{self, Turn};
use crate::transfers::{Answer, Next};

/// Steps of a transfer that one call or timer performs; the timer goes on with the rest.
const MAX_STEPS: u32 = 20;

fn turn(task: Task) -> Result<Option<Turn>, EconError> {
    let most = state::read(|economy| economy.settings().config.max_concurrent);
    Turn::take(task, most)
}

/// Collects an invoice as far as it goes now. Should somebody be at it, nothing is done.
///
/// # Errors
/// [`EconError::Busy`].
pub async fn collect(invoice: InvoiceId) -> Result<(), EconError> {
    let Some(_turn) = turn(Task::Invoice(invoice))? else { return Ok(()) };
    loop {
        match state::mutate(|economy| economy.collect(invoice, time())) {
            Work::Nothing => return Ok(()),
            Work::Transfer(transfer) => return drive(transfer).await,
            Work::Rate(symbol) => {
                let rate = platform::rate(&symbol).await;
                state::mutate(|economy| economy.price(invoice, rate.map(Some), time()));
            }
        }
    }
}

/// Performs the steps of a transfer that are due. Should somebody be at it, nothing is done.
///
/// # Errors
/// [`EconError::Busy`].
pub async fn drive(transfer: TransferId) -> Result<(), EconError> {
    let Some(_turn) = turn(Task::Transfer(transfer))? else { return Ok(()) };
    for _ in 0..MAX_STEPS {
        match state::read(|economy| economy.next_step(transfer, time())) {
            Some(Next::NoteLoss) => {
                // The turn is ours, so no call is under way: the message that took its answer has trapped.
                let lost = Answer::Lost("the answer was lost".to_owned());
                state::mutate(|economy| economy.answer_step(transfer, lost, time()));
            }
            Some(Next::Step(step)) => {
                state::mutate(|economy| economy.begin_step(transfer, step, time()));
                let Some(stored) = state::read(|economy| economy.stored_transfer(transfer)) else { break };
                let stored = stored.transfer;
                let answer = platform::perform(step, &stored.order, stored.created_at_ns).await;
                state::mutate(|economy| economy.answer_step(transfer, answer, time()));
            }
            _ => break,
        }
    }
    Ok(())
}
