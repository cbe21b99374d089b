//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

use crate::event_log::{EventLogMemories, SegmentMemories};
use crate::settlement::SettlementMemories;

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const SETTINGS: MemoryId = MemoryId::new(0);
const SERVICES: MemoryId = MemoryId::new(1);
// 2 held accounts in a tree, before any release.
const AGENTS: MemoryId = MemoryId::new(3);
const RESERVATIONS: MemoryId = MemoryId::new(4);
const RESERVATION_KEYS: MemoryId = MemoryId::new(5);
const SCHEDULE: MemoryId = MemoryId::new(6);
const INVOICES: MemoryId = MemoryId::new(7);
const INVOICE_KEYS: MemoryId = MemoryId::new(8);
const ACCOUNT_INVOICES: MemoryId = MemoryId::new(9);
const TRANSFERS: MemoryId = MemoryId::new(10);
const USAGE: MemoryId = MemoryId::new(11);
const HOURS: MemoryId = MemoryId::new(12);
const DAYS: MemoryId = MemoryId::new(13);
const EVENTS: [[MemoryId; 2]; 2] =
    [[MemoryId::new(14), MemoryId::new(15)], [MemoryId::new(16), MemoryId::new(17)]];
const EVENT_TURNS: MemoryId = MemoryId::new(18);
const NUMBERS: MemoryId = MemoryId::new(19);
const WALLETS: MemoryId = MemoryId::new(20);
const ESCROWS: MemoryId = MemoryId::new(21);
const WITHDRAWALS: MemoryId = MemoryId::new(22);
const SETTLEMENT_KEYS: MemoryId = MemoryId::new(23);
const SETTLEMENT_AGENDA: MemoryId = MemoryId::new(24);
const SETTLEMENT_TOTALS: MemoryId = MemoryId::new(25);
const SETTLEMENT_LAST: MemoryId = MemoryId::new(26);
const RESERVATION_SCHEDULE: MemoryId = MemoryId::new(27);
const ACCOUNT_PLACES: MemoryId = MemoryId::new(28);
const ACCOUNT_SLOTS: MemoryId = MemoryId::new(29);
const FREE_SLOTS: MemoryId = MemoryId::new(30);
const LARGE_ACCOUNTS: MemoryId = MemoryId::new(31);

/// The memories of the canister.
pub struct Memories {
    /// Governance, limits, tiers, ledgers.
    pub settings: Memory,
    /// Authorised canisters.
    pub services: Memory,
    /// Accounts.
    pub accounts: AccountMemories,
    /// Agents that live, by account.
    pub agents: Memory,
    /// Reservations.
    pub reservations: Memory,
    /// Reservations by key.
    pub reservation_keys: Memory,
    /// What is due when, reservations aside.
    pub schedule: Memory,
    /// Reservations that are due.
    pub reservation_schedule: Memory,
    /// Invoices.
    pub invoices: Memory,
    /// Invoices by key.
    pub invoice_keys: Memory,
    /// Invoices by account.
    pub account_invoices: Memory,
    /// Transfers on ledgers.
    pub transfers: Memory,
    /// Runs, by account.
    pub usage: Memory,
    /// Hourly sums, by account.
    pub hours: Memory,
    /// Daily sums of the hours that are not kept any more.
    pub days: Memory,
    /// The events.
    pub events: EventLogMemories,
    /// The last numbers of invoices and transfers.
    pub numbers: Memory,
    /// Wallets, escrows and withdrawals.
    pub settlement: SettlementMemories,
}

/// The memories of the accounts.
pub struct AccountMemories {
    /// Their slots.
    pub places: Memory,
    /// What is in the slots.
    pub slots: Memory,
    /// Slots that are free.
    pub free: Memory,
    /// Accounts that are too large for a slot.
    pub large: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        Self::divided(&MemoryManager::init(memory))
    }

    /// The parts of a memory that is divided already.
    pub fn divided(manager: &MemoryManager<DefaultMemoryImpl>) -> Self {
        Self {
            settings: manager.get(SETTINGS),
            services: manager.get(SERVICES),
            accounts: AccountMemories {
                places: manager.get(ACCOUNT_PLACES),
                slots: manager.get(ACCOUNT_SLOTS),
                free: manager.get(FREE_SLOTS),
                large: manager.get(LARGE_ACCOUNTS),
            },
            agents: manager.get(AGENTS),
            reservations: manager.get(RESERVATIONS),
            reservation_keys: manager.get(RESERVATION_KEYS),
            schedule: manager.get(SCHEDULE),
            reservation_schedule: manager.get(RESERVATION_SCHEDULE),
            invoices: manager.get(INVOICES),
            invoice_keys: manager.get(INVOICE_KEYS),
            account_invoices: manager.get(ACCOUNT_INVOICES),
            transfers: manager.get(TRANSFERS),
            usage: manager.get(USAGE),
            hours: manager.get(HOURS),
            days: manager.get(DAYS),
            events: EventLogMemories {
                segments: EVENTS.map(|[index, data]| SegmentMemories {
                    index: manager.get(index),
                    data: manager.get(data),
                }),
                turns: manager.get(EVENT_TURNS),
            },
            numbers: manager.get(NUMBERS),
            settlement: SettlementMemories {
                wallets: manager.get(WALLETS),
                escrows: manager.get(ESCROWS),
                withdrawals: manager.get(WITHDRAWALS),
                keys: manager.get(SETTLEMENT_KEYS),
                agenda: manager.get(SETTLEMENT_AGENDA),
                totals: manager.get(SETTLEMENT_TOTALS),
                last: manager.get(SETTLEMENT_LAST),
            },
        }
    }
}
